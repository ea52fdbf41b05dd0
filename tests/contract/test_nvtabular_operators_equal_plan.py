"""A plan gives what NVTabular's own operators give, on frames of every dtype: ids exactly, floats within 1e-6."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from nvtabular import ops

from feature_eng.plan import Plan
from tests.contract.hand_written import (
    FRAMES,
    INTS,
    SCALARS,
    by_plan,
    check_equal,
    compiled,
    examples,
    folder,
    training_log,
    with_text,
)


def categorify(**options: Any) -> Any:
    return ops.Categorify(out_path=folder(), **options)


VOCABULARIES: dict[str, Callable[[], Any]] = {
    "every dtype": lambda: SCALARS >> categorify(),
    "another dtype": lambda: ["text", "i64"] >> categorify(dtype=np.int32),
    "the largest": lambda: ["text", "i64", "f32"] >> categorify(max_size=6),
    "the frequent": lambda: ["i64", "f64", "i8"] >> categorify(freq_threshold=8),
    "the given": lambda: (
        ["text", "i8"] >> categorify(vocabs={"text": pd.Series(["b", "new", "a"]), "i8": pd.Series([7])})
    ),
    "one bucket": lambda: ["text", "i64"] >> categorify(num_buckets=1),
    "several files": lambda: ["text", "i64", "f64"] >> categorify(split_out=2),
    "joint": lambda: [["i8", "i16"], ["f32", "f64"]] >> categorify(),
    "combo of two": lambda: [["i64", "text"]] >> categorify(encode_type="combo"),
    "combo of floats": lambda: [["f32", "text", "flag"], "i8"] >> categorify(encode_type="combo"),
    "combo and each": lambda: (
        ([["i64", "text"]] >> categorify(encode_type="combo")) + (["i64", "text"] >> categorify())
    ),
    "filled": lambda: ["text"] >> ops.FillMissing("none") >> categorify(),
    "filled with a value": lambda: ["f32", "f64", "i64"] >> ops.FillMissing(1) >> categorify(),
    "of buckets": lambda: ["f32", "f64"] >> ops.Bucketize([0, 1, 2]) >> categorify(),
    "of ids": lambda: ["i64", "text"] >> categorify() >> categorify(),
    "lists": lambda: ["ints", "words"] >> categorify() >> ops.ListSlice(3, pad=True),
    "last of lists": lambda: ["ints", "words"] >> categorify() >> ops.ValueCount() >> ops.ListSlice(-2, pad=True),
    "middle of lists": lambda: ["ints", "words"] >> categorify() >> ops.ListSlice(1, 3, pad=True),
    "all but the last of lists": lambda: ["ints", "words"] >> categorify() >> ops.ListSlice(-4, -1, pad=True),
}


def all_null(frame: pd.DataFrame) -> bool:
    columns = ["f32", "f64", "text"]
    return (
        bool(frame[columns].isna().all().any()) or not any(map(len, frame["ints"])) or not any(map(len, frame["words"]))
    )


@cache
def vocabulary(kind: str, seed: int) -> tuple[Any, Plan]:
    partitions = 2  # ValueCount fails to fit on more
    return compiled(VOCABULARIES[kind](), training_log(seed), partitions)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", VOCABULARIES)
def test_categories_get_the_same_ids(kind: str, seed: int) -> None:
    workflow, plan = vocabulary(kind, seed)
    empty = (
        "" if seed == 0 and kind not in ("the largest", "the given") else None
    )  # an empty string that is not listed is a null

    @examples(15)
    @given(frame=FRAMES)
    def check(frame: pd.DataFrame) -> None:
        check_equal(workflow, plan, with_text(frame, empty), all_null)

    check()
    check_equal(workflow, plan, with_text(training_log(seed), empty))


NUMERIC: dict[str, Callable[[], Any]] = {
    "filled": lambda: [*INTS, "f32", "f64"] >> ops.FillMissing(3),
    "filled with what float32 does not hold": lambda: ["f32", "f64"] >> ops.FillMissing(0.7) >> ops.Bucketize([0.7]),
    "filled and told": lambda: ["f32", "f64", "i8"] >> ops.FillMissing(0, add_binary_cols=True) >> ops.AddTags([]),
    "median": lambda: ["f32", "f64", *INTS] >> ops.FillMedian(add_binary_cols=True),
    "clipped": lambda: ["f32", "f64", *INTS] >> ops.Clip(min_value=-1, max_value=3),
    "clipped to what float32 does not hold": lambda: ["f32", "f64"] >> ops.Clip(0.3, 0.7) >> ops.Bucketize([0.3, 0.7]),
    "clipped below": lambda: ["f32", "f64", *INTS] >> ops.Clip(min_value=0.5),
    "logarithm": lambda: ["f32", "f64", *INTS] >> ops.Clip(min_value=0) >> ops.LogOp(),
    "logarithm of what is negative": lambda: ["f32", "f64"] >> ops.LogOp(),
    "normalized": lambda: ["f32", "f64", "i8", "i16", "i32", "u32"] >> ops.Normalize(),
    "normalized in float32": lambda: ["f32", "f64", "i8"] >> ops.Normalize(out_dtype=np.float32),
    "from 0 to 1": lambda: ["f32", "f64", "i32"] >> ops.NormalizeMinMax(),
    "bucketized": lambda: ["f32", "f64", *INTS, "flag"] >> ops.Bucketize([-1, 0, 0.7, 2, np.inf]),
    "filled and bucketized": lambda: ["f32", "f64"] >> ops.FillMedian() >> ops.Bucketize([-1, 0, 0.7, 2]),
    "indicator as a number": lambda: ["f32", "f64"] >> ops.FillMissing(add_binary_cols=True) >> ops.Normalize(),
    "one value alone": lambda: ["i8"] >> ops.Clip(5, 5) >> ops.NormalizeMinMax(),
    "some of them": lambda: (["f32", "f64", "i8"] >> ops.FillMissing())[["f64", "i8"]] + ["u32"],
    "one of them": lambda: (["f32", "f64"] >> ops.FillMissing(1))["f32"] >> ops.LogOp(),
    "all but some": lambda: (["f32", "f64", "i8"] >> ops.FillMissing()) - (["f64", "u32"] >> ops.Rename(f=str)),
    "sums of sums": lambda: (
        (["f64"] >> ops.FillMissing()) + ["f32"] + ((["i8"] >> ops.Rename(name="one")) + ["u32"]) >> ops.Normalize()
    ),
    "a later column of the same name": lambda: (["f64"] >> ops.Clip(1)) + (["f64", "f32"] >> ops.FillMissing(-1)),
    "metadata": lambda: ["f32", "f64"] >> ops.DataStats() >> ops.TagAsItemID() >> ops.AddProperties({}),
    "as they are": lambda: ["f32", "f64", "flag", "i8"] >> ops.Rename(postfix="_raw"),
}


@cache
def numeric(kind: str) -> tuple[Any, Plan]:
    log = training_log()
    return compiled(NUMERIC[kind](), log[:-9] if "indicator" in kind else log)


@pytest.mark.parametrize("kind", NUMERIC)
def test_numbers_are_the_same(kind: str) -> None:
    workflow, plan = numeric(kind)

    @examples(15)
    @given(frame=FRAMES)
    def check(frame: pd.DataFrame) -> None:
        check_equal(workflow, plan, frame)

    check()


NULLABLE: dict[str, Callable[[], Any]] = {
    "filled": lambda: list(INTS) >> ops.FillMissing(2, add_binary_cols=True),
    "median": lambda: ["i8", "u32"] >> ops.FillMedian() >> ops.Normalize(),
    "unfilled": lambda: ["i8", "u32"] >> ops.Normalize(),
    "logarithm": lambda: ["i16", "i32"] >> ops.Clip(0) >> ops.LogOp(),
    "bucketized": lambda: ["i8", "i64"] >> ops.Bucketize([0, 2, 5]),
    "encoded": lambda: ["i8"] >> ops.TargetEncoding("click", kfold=1, out_path=folder()),
}


@pytest.mark.parametrize("kind", NULLABLE)
def test_nulls_in_columns_that_were_fitted_as_integers_are_as_in_pandas(kind: str) -> None:
    workflow, plan = compiled(NULLABLE[kind](), training_log())
    frame = training_log(2, rows=8).assign(**{name: [1.0, np.nan, 3, 4, 0, 2, np.nan, 5] for name in INTS})
    check_equal(workflow, plan, frame)


def test_an_empty_frame_has_no_rows() -> None:
    plans = [vocabulary(kind, 0)[1] for kind in VOCABULARIES] + [numeric(kind)[1] for kind in NUMERIC]
    assert all(len(values) == 0 for plan in plans for values in by_plan(plan, training_log()[:0]).values())
