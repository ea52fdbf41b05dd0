"""A plan gives what a whole hand-written workflow gives, whatever chains of operators it is made of."""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import Phase, given, reject
from hypothesis import strategies as st
from nvtabular import ops

from feature_eng.lowering import lower
from tests.contract.hand_written import (
    FRAMES,
    INTS,
    check_equal,
    examples,
    fitted,
    folder,
    training_log,
    with_text,
)

# Float32 rounds numbers of some tens to 2e-6, which a step can divide by a deviation of a fifth.
CANCELLED = 1e-5

Step = tuple[str, tuple[Any, ...]]
Branch = tuple[list[Any], list[Step]]


def step(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.tuples(st.just(name), st.tuples(*arguments))


CONSTANTS = st.sampled_from([-1, 0, 0.5, 2, 0.7, 0.1])
STEPS = st.one_of(
    step("FillMissing", CONSTANTS, st.booleans()),
    step("FillMedian", st.booleans()),
    step("Clip", CONSTANTS),
    step("Clip", st.none(), CONSTANTS),
    step("LogOp"),
    step("Normalize", st.sampled_from([None, np.float32])),
    step("NormalizeMinMax", st.sampled_from([None, np.float32])),
    step("ReduceDtypeSize"),
    step("AddTags", st.just([])),
    step("DataStats"),
)
BUCKETIZE = step("Bucketize", st.just([-0.7, -0.1, 0.1, 0.45, 1.3, 2.9]))
NUMBERS = st.sampled_from([*(name for name in INTS if name != "i64"), "f32", "f64"])
NUMERIC_COLUMNS = st.lists(NUMBERS, min_size=1, max_size=3, unique=True)


@st.composite
def numeric_branches(draw: Any) -> Branch:
    steps = draw(st.lists(STEPS, min_size=1, max_size=4))
    if not any(
        name.startswith("Fill") and given[-1] for name, given in steps
    ):  # indicators are no numbers to bucketize
        steps += draw(st.lists(BUCKETIZE, max_size=1))
    columns = draw(NUMERIC_COLUMNS)
    if ("ReduceDtypeSize", ()) in steps:  # NVTabular's integers wrap around
        columns = [name for name in columns if name in ("f32", "f64")] or ["f64"]
    return columns, steps


KEYS = st.lists(
    st.one_of(
        st.sampled_from(["text", "i64", "flag", "f64"]),
        st.sampled_from([["i8", "text"], ["u32", "flag"], ["i16", "f32", "i32"]]),
    ),
    min_size=1,
    max_size=3,
    unique_by=str,
)
STATISTICS = st.lists(st.sampled_from(["sum", "mean", "std", "var", "min", "max"]), min_size=1, max_size=3, unique=True)
LOOKUPS = st.one_of(
    step("TargetEncoding", st.sampled_from(["click", "value"]), st.sampled_from([0.5, 20])),
    step("JoinGroupby", st.sampled_from([["value"], ["f32", "i8"]]), STATISTICS),
)
VOCABULARY = step("Categorify", st.sampled_from([{}, {"freq_threshold": 3}, {"dtype": np.int32}]))
CATEGORY_BRANCHES = st.one_of(
    st.tuples(KEYS, st.tuples(VOCABULARY).map(list)),
    st.tuples(KEYS, st.tuples(VOCABULARY, LOOKUPS).map(list)),
    st.tuples(KEYS, st.builds(lambda first, rest: [first, *rest], LOOKUPS, st.lists(STEPS, max_size=2))),
    st.tuples(KEYS, st.tuples(LOOKUPS, BUCKETIZE).map(list)),
)


def operator_of(name: str, given: tuple[Any, ...]) -> Any:
    if name == "Categorify":
        return ops.Categorify(out_path=folder(), encode_type="combo", **given[0])
    if name == "TargetEncoding":
        return ops.TargetEncoding(given[0], kfold=1, p_smooth=given[1], out_path=folder())
    if name == "JoinGroupby":
        return ops.JoinGroupby(cont_cols=given[0], stats=given[1], out_path=folder())
    return getattr(ops, name)(*given)


def workflow_of(branches: list[Branch]) -> Any:
    nodes = []
    for index, (columns, steps) in enumerate(branches):
        node = reduce(lambda node, step: node >> operator_of(*step), steps[1:], columns >> operator_of(*steps[0]))
        nodes.append(node >> ops.Rename(postfix=f"_{index}"))
    return reduce(operator.add, nodes)


BRANCHES = st.lists(st.one_of(numeric_branches(), CATEGORY_BRANCHES), min_size=1, max_size=4)


@examples(12, phases=[Phase.explicit, Phase.generate])  # an example is slow to shrink
@given(branches=BRANCHES, seed=st.integers(0, 9), frame=FRAMES)
def test_whatever_the_workflow_holds_the_plan_gives_the_same(
    branches: list[Branch], seed: int, frame: pd.DataFrame
) -> None:
    log = training_log(seed)
    try:
        workflow = fitted(workflow_of(branches), log)
    except Exception:
        reject()  # NVTabular fails to fit, such as statistics of a column by the same column
    try:
        plan = lower(workflow)
    except ValueError as error:
        assert "must be fitted to a finite number; got" in str(error)  # noqa: PT017 - the logarithm of -1 and below
        reject()
    chains = [[name for name, _ in steps] for _, steps in branches]
    ids = any("Categorify" in chain for chain in chains)
    reduced = any({"JoinGroupby", "ReduceDtypeSize"} <= set(chain) for chain in chains)  # NaN has no smaller integer
    for rows in (frame.assign(click=np.float32(0), value=0.0), log):
        rows = with_text(rows, None if seed % 2 else "")
        check_equal(
            workflow, plan, rows, lambda rows: reduced or (ids and bool(rows.isna().all().any())), atol=CANCELLED
        )
