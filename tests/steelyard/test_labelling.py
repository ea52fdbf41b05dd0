from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.labelling import label_entropy
from steelyard import labelling
from steelyard.evaluating import judge_log
from steelyard.labelling import suggest_rows, write_suggestions
from tests.conftest import Shop


def test_the_rows_that_the_ranker_is_least_sure_of_are_suggested(shop: Shop) -> None:
    found = suggest_rows(shop.bundle, str(shop.test), 50)
    judged = judge_log(shop.bundle, str(shop.test))
    kinds = [objective.kind for objective in shop.bundle.schema.objectives]
    entropies = label_entropy(judged.predictions, kinds, shop.bundle.schema.parents)
    np.testing.assert_allclose(found["label_entropy"], np.sort(entropies)[::-1][:50], rtol=1e-5)
    log = pa.concat_tables(pq.read_table(part) for part in sorted(shop.test.glob("*.parquet")))
    rows = log.take(found["row"])
    for key in ("request_id", "user_id", "item_id"):
        assert rows[key].to_pylist() == found[key].to_pylist()


def test_a_log_of_fewer_rows_is_suggested_whole(shop: Shop) -> None:
    found = suggest_rows(shop.bundle, str(shop.test), 10**6)
    assert sorted(found["row"].to_pylist()) == list(range(3_000))


def test_suggestions_are_written_as_parquet_or_csv(shop: Shop, tmp_path: Path) -> None:
    table = pa.table({"row": [3, 1], "label_entropy": [0.5, 0.25]})
    write_suggestions(table, tmp_path / "rows.parquet")
    assert pq.read_table(tmp_path / "rows.parquet").equals(table)
    write_suggestions(table, tmp_path / "new" / "rows.csv")
    assert (tmp_path / "new" / "rows.csv").read_text() == '"row","label_entropy"\n3,0.5\n1,0.25\n'
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"rows.csv"}


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    table = pa.table({"row": [1], "tags": [[4, 5]]})
    with pytest.raises(
        ValueError, match=r"out must end in \.parquet where the log has lists \(tags\); got .*rows\.csv"
    ):
        write_suggestions(table, tmp_path / "rows.csv")
    with pytest.raises(ValueError, match=r"out must end in \.parquet or \.csv; got .*rows\.json"):
        write_suggestions(table, tmp_path / "rows.json")


def test_at_least_one_row_is_suggested(shop: Shop) -> None:
    with pytest.raises(ValueError, match="suggest must be at least 1; got 0"):
        suggest_rows(shop.bundle, str(shop.test), 0)


def test_a_column_of_the_log_is_not_overwritten(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelling, "ROW", "user_id")
    monkeypatch.setattr(labelling, "ENTROPY", "price")
    with pytest.raises(ValueError, match="log must not have columns that suggestions add; got price, user_id"):
        suggest_rows(shop.bundle, str(shop.test), 50)
