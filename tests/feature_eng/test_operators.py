from pathlib import Path
from typing import Any

import numpy as np
import nvtabular as nvt
import pandas as pd
import pytest

from feature_eng.inputs import NULL_INT
from feature_eng.operators import NO_FOLD, HashedIds, KeyStatistic, MomentPart, VocabularyIds, WordIds


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
