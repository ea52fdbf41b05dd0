from pathlib import Path
from typing import Any

import numpy as np
import nvtabular as nvt
import pandas as pd
import pyarrow as pa
import pytest
from merlin.dag import ColumnSelector

from feature_eng.inputs import NULL_INT
from feature_eng.keys import string_keys
from feature_eng.operators import (
    NO_FOLD,
    FillMedian,
    HashedIds,
    KeyStatistic,
    MomentPart,
    Normalize,
    VocabularyIds,
    WordIds,
)


def fitted(node: Any, frame: pd.DataFrame, parts: int = 1) -> Any:
    """Return the transform of a workflow that was fitted on a frame cut into parts."""
    import dask.dataframe as dd

    workflow = nvt.Workflow(node)
    workflow.fit(nvt.Dataset(dd.from_pandas(frame, npartitions=parts)))
    return workflow.transform


@pytest.mark.parametrize("parts", [1, 3])
def test_ids_follow_falling_frequency_and_set_rare_null_and_unseen_apart(parts: int) -> None:
    frame = pd.DataFrame({"x": [7] * 5 + [3] * 4 + [9] + [NULL_INT] * 6})
    transform = fitted(["x"] >> VocabularyIds("x", min_count=2), frame, parts)
    new = pd.DataFrame({"x": [7, 3, 9, NULL_INT, 1234]})
    assert transform(new)["x"].tolist() == [4, 5, 3, 1, 2]


def test_a_batch_of_nulls_and_an_empty_one_are_transformed() -> None:
    transform = fitted(["x"] >> VocabularyIds("x", min_count=1), pd.DataFrame({"x": ["a", "b", ""]}))
    assert transform(pd.DataFrame({"x": ["", ""]}))["x"].tolist() == [1, 1]
    assert len(transform(pd.DataFrame({"x": pd.Series([], dtype=object)}))) == 0


def test_a_column_of_nulls_has_an_empty_vocabulary() -> None:
    transform = fitted(["x"] >> VocabularyIds("x", min_count=1), pd.DataFrame({"x": ["", ""]}))
    assert transform(pd.DataFrame({"x": ["", "a"]}))["x"].tolist() == [1, 2]


def test_lists_share_a_vocabulary_and_keep_their_last_values() -> None:
    frame = pd.DataFrame({"x": [["a", "b", "a"], [], ["b", "a", "c"]]})
    transform = fitted(["x"] >> VocabularyIds("x", min_count=1, width=2), frame)
    cells = transform(pd.DataFrame({"x": [["z", "a", "b"], [], ["a"]]}))
    assert cells[["x__0", "x__1"]].to_numpy().tolist() == [[4, 5], [0, 0], [4, 0]]


@pytest.mark.parametrize("parts", [1, 4])
def test_a_training_row_sees_the_smoothed_mean_of_the_other_folds(parts: int) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"k": rng.integers(0, 6, 200), "y": rng.random(200).round(2), "fold": rng.integers(0, 5, 200).astype(np.int8)}
    )
    smooth = 3.0
    node = ["k", "y", "fold"] >> KeyStatistic("ctr", "mean", "y", "fold", smooth)
    encoded = fitted(node, frame, parts)(frame)["ctr"].to_numpy()
    for row in range(len(frame)):
        others = frame[frame["fold"] != frame["fold"][row]]
        own = others[others["k"] == frame["k"][row]]["y"]
        expected = (own.sum() + smooth * others["y"].mean()) / (len(own) + smooth)
        assert encoded[row] == pytest.approx(expected, rel=1e-6)


def out_of_fold(frame: pd.DataFrame, smooth: float = 1.0) -> list[float]:
    node = ["k", "y", "fold"] >> KeyStatistic("ctr", "mean", "y", "fold", smooth)
    return fitted(node, frame)(frame)["ctr"].tolist()


def test_a_key_of_one_fold_alone_has_the_mean_of_the_other_folds() -> None:
    frame = pd.DataFrame({"k": [1, 1, 2, 3], "y": [1.0, 1.0, 0.0, 0.5], "fold": np.array([0, 0, 1, 2], np.int8)})
    assert out_of_fold(frame)[:2] == [0.25, 0.25]
    assert out_of_fold(frame, smooth=0.0)[:2] == [0.25, 0.25]


def test_a_row_without_a_label_sees_its_key_in_the_other_folds() -> None:
    frame = pd.DataFrame({"k": [1, 1, 1, 2], "y": [np.nan, 1.0, 1.0, 0.0], "fold": np.array([0, 1, 1, 0], np.int8)})
    assert out_of_fold(frame)[0] == pytest.approx((2 + 2 / 3) / 3, rel=1e-6)


def test_a_log_of_one_row_or_one_fold_or_no_label_has_a_finite_statistic() -> None:
    one = pd.DataFrame({"k": [1], "y": [1.0], "fold": np.array([0], np.int8)})
    assert out_of_fold(one) == [1.0]
    assert out_of_fold(one.assign(y=np.nan)) == [0.0]
    counted = fitted(["k", "fold"] >> KeyStatistic("n", "count", None, "fold"), one)
    assert counted(one)["n"].tolist() == [0.0]


def test_serving_sees_the_mean_of_all_rows_and_the_overall_mean_for_a_new_key() -> None:
    frame = pd.DataFrame({"k": ["a", "a", "b"], "y": [1.0, 0.0, 1.0], "fold": np.array([0, 1, 2], np.int8)})
    transform = fitted(["k", "y", "fold"] >> KeyStatistic("ctr", "mean", "y", "fold", 1.0), frame)
    new = pd.DataFrame({"k": ["a", "b", "new"], "y": np.nan, "fold": np.int8(NO_FOLD)})
    mean = 2 / 3
    assert transform(new)["ctr"].tolist() == pytest.approx([(1 + mean) / 3, (1 + mean) / 2, mean], rel=1e-6)


@pytest.mark.parametrize("statistic", ["count", "mean", "std", "min", "max"])
@pytest.mark.parametrize("parts", [1, 3])
def test_statistics_are_those_of_pandas_and_nulls_do_not_count(statistic: str, parts: int) -> None:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"k": rng.integers(0, 4, 60), "x": rng.normal(1000, 1, 60).astype(np.float32)})
    frame.loc[::5, "x"] = np.nan
    column = None if statistic == "count" else "x"
    node = ["k", *([column] if column else [])] >> KeyStatistic("s", statistic, column)
    grouped = frame.groupby("k")["x"]
    expected = grouped.size() if statistic == "count" else grouped.agg(statistic)
    assert fitted(node, frame, parts)(frame)["s"].tolist() == pytest.approx(expected[frame["k"]].tolist(), rel=1e-4)


@pytest.mark.parametrize(
    ("statistic", "default"),
    [("count", 0.0), ("mean", 3.0), ("std", np.std([1, 2, 6], ddof=1)), ("min", 1), ("max", 6)],
)
def test_an_unseen_key_has_the_overall_statistic_or_a_count_of_none(statistic: str, default: float) -> None:
    frame = pd.DataFrame({"k": ["a", "a", "b", "b"], "x": np.float32([1, 2, 6, np.nan])})
    column = None if statistic == "count" else "x"
    transform = fitted(["k", *([column] if column else [])] >> KeyStatistic("s", statistic, column), frame)
    assert transform(pd.DataFrame({"k": ["new"], "x": [0.0]}))["s"].tolist() == pytest.approx([default])


@pytest.mark.parametrize("parts", [1, 4])
def test_a_deviation_keeps_its_digits_beside_a_large_mean(parts: int) -> None:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"k": rng.integers(0, 40, 2_000), "x": rng.normal(1e7, 2, 2_000).astype(np.float32)})
    expected = frame.astype({"x": float}).groupby("k")["x"].std()[frame["k"]]
    got = fitted(["k", "x"] >> KeyStatistic("s", "std", "x"), frame, parts)(frame)["s"]
    assert got.tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_equal_values_and_a_single_one_deviate_by_nothing() -> None:
    frame = pd.DataFrame({"k": [1] * 7 + [2], "x": np.float32([12345.678] * 7 + [0.1])})
    assert fitted(["k", "x"] >> KeyStatistic("s", "std", "x"), frame, 3)(frame)["s"].tolist() == [0.0] * 8


def test_a_deviation_is_not_taken_out_of_fold() -> None:
    with pytest.raises(ValueError, match="statistic must be count or mean to be taken out of fold; got std"):
        KeyStatistic("s", "std", "x", "fold")


def test_counts_of_the_other_folds_are_scaled_to_all_of_them() -> None:
    frame = pd.DataFrame({"k": [1, 1, 1, 2], "fold": np.array([0, 1, 1, 0], np.int8)})
    transform = fitted(["k", "fold"] >> KeyStatistic("n", "count", None, "fold"), frame)
    assert transform(frame)["n"].tolist() == [4.0, 2.0, 2.0, 0.0]
    assert transform(frame.assign(fold=np.int8(NO_FOLD)))["n"].tolist() == [3.0, 3.0, 3.0, 1.0]


def test_equal_values_share_a_bucket_whatever_the_row_and_the_batch() -> None:
    node = ["a", "b"] >> HashedIds("cross", 1000)
    frame = pd.DataFrame({"a": [1, 2, 1], "b": ["x", "x", "x"]})
    transform = fitted(node, frame)
    first, second, third = transform(frame)["cross"]
    assert first == third != second
    assert transform(frame.iloc[2:].reset_index(drop=True))["cross"][0] == first


def test_words_and_moments_are_features_of_their_own_names() -> None:
    frame = pd.DataFrame({"t": ["red shoe", ""], "now": [90_000_000, NULL_INT], "then": [0, 0]})
    node = (["t"] >> WordIds("t", 50, 2)) + (["now"] >> MomentPart("hour", "hour"))
    node += ["now", "then"] >> MomentPart("age", "age_days")
    out = fitted(node, frame)(frame)
    assert out[["t__0", "t__1"]].to_numpy()[1].tolist() == [0, 0]
    assert out["hour"].tolist() == [2, 25]
    assert out["age"][0] == pytest.approx(90_000_000 / 86_400_000)


def test_a_fitted_workflow_survives_its_own_file(tmp_path: Path) -> None:
    from feature_eng.workflow import load_workflow, save_workflow

    frame = pd.DataFrame({"x": [1, 1, 2]})
    workflow = nvt.Workflow(["x"] >> VocabularyIds("x", 1))
    workflow.fit(nvt.Dataset(frame))
    save_workflow(workflow, tmp_path / "workflow")
    assert load_workflow(tmp_path / "workflow").transform(frame)["x"].tolist() == [4, 4, 5]


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("mean", [0.0, 2010.0, 1e6])
def test_a_column_is_normalized_by_its_mean_and_deviation_however_large_the_mean(mean: float, parts: int) -> None:
    frame = pd.DataFrame({"x": np.random.default_rng(4).normal(mean, 5, 100_000).astype(np.float32)})
    normal = fitted(["x"] >> Normalize(), frame, parts)(frame)["x"]
    assert normal.dtype == np.float32
    exact = frame["x"].astype(float)
    assert normal.tolist()[:50] == pytest.approx(((exact - exact.mean()) / exact.std()).tolist()[:50], abs=0.02)
    assert normal.std() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("values", [[0.1] * 9, [12345.678] * 7, [5.0]])
def test_a_constant_column_is_centred_alone(values: list[float]) -> None:
    transform = fitted(["x"] >> Normalize(), pd.DataFrame({"x": np.float32(values)}))
    new = np.float32([values[0], values[0] + 1])
    assert transform(pd.DataFrame({"x": new}))["x"].tolist() == pytest.approx([0.0, float(new[1] - new[0])], abs=1e-6)


def test_missing_numbers_get_the_median_or_0_where_all_are_missing() -> None:
    frame = pd.DataFrame({"x": np.float32([0.1, 0.7, np.nan, 9.0]), "y": np.float32([np.nan] * 4)})
    filled = fitted(["x", "y"] >> FillMedian(), frame)(frame)
    assert filled["x"].tolist() == np.float32([0.1, 0.7, 0.7, 9.0]).tolist()
    assert filled["y"].tolist() == [0.0] * 4
    assert filled.dtypes.tolist() == [np.float32] * 2


class ArrowFrame(dict[str, Any]):
    """Columns that come as Arrow, as those of cuDF do."""

    def __init__(self, columns: dict[str, Any], index: Any = None) -> None:
        super().__init__(columns)
        self.index = index


class ArrowColumn:
    def __init__(self, array: Any) -> None:
        self.to_arrow = lambda: array


LISTS = pa.array([["cut", "off"], ["b"], [], None, ["a", "b"]])


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
@pytest.mark.parametrize("chunked", [False, True])
def test_lists_that_begin_inside_an_arrow_buffer_are_read_from_there(kind: Any, chunked: bool) -> None:
    lists = LISTS.cast(kind(pa.string())).slice(1)
    column = pa.chunked_array([lists.slice(0, 2), lists.slice(2)]) if chunked else lists
    operator = VocabularyIds("x", min_count=1, width=2)
    operator.fit_finalize(pd.DataFrame({"key": string_keys(["a", "b"]), "count": [2, 1]}))
    cells = operator.transform(ColumnSelector(["x"]), ArrowFrame({"x": ArrowColumn(column)}))
    assert np.transpose([cells["x__0"], cells["x__1"]]).tolist() == [[5, 0], [0, 0], [0, 0], [4, 5]]


def ids_of(values: pd.Series) -> list[int]:
    """Return the buckets of values, of which there are so many that different values have different ones."""
    buckets: list[int] = (
        HashedIds("f", 2**30).transform(ColumnSelector(["x"]), pd.DataFrame({"x": values}))["f"].tolist()
    )
    return buckets


def test_values_have_the_same_keys_in_whatever_form_pandas_holds_them() -> None:
    assert ids_of(pd.Series([b"a", "größe".encode()])) == ids_of(pd.Series(["a", "größe"]))
    assert ids_of(pd.Series(["a", "b"], dtype="category")) == ids_of(pd.Series(["a", "b"]))
    assert ids_of(pd.Series(["a", None])) == ids_of(pd.Series(["a", ""]))
    assert ids_of(pd.Series([None, None])) == ids_of(pd.Series(["", ""]))
    ones = ids_of(pd.Series([1, NULL_INT]))
    for form in (pd.Series([1, None]), pd.Series([1, None], dtype="Int64")):
        assert ids_of(form) == ones
    for form in (pd.Series([True]), pd.Series([1], dtype=np.uint64), pd.Series([1], dtype=np.int8)):
        assert ids_of(form) == ones[:1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([2**63], np.uint64), "Integer value 9223372036854775808 not in range"),
        ([1.5], "Float value 1.5.* trunc"),
    ],
)
def test_numbers_that_are_no_64_bit_integers_have_no_key(values: Any, message: str) -> None:
    with pytest.raises(pa.ArrowInvalid, match=message):
        ids_of(pd.Series(values))


def test_a_column_whose_lists_are_all_null_holds_no_values() -> None:
    frame = pd.DataFrame({"x": [["a"], ["a", "b"]]})
    transform = fitted(["x"] >> VocabularyIds("x", min_count=1, width=2), frame)
    nothing = transform(pd.DataFrame({"x": pd.Series([None, None], dtype=object)}))
    assert nothing[["x__0", "x__1"]].to_numpy().tolist() == [[0, 0], [0, 0]]
    null = transform(pd.DataFrame({"x": [[None], []]}))
    assert null[["x__0", "x__1"]].to_numpy().tolist() == [[1, 0], [0, 0]]
