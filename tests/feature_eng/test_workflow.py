from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_eng.inputs import NULL_INT
from feature_eng.schema import Schema
from feature_eng.schema_file import parse_schema
from feature_eng.workflow import FOLD_COLUMN, fit_workflow, load_workflow, save_workflow, serving_frame

TYPES = {"item": pa.string(), "x": pa.float32(), "tags": pa.list_(pa.string()), "seen": pa.list_(pa.int64())}


def schema_of(*columns: str) -> Schema:
    listed = "".join(f"  - {column}\n" for column in columns)
    return parse_schema(f"name: s\ntime: now\ncolumns:\n{listed}objectives:\n  - {{name: c, kind: binary, label: c}}\n")


def log_of(**columns: Any) -> pd.DataFrame:
    """Return a cleaned log of the columns, with labels and folds."""
    rows = len(next(iter(columns.values())))
    given = {"c": np.arange(rows, dtype=np.float32) % 2, FOLD_COLUMN: (np.arange(rows) % 5).astype(np.int8)} | columns
    return pd.DataFrame(given)


def fitted(schema: Schema, folder: Path, *parts: pd.DataFrame) -> Any:
    (folder / "log").mkdir()
    for index, part in enumerate(parts):
        types = [(name, TYPES[name]) for name in part.columns if name in TYPES]
        rest = pa.Table.from_pandas(part[[name for name in part.columns if name not in TYPES]], preserve_index=False)
        for name, kind in types:
            rest = rest.append_column(name, pa.array(part[name].tolist(), kind))
        pq.write_table(rest.replace_schema_metadata(None), folder / "log" / f"part-{index:05d}.parquet")
    return fit_workflow(schema, folder / "log")


VALUES = np.float32([0.1, 0.3, 0.7, np.nan, -2.0, 40.0, 1e6])
FILLED = pd.Series(VALUES).fillna(np.float32(np.nanmedian(VALUES)))
LOGS = np.log1p(FILLED.clip(lower=0).astype(float))
TRANSFORMS = {
    "[{fill: 3}]": pd.Series(VALUES).fillna(3),
    "[fill_median]": FILLED,
    "[{clip: [0, 1]}]": FILLED.clip(0, 1),
    "[log]": LOGS,
    "[normalize]": (FILLED - FILLED.astype(float).mean()) / FILLED.astype(float).std(),
    "[log, normalize]": (LOGS - LOGS.mean()) / LOGS.std(),
    "[{bucketize: [0.1, 0.3, 0.7, 40]}]": pd.Series([2, 3, 4, 3, 1, 5, 5]),
    "[{fill: 0.7}, {bucketize: [0.3, 0.7]}]": pd.Series([1, 2, 3, 3, 1, 3, 3]),
    "[{clip: [0.3, 0.7]}, {bucketize: [0.3, 0.7]}]": pd.Series([2, 2, 3, 2, 2, 3, 3]),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_transform_is_what_pandas_computes(transform: str, tmp_path: Path) -> None:
    schema = schema_of(f"{{name: x, role: item, kind: continuous, transform: {transform}}}")
    frame = log_of(x=VALUES)
    out = fitted(schema, tmp_path, frame).transform(frame)["x"]
    assert out.tolist() == pytest.approx(TRANSFORMS[transform].tolist(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("transform", ["[normalize]", "[log, normalize]", "[fill_median]", "[{bucketize: [0.0]}]"])
@pytest.mark.parametrize("value", [np.nan, 5.0])
def test_a_column_without_any_values_or_with_one_alone_gives_finite_features(
    transform: str, value: float, tmp_path: Path
) -> None:
    schema = schema_of(f"{{name: x, role: item, kind: continuous, transform: {transform}}}")
    log = log_of(x=np.full(9, value, np.float32))
    workflow = fitted(schema, tmp_path, log[:4], log[4:])
    assert np.isfinite(workflow.transform(log_of(x=np.float32([np.nan, -1.0, 0.0, 7.0])))["x"]).all()


LISTS = (
    "{name: tags, role: item, kind: categorical_list, dtype: string, max_length: 2}",
    "{name: seen, role: user, kind: categorical_list, dtype: int64, max_length: 2}",
    "{name: item, role: item, kind: categorical, dtype: string}",
)


@pytest.mark.parametrize("blank_first", [True, False])
def test_a_part_whose_lists_and_strings_are_all_empty_is_fitted(blank_first: bool, tmp_path: Path) -> None:
    blank = log_of(item=["", ""], tags=[[], []], seen=[[], []])
    log = log_of(item=["a", "b", "a"], tags=[["x"], ["y", "y"], []], seen=[[1], [1, 2], []])
    workflow = fitted(schema_of(*LISTS), tmp_path, *((blank, log) if blank_first else (log, blank)))
    out = workflow.transform(log)
    assert out[["item", "tags__0", "tags__1"]].to_numpy().tolist() == [[4, 5, 0], [5, 4, 4], [4, 0, 0]]
    assert out[["seen__0", "seen__1"]].to_numpy().tolist() == [[4, 0], [4, 5], [0, 0]]
    null = workflow.transform(log_of(item=[""], tags=[["", "new"]], seen=[[NULL_INT, 9]]))
    assert null[["item", "tags__0", "tags__1", "seen__0", "seen__1"]].to_numpy().tolist() == [[1, 1, 2, 1, 2]]


def test_a_part_without_rows_is_passed_over(tmp_path: Path) -> None:
    log = log_of(item=["a", "b", "a"], x=np.float32([1, 2, 3]))
    schema = schema_of(LISTS[2], "{name: x, role: item, kind: continuous}")
    out = fitted(schema, tmp_path, log[:0], log, log[:0]).transform(log)
    assert out[["item", "x"]].to_numpy().tolist() == [[4, -1], [5, 0], [4, 1]]


def test_a_log_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"log must have at least one row; got none in {tmp_path / 'log'}"):
        fitted(schema_of(LISTS[2]), tmp_path, log_of(item=["a"])[:0])


STATISTICS = (
    "{name: item, role: item, kind: categorical, dtype: string, min_count: 3}",
    "{name: tags, role: item, kind: categorical_list, dtype: string, max_length: 3}",
    "{name: x, role: item, kind: continuous, feature: false}",
    "{name: ctr, kind: target_encoding, of: item, target: c, smooth: 2}",
    "{name: n, kind: group_statistic, of: item, statistic: count, transform: [log, normalize]}",
    "{name: deviation, kind: group_statistic, of: item, statistic: std, column: x}",
    "{name: hour, kind: time_part, of: now, part: hour}",
)


def test_a_fit_does_not_depend_on_how_the_log_is_cut(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    log = log_of(
        item=rng.choice(["", *"abcdefgh"], 300),
        tags=[list(rng.choice(list("uvw"), rng.integers(0, 4))) for _ in range(300)],
        x=rng.normal(1e4, 1, 300).astype(np.float32),
        now=rng.integers(0, 10**12, 300),
    )
    outs = []
    for parts in (1, 4):
        folder = tmp_path / str(parts)
        folder.mkdir()
        workflow = fitted(schema_of(*STATISTICS), folder, *(log[part::parts] for part in range(parts)))
        outs.append(workflow.transform(log))
    pd.testing.assert_frame_equal(outs[0][sorted(outs[0])], outs[1][sorted(outs[1])], rtol=1e-6)


def test_serving_rows_get_labels_that_are_missing_and_no_fold() -> None:
    frame = serving_frame(schema_of(*STATISTICS), pd.DataFrame({"item": ["a", "b"], "c": [1.0, 1.0]}))
    assert frame["c"].isna().all()
    assert frame["x"].isna().all()  # only its statistic is a feature
    assert frame[FOLD_COLUMN].tolist() == [-1, -1]
    assert frame[FOLD_COLUMN].dtype == np.int8


def test_a_workflow_read_back_computes_the_same(tmp_path: Path) -> None:
    schema = schema_of(LISTS[2], "{name: x, role: item, kind: continuous}", STATISTICS[3])
    log = log_of(item=["a", "b", "a", ""], x=np.float32([1, 2, np.nan, 4]))
    workflow = fitted(schema, tmp_path, log)
    save_workflow(workflow, tmp_path / "workflow")
    read = load_workflow(tmp_path / "workflow").transform(serving_frame(schema, log))
    pd.testing.assert_frame_equal(read, workflow.transform(serving_frame(schema, log)))
