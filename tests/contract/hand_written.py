"""Frames of every dtype, and how a hand-written workflow and its plan are held against each other."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import nvtabular as nvt
import pandas as pd
from dask.dataframe.io.io import from_delayed
from dask.delayed import delayed
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from feature_eng.inputs import NULL_INT
from feature_eng.lowering import lower
from feature_eng.plan import Plan
from feature_eng.plan_files import load_plan, save_plan

EXAMPLES = int(os.environ.get("STEELYARD_EXAMPLES", "0"))

INTS = {"i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64, "u32": np.uint32}
NUMBERS = [*INTS, "flag", "f32", "f64"]
SCALARS = [*NUMBERS, "text"]
DTYPES: dict[str, Any] = {**INTS, "flag": np.bool_, "f32": np.float32, "f64": np.float64}


def examples(default: int, **others: Any) -> Any:
    """Return Hypothesis settings; STEELYARD_EXAMPLES asks for more examples than the default."""
    return settings(
        max_examples=max(EXAMPLES, default),
        deadline=None,
        derandomize=not EXAMPLES,
        suppress_health_check=list(HealthCheck),
        **others,
    )


def _ints(dtype: Any) -> st.SearchStrategy[int]:
    about = np.iinfo(dtype)
    lowest = int(about.min) + (dtype == np.int64)  # the lowest int64 stands for a null
    return st.one_of(st.integers(max(lowest, -3), 9), st.sampled_from([lowest, int(about.max)]))


SINGLES = st.one_of(
    st.sampled_from([None, 0.0, -0.0, 1.0, 2.5, -1.0, 0.7, 3e38, -3e38, 1e-45, np.inf, -np.inf]),
    st.integers(-5, 9).map(float),
    st.floats(width=32, allow_nan=False),
)
DOUBLES = st.one_of(SINGLES, st.floats(-1e6, 1e6), st.sampled_from([0.1, 0.3, 1e300]))
TEXTS = st.one_of(st.sampled_from([None, "", "a", "b", "ß", "中文", "a\0", " ", "unseen"]), st.text(max_size=3))
ROW = {
    **{name: _ints(dtype) for name, dtype in INTS.items()},
    "flag": st.booleans(),
    "f32": SINGLES,
    "f64": DOUBLES,
    "text": TEXTS,
    "ints": st.lists(_ints(np.int64), max_size=5),
    "words": st.lists(TEXTS.filter(lambda t: t is not None), max_size=5),
}
FRAMES = st.lists(st.fixed_dictionaries(ROW), min_size=1, max_size=12).map(
    lambda rows: pd.DataFrame(rows, columns=list(ROW)).astype(DTYPES)
)


def training_log(seed: int = 0, rows: int = 60) -> pd.DataFrame:
    """Return rows with nulls, of which even seeds have texts that are empty and odd seeds texts that are null."""
    rng = np.random.default_rng(seed)
    empty = "" if seed % 2 == 0 else None
    log = pd.DataFrame({name: rng.integers(0, 9, rows).astype(dtype) for name, dtype in INTS.items()})
    log["i64"] = rng.choice([NULL_INT + 1, 2**63 - 1, -1, 0, 1, 2, 3], rows)
    log["flag"] = rng.integers(0, 2, rows).astype(bool)
    log["f32"] = np.where(rng.random(rows) < 0.2, np.nan, rng.integers(-4, 9, rows) / 2).astype(np.float32)
    log["f64"] = np.where(rng.random(rows) < 0.2, np.nan, rng.normal(3, 2, rows).round(1))
    log["text"] = rng.choice(np.array([empty, "a", "b", "ß", "中文", "a\0", "c"], dtype=object), rows)
    log["ints"] = [rng.integers(-2, 6, rng.integers(1, 5)) for _ in range(rows)]
    log["words"] = [list(rng.choice(["", "a", "b", "ß"], rng.integers(1, 4))) for _ in range(rows)]
    log["click"] = rng.integers(0, 2, rows).astype(np.float32)
    log["value"] = rng.random(rows)
    return log


def folder() -> str:
    """Return a new folder for an operator's files."""
    return mkdtemp(prefix="nvtabular-")


def fitted(node: Any, log: pd.DataFrame, partitions: int = 2) -> Any:
    """Return a workflow fitted on a log's partitions."""
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        workflow = nvt.Workflow(node)
        parts = [log[part::partitions].reset_index(drop=True) for part in range(partitions)]
        workflow.fit(nvt.Dataset(from_delayed([delayed(part) for part in parts], meta=log[:0])))
    return workflow


def compiled(node: Any, log: pd.DataFrame, partitions: int = 2) -> tuple[Any, Plan]:
    """Return a workflow fitted on a log's partitions, and its plan as read from disk."""
    workflow = fitted(node, log, partitions)
    path = Path(folder()) / "plan"
    save_plan(lower(workflow), path)
    return workflow, load_plan(path)


def plan_arrays(frame: pd.DataFrame, plan: Plan) -> dict[str, Any]:
    """Return a frame as a request has it: an empty string, or the lowest int64, for a null."""
    arrays: dict[str, Any] = {}
    for given in plan.inputs:
        column = frame[given.name]
        if given.is_list:
            values, offsets = given.tensors
            flat = [value for row in column for value in row]
            arrays[values] = np.array(flat, dtype=object if given.dtype == "string" else np.int64)
            arrays[offsets] = np.concatenate([[0], np.cumsum([len(row) for row in column])]).astype(np.int64)
        elif given.dtype == "string":
            arrays[given.name] = np.array(["" if pd.isna(v) else v for v in column], dtype=object)
        elif given.dtype == "int64":
            arrays[given.name] = np.array([NULL_INT if pd.isna(v) else int(v) for v in column], dtype=np.int64)
        else:
            arrays[given.name] = column.to_numpy(given.dtype)
    return arrays


def by_plan(plan: Plan, frame: pd.DataFrame) -> dict[str, Any]:
    """Return a plan's outputs by name, (n, width) for a list."""
    ids, numbers = plan.run(plan_arrays(frame, plan), len(frame))
    outputs: dict[str, Any] = {}
    first = 0
    for slot in plan.layout.categorical:
        cells = ids[:, first : first + slot.width]
        assert (cells >= 0).all()
        assert (cells < slot.cardinality).all()
        outputs[slot.name] = cells if slot.width > 1 else cells[:, 0]
        first += slot.width
    return outputs | dict(zip(plan.layout.continuous, numbers.T, strict=True))


def by_workflow(workflow: Any, frame: pd.DataFrame) -> pd.DataFrame:
    """Return what NVTabular gives."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return workflow.transform(frame.copy())


def check_equal(
    workflow: Any,
    plan: Plan,
    frame: pd.DataFrame,
    raises: Callable[[pd.DataFrame], bool] = lambda frame: False,
    atol: float = 0.0,
) -> None:
    """Hold plan and workflow against each other: ids exactly, floats within 1e-6; NVTabular may fail where `raises`."""
    found = by_plan(plan, frame)
    try:
        expected = by_workflow(workflow, frame)
    except Exception:
        assert raises(frame)
        return
    assert {slot.name for slot in plan.layout.categorical}.isdisjoint(plan.layout.continuous)
    for name, values in expected.items():
        check_column(found[name], values, atol, str(name))


def check_column(found: Any, expected: pd.Series, atol: float, name: str) -> None:
    """Hold one output against NVTabular's, whose lists are not padded."""
    if found.ndim == 2:
        expected = np.array([[*row, *[0] * (found.shape[1] - len(row))] for row in expected])
        np.testing.assert_array_equal(found, expected, err_msg=name)
    elif found.dtype == np.int32:
        np.testing.assert_array_equal(found, expected.to_numpy(), err_msg=name)
    else:
        with np.errstate(over="ignore"):
            numbers = expected.to_numpy().astype(np.float32)
        np.testing.assert_allclose(found, numbers, rtol=1e-6, atol=atol, err_msg=name)


def with_text(frame: pd.DataFrame, empty: str | None) -> pd.DataFrame:
    """Return a frame whose missing texts, null or empty, are all as given."""
    return frame.assign(text=[empty if pd.isna(t) or t == "" else t for t in frame["text"]])
