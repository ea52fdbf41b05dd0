from pathlib import Path

import pytest

from benchmarks.scoring import STAGES, measure
from feature_eng.simulator import simulate
from tests.conftest import Shop


def test_a_job_is_held_against_its_stages_and_the_bare_ranker(shop: Shop, tmp_path: Path) -> None:
    simulate(tmp_path / "log", rows=3000, seed=1)
    job, *stages = measure(shop.bundle, tmp_path / "log", tmp_path)
    assert [stage["part"] for stage in stages] == list(STAGES)
    assert sum(stage["share"] for stage in stages) == pytest.approx(1)
    assert job["of_bare_ranker"] == pytest.approx(job["rows_per_s"] / stages[2]["rows_per_s"])
    assert {result["rows"] for result in (job, *stages)} == {3000}
