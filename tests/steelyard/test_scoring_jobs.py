import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steelyard.bundle import Bundle, open_bundle, write_manifest
from steelyard.scoring_jobs import score_with_bundle
from tests.conftest import Shop

NAMES = ("click", "purchase", "revenue")


@pytest.fixture
def log(shop: Shop, tmp_path: Path) -> Path:
    pq.write_table(pq.read_table(shop.test).slice(0, 40), tmp_path / "log.parquet")
    return tmp_path / "log.parquet"


def scores(bundle: Bundle, log: Path, out: Path, weights: dict[str, float] | None = None) -> pa.Table:
    assert score_with_bundle(bundle, log, out, weights)[0] == pq.read_metadata(log).num_rows
    return pq.read_table(out)


def blended(table: pa.Table, weights: tuple[float, ...]) -> np.ndarray:
    return sum(w * table.column(f"predicted_{name}").to_numpy() for w, name in zip(weights, NAMES, strict=True))


def test_the_schema_s_weights_count_where_none_are_given(shop: Shop, log: Path, tmp_path: Path) -> None:
    table = scores(shop.bundle, log, tmp_path / "out")
    np.testing.assert_allclose(table.column("score").to_numpy(), blended(table, (0.2, 1.0, 0.05)), rtol=1e-5)


def test_an_objective_that_is_not_named_weighs_nothing(shop: Shop, log: Path, tmp_path: Path) -> None:
    table = scores(shop.bundle, log, tmp_path / "out", {"revenue": 3.0})
    np.testing.assert_allclose(table.column("score").to_numpy(), blended(table, (0, 0, 3.0)), rtol=1e-5)


def test_a_log_needs_neither_labels_nor_a_request(shop: Shop, log: Path, tmp_path: Path) -> None:
    expected = scores(shop.bundle, log, tmp_path / "with")
    table = pq.read_table(log)
    labels = ["click", "purchase", "order_value", "true_click", "true_purchase", "true_revenue", "request_id"]
    pq.write_table(table.drop_columns(labels), log)
    found = scores(shop.bundle, log, tmp_path / "without")
    assert found.equals(expected.drop_columns(["request_id"]))


def test_a_job_is_of_its_plan_as_well_as_of_its_ranker(shop: Shop, log: Path, tmp_path: Path) -> None:
    score_with_bundle(shop.bundle, log, tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "out.partial")
    other = copied(shop, tmp_path / "other")
    with pytest.raises(FileExistsError, match="got other bundle: remove it first"):
        score_with_bundle(other, log, tmp_path / "out")


def copied(shop: Shop, folder: Path) -> Bundle:
    """Return a bundle with the same ranker, and a plan whose file differs."""
    for part in shop.bundle.folder.rglob("*"):
        if part.is_file():
            target = folder / part.relative_to(shop.bundle.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(part.read_bytes())
    plan = folder / "plan" / "plan.json"
    plan.write_text(json.dumps(json.loads(plan.read_text())))
    write_manifest(folder, shop.bundle.schema)
    return open_bundle(folder)


def test_a_log_without_rows_is_refused_before_anything_is_written(shop: Shop, log: Path, tmp_path: Path) -> None:
    pq.write_table(pq.read_table(log).slice(0, 0), log)
    with pytest.raises(ValueError, match="log must have at least one row; got none"):
        score_with_bundle(shop.bundle, log, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
