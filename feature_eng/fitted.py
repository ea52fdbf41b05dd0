"""The inputs, layout and fingerprint of a plan for a workflow that has no schema of ours, from what was fitted."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from merlin.schema import Tags

from feature_eng.inputs import UNSEEN_ID, Input, Role
from feature_eng.layout import NO_NUMBER, Layout, Slot
from feature_eng.plan import Plan
from feature_eng.plan_checks import HIGHEST, extremes
from feature_eng.plan_writer import Registers, Writer
from feature_eng.program import Instruction

_ROLES: dict[Any, Role] = {Tags.USER: "user", Tags.CONTEXT: "context", Tags.SESSION: "context"}
_DTYPES: dict[str, Any] = {
    "float16": "float32",
    "float32": "float32",
    "float64": "float64",
    "string": "string",
    "object": "string",
    **{f"{sign}int{bits}": "int64" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "bool": "int64",
}


def fitted_inputs(schema: Any) -> list[Input]:
    """Return the columns that a workflow was fitted on, by name.

    Raises:
        TypeError: naming a column of a dtype that a plan does not read.
    """
    return [_input(column) for column in sorted(schema, key=lambda c: c.name)]


def _input(column: Any) -> Input:
    dtype = _DTYPES.get(column.dtype.name)
    if dtype is None or (column.is_list and dtype.startswith("float")):
        found = f"lists of {column.dtype.name}" if column.is_list else column.dtype.name
        raise TypeError(f"column {column.name} must be of integers, strings, or numbers one a row; got {found}")
    return Input(column.name, _role(column.tags) or "item", dtype, column.is_list)


def _role(tags: Any) -> Role | None:
    return next((role for tag, role in _ROLES.items() if tag in tags), None)


def fitted_layout(schema: Any, writer: Writer, registers: Registers) -> tuple[Layout, Registers]:
    """Return where each output stands, and the registers that hold the outputs.

    Ids are categorical, numbers continuous: so are integers that no operator gave ids, such as counts. The slots'
    cardinalities are left to `with_cardinalities`.

    Raises:
        TypeError: naming an output that is neither.
    """
    slots: list[Slot] = []
    numbers: list[str] = []
    packed: Registers = {}
    for column in schema:
        name = column.name
        if name not in registers:
            raise TypeError(f"output {name} must be a column that its operator's rule returns; got none")
        register = packed[name] = _packable(column, writer, registers[name])
        if writer.kinds[register] == "id":
            slots.append(Slot(name, 1, writer.widths.get(register, 1)))
        else:
            numbers.append(name)
    return Layout(tuple(slots), tuple(numbers or [NO_NUMBER])), packed


def _packable(column: Any, writer: Writer, register: str) -> str:
    """Return a register of ids or of numbers that a column can be packed from."""
    kind = writer.kinds[register]
    if kind == "list of ids":
        raise TypeError(
            f"output {column.name} must have lists of one length: add ListSlice(n, pad=True); got any length"
        )
    raw = register in writer.inputs
    if raw and column.dtype.name == "bool":
        numbers = {"low": 0, "null": UNSEEN_ID}
        return writer.emit("dense_vocabulary", column.name, [register], numbers, {"table": np.array([0, 1], np.int32)})
    if kind not in ("id", "number", "int64", "float32", "float64") or (raw and Tags.CATEGORICAL in column.tags):
        raise TypeError(
            f"output {column.name} must be numbers or ids, as Categorify and Bucketize give, and come after a "
            f"Categorify of encode_type='combo' that reads it, which puts the column itself back; got {kind}"
        )
    return writer.numbers(column.name, register) if raw else register


def with_cardinalities(plan: Plan) -> Plan:
    """Return a plan whose slots have room for the ids that are written to them, and no more."""
    writers = {step.output: step for step in plan.instructions}
    slots = (
        replace(slot, cardinality=_highest(writers[register], plan) + 1)
        for slot, register in zip(plan.layout.categorical, plan.categorical, strict=True)
    )
    return replace(plan, layout=replace(plan.layout, categorical=tuple(slots)))


def _highest(step: Instruction, plan: Plan) -> int:
    table = plan.arrays.get(step.arrays.get("table", ""))
    return int(max(HIGHEST[step.op](step, plan), 0 if table is None else extremes(table).payload))


def read_inputs(plan: Plan, schema: Any) -> tuple[Input, ...]:
    """Return the inputs that a plan reads; one is tagged itself, or has the role of every output that depends on it."""
    names = [slot.name for slot in plan.layout.categorical] + list(plan.layout.continuous)
    sources: dict[str, set[str]] = {given.name: {given.name} for given in plan.inputs}
    for step in plan.instructions:
        sources[step.output] = set().union(*(sources[name] for name in step.inputs))
    roles: dict[str, set[Role]] = {}
    for name, register in zip(names, (*plan.categorical, *plan.continuous), strict=True):
        for source in sources[register]:
            roles.setdefault(source, set()).add(_role(schema[name].tags) or "item")
    return tuple(
        replace(given, role=next(iter(roles[given.name]))) if roles[given.name] in ({"user"}, {"context"}) else given
        for given in plan.inputs
        if given.name in roles
    )


def fitted_fingerprint(plan: Plan, inputs: tuple[Input, ...]) -> str:
    """Return a hash of all that a plan computes, the same in every process."""
    digest = hashlib.sha256()
    text = {
        "inputs": [asdict(i) for i in inputs],
        "instructions": [asdict(step) for step in plan.instructions],
        "layout": plan.layout.to_json(),
    }
    digest.update(json.dumps(text, sort_keys=True).encode())
    for name, array in sorted(plan.arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
