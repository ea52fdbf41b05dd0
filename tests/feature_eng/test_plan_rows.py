"""Random plans of every operation: how a request's rows come must not show in their features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_eng import plan as plans
from feature_eng.inputs import NULL_INT, NULL_STRING, Input
from feature_eng.keys import int_keys, string_keys
from feature_eng.layout import Layout, Slot
from feature_eng.plan import Packed, Plan
from feature_eng.program import OPERATIONS, STEPS, Instruction
from feature_eng.tables import hash_table

INPUTS = (
    Input("count", "item", "int64"),
    Input("moment", "item", "int64"),
    Input("title", "item", "string"),
    Input("city", "item", "string"),
    Input("price", "item", "float32"),
    Input("weight", "item", "float64"),
    Input("history", "item", "int64", is_list=True),
    Input("tags", "item", "string", is_list=True),
)
INTS = [NULL_INT, NULL_INT + 1, -1, 0, 1, 2, 3, 7, 10**12, 2**63 - 1]
TEXTS = [NULL_STRING, "a", "Red  SHOE", "red shoe", "GRÖSSE\u2003m", "\u2003", "a string of more than eight bytes", "é"]
QUIET_NAN, OTHER_NAN = (np.array([bits], np.uint64).view(np.float64)[0] for bits in (0x7FF8 << 48, 0xFFF80123 << 32))
FLOATS = [QUIET_NAN, OTHER_NAN, np.inf, -np.inf, 0.0, -0.0, 1.0, -3.5, 1e-40, 1e30]

# The settings of the operations that have some.
NUMBERS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "buckets": st.just({"buckets": 7}),
    "words": st.just({"buckets": 7}),
    "vocabulary": st.sampled_from([{}, {"default": 9}]),
    "statistic": st.sampled_from([{"default": None}, {"default": 0.5}]),
    "dense_vocabulary": st.just({"low": -1, "null": 1}),
    "dense_statistic": st.just({"low": -1, "default": 0.5, "null": None}),
    "list_vocabulary": st.sampled_from([{"keep_last": 0}, {"keep_last": 1}]),
    "list_slice": st.builds(
        lambda start, end: {"start": start, "end": end, "padding": 0},
        st.sampled_from([0, 1, 2, -1, -2, 2**63 - 1, -(2**63 - 1)]),
        st.sampled_from([0, 1, 3, -1, -2, 2**63 - 1, -(2**63 - 1)]),
    ),
    "numbers": st.sampled_from([{"double": 0}, {"double": 1}]),
    "bucketize": st.just({"first": 1}),
    "difference_lag": st.sampled_from([{"shift": 1}, {"shift": -1}, {"shift": 2}, {"shift": 0}]),
    "constant": st.sampled_from([{"value": None}, {"value": 2.5}]),
}
HASHED, DENSE = {"table": "hashed"}, {"table": "dense"}
ARRAYS = {
    **dict.fromkeys(("vocabulary", "statistic", "list_vocabulary", "list_slice"), HASHED),
    **dict.fromkeys(("dense_vocabulary", "dense_statistic"), DENSE),
    "bucketize": {"edges": "edges"},
}
WIDE = ("words", "list_vocabulary", "list_slice")


def _tables() -> dict[str, Any]:
    keys = np.concatenate([int_keys(np.array(INTS[:6])), string_keys(TEXTS[:5])])
    hashed = hash_table(keys, np.arange(1, 12, dtype=np.int32), np.int32(2))
    return {"hashed": hashed, "dense": np.arange(3, 8, dtype=np.int32), "edges": np.array([-1.0, 0.0, 0.5, 2.0])}


def _chains(op: str) -> st.SearchStrategy[tuple[Any, ...]]:
    if op not in ("numbers", "bucketize"):
        return st.just(())
    step = st.sampled_from(list(STEPS)).map(lambda kind: (kind, *(0.5, 2.0)[: STEPS[kind][1]]))
    return st.lists(step, max_size=3).map(tuple)


@st.composite
def any_plan(draw: st.DrawFn, operations: tuple[str, ...]) -> Plan:
    """Draw a plan: each instruction reads registers of the kinds it may, and most registers are packed."""
    kinds = {i.name: f"{i.dtype} list" if i.is_list else i.dtype for i in INPUTS}
    steps, widths = [], {}
    for index, op in enumerate(draw(st.lists(st.sampled_from(operations), min_size=1, max_size=12))):
        reads = list(OPERATIONS[op].reads)
        if reads and reads[-1] is ...:
            reads = [reads[0]] * draw(st.integers(2, 3))
        fitting = [[name for name, kind in kinds.items() if kind == read or kind in read] for read in reads]
        if not all(fitting):
            continue
        read = tuple(draw(st.sampled_from(names)) for names in fitting)
        if op == "difference_lag" and kinds[read[0]] == "string":
            continue
        output = f"{index} {op}"
        numbers = draw(NUMBERS.get(op, st.just({})))
        steps.append(Instruction(op, read, output, numbers, ARRAYS.get(op, {}), draw(_chains(op))))
        kinds[output] = OPERATIONS[op].writes
        if kinds[output] != "key" and draw(st.integers(0, 3)):
            widths[output] = draw(st.integers(1, 4)) if op in WIDE else 1
    packed = [*widths, *(name for name in widths if draw(st.integers(0, 5)) == 0)]
    categorical = tuple(name for name in packed if kinds[name] == "id")
    continuous = tuple(name for name in packed if kinds[name] == "number")
    slots = tuple(Slot(f"{index}", 64, width=widths[name]) for index, name in enumerate(categorical))
    layout = Layout(slots, tuple(f"{index}" for index in range(len(continuous))))
    return Plan("abc", INPUTS, tuple(steps), layout, categorical, continuous, _tables())


def columns_of(rows: int, once: set[str], rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return columns of which some are given once, and the same with each of its rows written out."""
    short: dict[str, Any] = {}
    full: dict[str, Any] = {}
    for one in INPUTS:
        count, times = (1, rows) if one.name in once else (rows, 1)
        choices = {"string": TEXTS, "int64": INTS}.get(one.dtype, FLOATS)
        dtype = object if one.dtype == "string" else one.dtype
        lengths = rng.integers(0, 6, count)
        values = rng.choice(np.array(choices, dtype), int(lengths.sum()) if one.is_list else count)
        short[one.tensors[0]], full[one.tensors[0]] = values, np.tile(values, times)
        if one.is_list:
            short[one.tensors[1]] = np.concatenate([[0], np.cumsum(lengths)])
            full[one.tensors[1]] = np.concatenate([[0], np.cumsum(np.tile(lengths, times))])
    return short, full


def part_of(columns: dict[str, Any], first: int, stop: int) -> dict[str, Any]:
    """Return the columns of some of the rows."""
    part: dict[str, Any] = {}
    for one in INPUTS:
        values = columns[one.tensors[0]]
        if one.is_list:
            offsets = columns[one.tensors[1]][first : stop + 1]
            part[one.tensors[0]], part[one.tensors[1]] = values[offsets[0] : offsets[-1]], offsets - offsets[0]
        else:
            part[one.name] = values[first:stop]
    return part


def check_same(one: Packed, other: Packed) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))


WHOLE_REQUEST = ("difference_lag",)  # a row's depends on others
ROW_BY_ROW = tuple(op for op in OPERATIONS if op not in WHOLE_REQUEST)
ONCE = st.sets(st.sampled_from([i.name for i in INPUTS]))
ROWS = st.one_of(st.integers(0, 9), st.sampled_from([511, 512, 513, 1025]))
checked = settings(deadline=None, max_examples=80, suppress_health_check=list(HealthCheck))


@checked
@given(any_plan(tuple(OPERATIONS)), ROWS, ONCE, st.integers(0, 2**32))
def test_a_column_given_once_is_that_column_written_out(plan: Plan, rows: int, once: set[str], seed: int) -> None:
    short, full = columns_of(rows, once, np.random.default_rng(seed))
    check_same(plan.run(short, rows), plan.run(full, rows))


@checked
@given(any_plan(ROW_BY_ROW), ROWS, st.integers(0, 1025), st.integers(0, 2**32))
def test_rows_in_two_calls_are_the_rows_of_one(plan: Plan, rows: int, cut: int, seed: int) -> None:
    _, full = columns_of(rows, set(), np.random.default_rng(seed))
    cut = min(cut, rows)
    parts = [plan.run(part_of(full, *bounds), bounds[1] - bounds[0]) for bounds in ((0, cut), (cut, rows))]
    check_same(plan.run(full, rows), (np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])))


@checked
@given(any_plan(tuple(OPERATIONS)), ROWS, ONCE, st.integers(0, 2**32))
def test_rows_that_threads_share_are_the_rows_of_one(plan: Plan, rows: int, once: set[str], seed: int) -> None:
    short, _ = columns_of(rows, once, np.random.default_rng(seed))
    alone = plan.run(short, rows, threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "ROWS_A_THREAD", 1)
        check_same(alone, plan.run(short, rows, threads=3))
