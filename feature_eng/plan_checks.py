"""What a plan must be beyond what its program needs: columns that can be packed, ids that a ranker has rows for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from feature_eng import kernels
from feature_eng.inputs import UNSEEN_ID, Role
from feature_eng.layout import Layout
from feature_eng.plan import Plan
from feature_eng.program import Instruction, PlanError

MOST_COLUMNS = 65_536  # of either packed array, so that a row stays small
_MOST_IDS = 2**31 - 1
_FARTHEST = 2**31  # that a list is sliced from either end: sums of it and a list's length cannot wrap around
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


class Extremes(NamedTuple):
    """The largest payload of a table, and how many lines after its first a key may lie in."""

    payload: int = 0
    reach: int = 0


def check_parts(plan: Plan) -> None:
    """Refuse inputs, columns and numbers that cannot be.

    Raises:
        PlanError: naming the input, column or register and the rule it breaks.
    """
    roles = get_args(Role)
    for given in plan.inputs:
        if not given.name or given.role not in roles:
            raise PlanError(f"input {given.name!r} must have a name and a role of {', '.join(roles)}; got {given.role}")
    _check_layout(plan.layout)
    widths: dict[str, int] = dict.fromkeys(plan.continuous, 0)
    for slot, register in zip(plan.layout.categorical, plan.categorical, strict=False):
        if widths.setdefault(register, slot.width) != slot.width:
            raise PlanError(f"plan must pack {register} in one way; got {slot.name} of another kind or width")
    for step in plan.instructions:
        _check_numbers(step)
        if step.op == "int_keys" and step.inputs and widths.get(step.inputs[0], 1) > 1:
            raise PlanError(f"instruction {step.output} must read ids of one column; got {step.inputs[0]}")


def check_tables(plan: Plan, largest: Mapping[str, Extremes]) -> None:
    """Refuse ids that a slot of the layout has no room for, and lookups without an end.

    Args:
        plan: whose program has been assembled.
        largest: what is largest in each array, by array name.

    Raises:
        PlanError: naming the register or array and the rule it breaks.
    """
    ceilings = _ceilings(plan)
    for step in plan.instructions:
        if step.op == "bucketize" and np.isnan(edges := plan.arrays[step.arrays["edges"]]).any():
            raise PlanError(f"plan array {step.arrays['edges']} must hold numbers; got {edges[np.isnan(edges)][0]}")
        if step.output not in ceilings:
            continue
        ceiling, table = ceilings[step.output], step.arrays.get("table", "")
        if (highest := HIGHEST.get(step.op, _unseen)(step, plan)) >= ceiling:
            raise PlanError(f"ids of {step.output} must be below the cardinality {ceiling}; got {highest}")
        if table and largest[table].payload >= ceiling:
            raise PlanError(f"arrays/{table}.npy must hold ids from 0 to {ceiling - 1}; got {largest[table].payload}")
    for name, (_, reach) in largest.items():
        if reach > kernels.MOST_REACH:
            raise PlanError(f"arrays/{name}.npy must reach {kernels.MOST_REACH} lines at most; got {reach}")


def _check_layout(layout: Layout) -> None:
    names = [slot.name for slot in layout.categorical] + list(layout.continuous)
    if len(set(names)) < len(names) or "" in names:
        raise PlanError(f"layout must have columns of different names; got {', '.join(names)}")
    for slot in layout.categorical:
        for setting, most in (("cardinality", _MOST_IDS), ("width", MOST_COLUMNS), ("embedding", _MOST_IDS)):
            value = getattr(slot, setting)
            if not (setting == "embedding" and value is None) and not 1 <= value <= most:
                raise PlanError(f"{setting} of {slot.name} must be from 1 to {most}; got {value}")
    for name, columns in (("categorical", layout.categorical_width), ("continuous", len(layout.continuous))):
        if columns > MOST_COLUMNS:
            raise PlanError(f"layout must have at most {MOST_COLUMNS} {name} columns; got {columns}")


def extremes(array: NDArray[Any]) -> Extremes:
    """Return what is largest in a hash table (lines, 8) or in a dense table (n,), and nothing in an array that is none.

    Payloads are of 32 bits without a sign, as ids are that are not negative.
    """
    if array.dtype == np.uint64 and array.shape[1:] == (kernels.LINE_BYTES // 8,):
        return Extremes(*map(int, kernels.largest_of(array)))
    return Extremes(int(array.view(np.uint32).max(initial=0)) if array.dtype == np.int32 else 0)


def _ceilings(plan: Plan) -> dict[str, int]:
    """Return the lowest cardinality of the slots of each register."""
    lowest: dict[str, int] = {}
    for slot, register in zip(plan.layout.categorical, plan.categorical, strict=True):
        lowest[register] = min(slot.cardinality, lowest.get(register, slot.cardinality))
    return lowest


def _unseen(step: Instruction, plan: Plan) -> int:
    return UNSEEN_ID


def _setting(name: str) -> Callable[[Instruction, Plan], Any]:
    return lambda step, plan: step.numbers[name]


def _bins(step: Instruction, plan: Plan) -> Any:
    first: Any = step.numbers["first"]
    return first + len(plan.arrays[step.arrays["edges"]])


def _other(step: Instruction, plan: Plan) -> Any:
    return step.numbers.get("default", UNSEEN_ID)


# The highest id that an operation gives by itself; a table's are in its payloads.
HIGHEST: dict[str, Callable[[Instruction, Plan], Any]] = {
    "buckets": _setting("buckets"),
    "words": _setting("buckets"),
    "vocabulary": _other,
    "list_vocabulary": _unseen,
    "list_slice": lambda step, plan: max(UNSEEN_ID, _setting("padding")(step, plan)),
    "dense_vocabulary": lambda step, plan: max(_other(step, plan), _setting("null")(step, plan)),
    "is_null": lambda step, plan: 1,
    "bucketize": _bins,
    "hour": lambda step, plan: 25,
    "weekday": lambda step, plan: 8,
}


def _check_numbers(step: Instruction) -> None:
    for name, value in step.numbers.items():
        if isinstance(value, float) and abs(value) > _LARGEST_FLOAT32:
            raise PlanError(f"{name} of {step.output} must be a float32 number; got {value}")
    if step.steps and step.op not in ("numbers", "bucketize"):
        raise PlanError(f"instruction {step.output} must have no steps, since it is {step.op}; got {len(step.steps)}")
    for name, lowest, highest in (("start", -_FARTHEST, _FARTHEST), ("end", -_FARTHEST, 2**63 - 1)):
        bound: Any = step.numbers.get(name, 0)
        if step.op == "list_slice" and isinstance(bound, int) and not lowest <= bound <= highest:
            raise PlanError(f"{name} of {step.output} must be from {lowest} to {highest}; got {bound}")
    kind = np.float32 if step.numbers.get("double") == 0 else np.float64
    for name, *constants in step.steps:
        for constant in constants:
            if kind is np.float32 and isinstance(constant, (int, float)) and abs(constant) > _LARGEST_FLOAT32:
                raise PlanError(f"{name} of {step.output} must have float32 numbers; got {constant}")
        if name == "normalize" and len(constants) == 2 and constants[1] is not None and not kind(constants[1]):
            raise PlanError(f"normalize of {step.output} must divide by another number than 0; got {constants[1]}")
