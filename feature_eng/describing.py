"""What a plan holds, as plain values that print and turn into JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_eng import kernels
from feature_eng.inputs import UNSEEN_ID
from feature_eng.plan import Plan
from feature_eng.program import Instruction
from feature_eng.tables import slots_of

_LINES_AT_ONCE = 1 << 18

_STEPS: dict[str, Callable[..., str]] = {
    "finite": lambda: "infinite becomes missing",
    "fill": lambda value: f"missing becomes {value:g}",
    "clip": lambda low, high: " and ".join(
        f"at {side} {bound:g}" for side, bound in (("least", low), ("most", high)) if bound is not None
    ),
    "log": lambda added: f"log(x + {added:g})",
    "normalize": lambda mean, deviation: f"(x − {mean:g}) / {deviation:g}",
    "scale": lambda offset, factor: f"(x − {offset:g}) · {factor:g}",
    "over_twice": lambda: "x / (x + x)",
    "null": lambda: "1 if missing, else 0",
}


def step_in_words(step: tuple[Any, ...]) -> str:
    """Return what a step of arithmetic does to x."""
    name, *constants = step
    return _STEPS[name](*constants) if name in _STEPS else " ".join(str(part) for part in step)


def kind_of(plan: Plan, register: str) -> str:
    """Return what a register or input holds: its dtype, key, id or number."""
    return plan.program.kinds[plan.program.names.index(register)]


def describe(plan: Plan) -> dict[str, Any]:
    """Return a plan's inputs, instructions, outputs and arrays, of types that JSON has."""
    arrays = [
        {"name": name, "dtype": a.dtype.name, "shape": list(a.shape), "bytes": a.nbytes}
        for name, a in plan.arrays.items()
    ]
    return {
        "fingerprint": plan.fingerprint,
        "inputs": [{"name": i.name, "role": i.role, "dtype": kind_of(plan, i.name)} for i in plan.inputs],
        "instructions": [_instruction(plan, step) for step in plan.instructions],
        "outputs": _outputs(plan),
        "arrays": arrays,
        "bytes": sum(a.nbytes for a in plan.arrays.values()),
    }


def _instruction(plan: Plan, step: Instruction) -> dict[str, Any]:
    return {
        "writes": step.output,
        "kind": kind_of(plan, step.output),
        "operation": step.op,
        "reads": list(step.inputs),
        "settings": dict(step.numbers),
        "arithmetic": [step_in_words(each) for each in step.steps],
        "arrays": dict(step.arrays),
        "table": _table(step, plan.arrays),
    }


def _outputs(plan: Plan) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    first = 0
    for slot, register in zip(plan.layout.categorical, plan.categorical, strict=True):
        columns = [first, first + slot.width - 1]
        about = {"cardinality": slot.cardinality, "width": slot.width, "embedding": slot.embedding}
        found.append({"name": slot.name, "array": "categorical", "columns": columns, "register": register, **about})
        first += slot.width
    for column, (name, register) in enumerate(zip(plan.layout.continuous, plan.continuous, strict=True)):
        found.append({"name": name, "array": "continuous", "columns": [column, column], "register": register})
    return found


def _table(step: Instruction, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any] | None:
    """Return an instruction's table: its kind, how many keys it lists, and how many it has room for."""
    if "table" not in step.arrays:
        return None
    table = arrays[step.arrays["table"]]
    if table.ndim == 2:
        return {"kind": "hash", "keys": _listed(table), "slots": kernels.LINE_KEYS * len(table)}
    default = step.numbers.get("default", UNSEEN_ID)
    if step.op == "dense_statistic" and default is not None:
        default = int(np.float32(default).view(np.int32))
    return {"kind": "dense", "keys": int(np.count_nonzero(table != default)), "slots": len(table)}


def _listed(table: NDArray[np.uint64]) -> int:
    """Return how many places hold a key that is found there; a free one holds a key that lies elsewhere."""
    listed = 0
    for first in range(0, len(table), _LINES_AT_ONCE):
        keys = np.ascontiguousarray(table[first : first + _LINES_AT_ONCE, : kernels.LINE_KEYS]).ravel()
        slots = np.arange(len(keys)) + kernels.LINE_KEYS * first
        listed += int(np.count_nonzero(slots_of(keys, table) == slots))
    return listed
