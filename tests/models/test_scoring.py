from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from feature_eng.arrow_columns import plan_columns
from feature_eng.cluster import connect
from feature_eng.logs import Log, open_log
from models.blending import blend
from models.prediction import load_predictor
from models.scoring import Scoring, score_log
from tests.conftest import Shop

NAMES = ("click", "purchase", "revenue")


def scoring(shop: Shop, **changes: Any) -> Scoring:
    given: dict[str, Any] = {"weights": (0.5, 2.0, 0.1), "kind": "linear"} | changes
    return Scoring(shop.bundle.plan, shop.bundle.ranker, NAMES, **given)


def small(shop: Shop, tmp_path: Path, rows: int = 60) -> Log:
    pq.write_table(pq.read_table(shop.test).slice(0, rows), tmp_path / "log.parquet", row_group_size=20)
    return open_log(tmp_path / "log.parquet", shop.bundle.schema, labels=False, piece_bytes=4_000)


@pytest.mark.parametrize("kind", ["linear", "geometric"])
def test_every_row_keeps_its_keys_and_gains_predictions_and_their_blend(shop: Shop, tmp_path: Path, kind: str) -> None:
    log = small(shop, tmp_path)
    assert len(log.pieces) > 1
    done: list[int] = []
    assert score_log(log, scoring(shop, kind=kind), tmp_path / "out", identity="a", advance=done.append) == 60
    scored, rows = pq.read_table(tmp_path / "out"), pq.read_table(tmp_path / "log.parquet")
    assert sum(done) == 60
    assert scored.column_names == [
        "request_id", "user_id", "item_id", "timestamp", "predicted_click", "predicted_purchase", "predicted_revenue",
        "score",
    ]  # fmt: skip
    for key in ("request_id", "user_id", "item_id", "timestamp"):
        assert scored.column(key).to_pylist() == rows.column(key).to_pylist()
    predictor = load_predictor(shop.bundle.plan, shop.bundle.ranker)
    expected = predictor.predict(plan_columns(rows, shop.bundle.schema.inputs), 60)
    found = np.stack([scored.column(f"predicted_{name}").to_numpy() for name in NAMES], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    weights = np.array([0.5, 2.0, 0.1], np.float32)
    np.testing.assert_allclose(scored.column("score").to_numpy(), blend(expected, weights, kind), rtol=1e-5)  # type: ignore[arg-type]


def test_a_finished_part_is_not_computed_again_and_a_half_written_one_is(shop: Shop, tmp_path: Path) -> None:
    log = small(shop, tmp_path)
    score_log(log, scoring(shop), tmp_path / "whole", identity="a")
    score_log(log, scoring(shop), tmp_path / "out", identity="a")
    (tmp_path / "out").rename(tmp_path / "out.partial")
    first, second = sorted((tmp_path / "out.partial").glob("part-*.parquet"))[:2]
    before = first.stat().st_mtime_ns
    half = second.read_bytes()[:100]
    second.with_name(f".{second.name}.partial").write_bytes(half)
    second.unlink()
    assert score_log(log, scoring(shop), tmp_path / "out", identity="a") == 60
    assert (tmp_path / "out" / first.name).stat().st_mtime_ns == before
    assert {p.name for p in (tmp_path / "out").iterdir()} == {p.name for p in (tmp_path / "whole").iterdir()}
    assert pq.read_table(tmp_path / "out").equals(pq.read_table(tmp_path / "whole"))


def test_a_folder_that_was_claimed_by_no_job_is_started_anew(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "part-00000.parquet").write_bytes(b"half")
    assert score_log(small(shop, tmp_path), scoring(shop), tmp_path / "out", identity="a") == 60
    assert pq.read_table(tmp_path / "out").num_rows == 60


@pytest.mark.parametrize(
    ("changes", "identity", "other"),
    [
        ({"weights": (1.0, 0.0, 0.0)}, "a", "weights"),
        ({"kind": "geometric"}, "a", "kind"),
        ({}, "b", "bundle"),
        ({"weights": (1.0, 0.0, 0.0), "kind": "geometric"}, "b", "bundle, weights, kind"),
    ],
)
def test_another_job_does_not_take_up_a_started_one(
    shop: Shop, tmp_path: Path, changes: dict[str, Any], identity: str, other: str
) -> None:
    log = small(shop, tmp_path)
    score_log(log, scoring(shop), tmp_path / "out", identity="a")
    (tmp_path / "out").rename(tmp_path / "out.partial")
    with pytest.raises(FileExistsError, match=f"must be of the same job to be resumed; got other {other}: remove it"):
        score_log(log, scoring(shop, **changes), tmp_path / "out", identity=identity)


def test_a_log_that_changed_is_another_job(shop: Shop, tmp_path: Path) -> None:
    score_log(small(shop, tmp_path), scoring(shop), tmp_path / "out", identity="a")
    (tmp_path / "out").rename(tmp_path / "out.partial")
    with pytest.raises(FileExistsError, match="got other files"):
        score_log(small(shop, tmp_path, rows=59), scoring(shop), tmp_path / "out", identity="a")


def test_an_existing_result_is_not_overwritten(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="out must not exist yet; got"):
        score_log(small(shop, tmp_path), scoring(shop), tmp_path / "out", identity="a")


def test_workers_score_as_one_process_does(shop: Shop, tmp_path: Path) -> None:
    log = small(shop, tmp_path)
    score_log(log, scoring(shop), tmp_path / "none", identity="a")
    for workers in (1, 2):
        with connect(workers=workers):
            assert score_log(log, scoring(shop), tmp_path / str(workers), identity="a") == 60
    none, one, two = (pq.read_table(tmp_path / name) for name in ("none", "1", "2"))
    assert two.equals(one)
    assert none.column_names == two.column_names
    for name in two.column_names:  # torch's last bits depend on how many threads a process gives it
        np.testing.assert_allclose(none[name].to_numpy(), two[name].to_numpy(), rtol=1e-6)
