"""A plan gives what NVTabular's statistics by key and differences between rows give, within 1e-6."""

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
    by_plan,
    by_workflow,
    check_equal,
    compiled,
    examples,
    folder,
    plan_arrays,
    training_log,
    with_text,
)

# What float32 loses of a logarithm or mean near 0.5 when it is divided by a deviation of a tenth of that.
CANCELLED = 4e-6
STATISTICS = ["sum", "mean", "std", "var", "min", "max"]


def categorify(**options: Any) -> Any:
    return ops.Categorify(out_path=folder(), **options)


def encoding(**options: Any) -> Any:
    return ops.TargetEncoding(out_path=folder(), **({"kfold": 1} | options))


def joined(columns: list[str], statistics: list[str]) -> Any:
    return ops.JoinGroupby(cont_cols=columns, stats=statistics, out_path=folder())


CASES: dict[str, Callable[[], Any]] = {
    "encoding": lambda: ["text", "i64", "f64"] >> encoding(target="click", p_smooth=5),
    "encoding of two targets": lambda: ["text", "flag"] >> encoding(target=["click", "value"], p_smooth=0.5),
    "encoding of pairs": lambda: [["text", "i64"], "i8", ["f32", "flag", "u32"]] >> encoding(target="value"),
    "encoding in float64": lambda: ["i64"] >> encoding(target="value", out_dtype=np.float64) >> ops.Normalize(),
    "encoding of ids": lambda: ["text", "i64"] >> categorify() >> encoding(target="click"),
    "encoding of pairs of ids": lambda: (
        [["text", "i64"]] >> categorify(encode_type="combo") >> encoding(target="click")
    ),
    "encoding with other names": lambda: [["i8", "flag"]] >> encoding(target="click", name_sep="-"),
    "encoding that goes on": lambda: ["i8"] >> encoding(target="value") >> ops.LogOp() >> ops.Normalize(),
    "encoding in buckets": lambda: ["i8", "text"] >> encoding(target="value") >> ops.Bucketize([0.45, 0.5, 0.55]),
    "joined": lambda: ["text", "i64"] >> joined(["f32", "f64"], STATISTICS),
    "joined by pairs": lambda: [["text", "i8"], ["f64", "flag"]] >> joined(["value"], STATISTICS),
    "joined integers": lambda: ["flag", "f32"] >> joined(["i8", "i32"], STATISTICS),
    "joined and filled": lambda: (
        ["i64", "text"]
        >> joined(["value", "f64"], ["sum", "mean", "max"])
        >> ops.FillMissing(0.7, add_binary_cols=True)
    ),
    "joined and normalized": lambda: (
        ["i8"] >> joined(["value"], ["sum", "mean"]) >> ops.FillMedian() >> ops.Normalize()
    ),
    "joined by ids": lambda: ["i64", "text"] >> categorify() >> joined(["value"], STATISTICS),
    "joined by filled numbers": lambda: ["f64", "f32"] >> ops.FillMissing(2) >> joined(["value"], ["mean", "max"]),
    "joined by filled texts": lambda: ["text"] >> ops.FillMissing("a") >> joined(["value"], ["mean", "max"]),
    "joined by pairs of filled columns": lambda: (
        ([["f64", "flag"]] >> ops.FillMissing(2)) >> joined(["value"], ["mean", "sum"])
    ),
}

NORMALIZED = ("encoding in float64", "encoding that goes on", "joined and normalized")


def fails(kind: str) -> Callable[[pd.DataFrame], bool]:
    """Return where NVTabular fails: on ids of a column of nulls."""
    return lambda frame: "ids" in kind and bool(frame["text"].isna().all())


@cache
def statistics(kind: str, seed: int) -> tuple[Any, Plan]:
    return compiled(CASES[kind](), training_log(seed))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", CASES)
def test_statistics_are_the_same(kind: str, seed: int) -> None:
    workflow, plan = statistics(kind, seed)
    assert {given.name for given in plan.inputs}.isdisjoint({"click", "value"})
    log, empty = training_log(seed), None if seed else ""

    @examples(12)
    @given(frame=FRAMES)
    def check(frame: pd.DataFrame) -> None:
        labelled = with_text(frame, empty).assign(click=np.float32(0), value=0.0)
        check_equal(workflow, plan, labelled, fails(kind), atol=CANCELLED if kind in NORMALIZED else 0)

    check()
    check_equal(workflow, plan, log, atol=CANCELLED if kind in NORMALIZED else 0)


def test_with_folds_a_plan_takes_the_mean_over_all_rows() -> None:
    log = training_log()
    _, folds = compiled(["text", "i8"] >> encoding(target="click", kfold=5), log)
    whole, plan = compiled(["text", "i8"] >> encoding(target="click", kfold=1), log)
    for name, values in by_plan(folds, log).items():
        np.testing.assert_array_equal(values, by_plan(plan, log)[name])
        np.testing.assert_allclose(values, by_workflow(whole, log)[name], rtol=1e-6)


def test_a_count_of_seen_keys_is_the_same_and_of_others_is_0() -> None:
    log = training_log(1)
    workflow, plan = compiled(["i8", "text", ["u32", "flag"]] >> joined(["value"], ["count", "sum"]), log)
    check_equal(workflow, plan, log)
    unseen = log[:2].assign(i8=np.int8(99), text="never", u32=np.uint32(77))
    with pytest.raises(Exception, match="Cannot convert non-finite values"):
        by_workflow(workflow, unseen)
    found = by_plan(plan, unseen)
    assert [found[name].tolist() for name in ("i8_count", "text_count", "u32_flag_count")] == [[0, 0]] * 3
    assert np.isnan(found["i8_value_sum"]).all()


LAGS: dict[str, Callable[[], Any]] = {
    "by a number": lambda: ["f32", "f64", "i32", "i64"] >> ops.DifferenceLag("flag"),
    "by two": lambda: ["f32", "f64", "u32"] >> ops.DifferenceLag(["i8", "flag"], shift=[1, -1]),
    "by a text": lambda: ["i16"] >> ops.DifferenceLag(["text"], shift=[2, -3]),
    "by floats": lambda: ["i16", "f32"] >> ops.DifferenceLag(["f32", "f64"], shift=-1),
    "and filled": lambda: ["f64", "i8"] >> ops.DifferenceLag("flag") >> ops.FillMissing(0) >> ops.Bucketize([0, 1]),
}


@cache
def lagged(kind: str) -> tuple[Any, Plan]:
    return compiled(LAGS[kind](), training_log(1))


@pytest.mark.parametrize("kind", LAGS)
def test_differences_between_rows_are_the_same(kind: str) -> None:
    workflow, plan = lagged(kind)

    @examples(15)
    @given(frame=FRAMES)
    def check(frame: pd.DataFrame) -> None:
        check_equal(workflow, plan, with_text(frame, None).drop(columns=["ints", "words"]))

    check()
    many = training_log(3, rows=1_500)  # more than the rows of a block
    check_equal(workflow, plan, many.sort_values(["flag", "i8"], ignore_index=True))


def test_threads_and_no_rows_make_no_difference() -> None:
    for kind in ("by two", "by a text"):
        _, plan = lagged(kind)
        arrays = plan_arrays(training_log(1, rows=40_000).sort_values("flag"), plan)
        one, two = (plan.run(arrays, 40_000, threads=threads)[1] for threads in (1, 2))
        np.testing.assert_array_equal(one, two)
        assert by_plan(plan, training_log()[:0])[plan.layout.continuous[0]].shape == (0,)


def test_a_difference_within_one_row_for_all_is_0_but_for_the_first() -> None:
    _, plan = lagged("by a number")
    row = {"f32": np.float32([2]), "f64": np.array([2.0]), "i32": [1], "i64": [1], "flag": [1, 1, 0, 0]}
    found = plan.run(row, 4)[1]
    np.testing.assert_array_equal(found, np.array([[np.nan] * 4, [0] * 4, [np.nan] * 4, [0] * 4], np.float32))
