"""One row's way through a plan: what each instruction makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timezone
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_eng.describing import kind_of, step_in_words
from feature_eng.inputs import NULL_ID, NULL_INT, NULL_STRING, PADDING_ID, RARE_ID, UNSEEN_ID, Input
from feature_eng.keys import UInt64Array, combined_keys, float_keys, int_keys, string_keys
from feature_eng.layout import Layout, Slot
from feature_eng.plan import Plan
from feature_eng.program import Instruction
from feature_eng.strings import encoded
from feature_eng.tables import slots_of

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_LISTED = {PADDING_ID: "padding", NULL_ID: "null", UNSEEN_ID: "unseen", RARE_ID: "rare"}


@dataclass(frozen=True)
class Explained:
    """What an instruction wrote: a key, ids or one number, and what they mean.

    `steps` are the number before an instruction's chain of arithmetic and after each of its steps, in words.
    """

    register: str
    operation: str
    reads: tuple[str, ...]
    kind: str
    value: str | list[int] | float
    meaning: tuple[str, ...]
    steps: tuple[tuple[str, float], ...]


def columns_of_row(inputs: Sequence[Input], row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan's columns, one row long, from a row's values by name: null, text, numbers, moments and lists.

    Raises:
        ValueError: a column is missing, or of another type than the plan reads.
    """
    columns: dict[str, Any] = {}
    missing = [given.name for given in inputs if given.name not in row]
    if missing:
        raise ValueError(f"row must hold {', '.join(missing)}; got {', '.join(row) or 'nothing'}")
    for given in inputs:
        value = row[given.name]
        if given.is_list:
            values = [] if value is None else value
            if not isinstance(values, (list, tuple)):
                raise ValueError(f"{given.name} must be a list of {given.dtype} or null; got {value!r}")
            columns[given.tensors[1]] = np.array([0, len(values)])
        else:
            values = [value]
        cells = [_cell(given, each) for each in values]
        columns[given.tensors[0]] = encoded(cells) if given.dtype == "string" else np.array(cells, dtype=given.dtype)
    return columns


def explain(plan: Plan, columns: Mapping[str, Any]) -> list[Explained]:
    """Return what each instruction of a plan makes of one row, in order.

    Args:
        plan: to follow.
        columns: one row long, as `columns_of_row` makes them.

    Raises:
        ValueError: a column is missing, or of another dtype or length.
    """
    values = _values(plan, columns)
    keys: dict[str, UInt64Array] = {}
    explained = []
    for step in plan.instructions:
        kind, steps = kind_of(plan, step.output), []
        value: Any
        meaning: tuple[str, ...] = ()
        if kind == "key":
            keys[step.output] = _key(step, columns, values, keys)
            value = f"0x{int(keys[step.output][0]):016x}"
        elif kind == "id":
            value = [int(each) for each in values[step.output]]
            meaning = tuple(_meaning(plan, step, each) for each in value)
        else:
            value = float(values[step.output][0])
            meaning = _source(plan, step, columns, keys)
        if step.steps:
            words = ["as read", *map(step_in_words, step.steps)]
            steps = [(word, float(values[_after(step, count)][0])) for count, word in enumerate(words)]
        explained.append(Explained(step.output, step.op, step.inputs, kind, value, meaning, tuple(steps)))
    return explained


def _cell(given: Input, value: Any) -> Any:
    """Return a value as a plan reads it."""
    nulls = {"string": NULL_STRING, "int64": NULL_INT}
    if value is None:
        return nulls.get(given.dtype, np.nan)
    if given.dtype == "int64" and isinstance(value, date):
        moment = value if isinstance(value, datetime) else datetime.combine(value, time())
        since = moment.replace(tzinfo=moment.tzinfo or timezone.utc) - datetime(1970, 1, 1, tzinfo=timezone.utc)
        return (since.days * 86_400_000) + since.seconds * 1000 + since.microseconds // 1000
    kinds = {"string": (str,), "int64": (int,)}.get(given.dtype, (int, float))
    whole = given.dtype == "int64" and isinstance(value, float) and value.is_integer()  # pandas' integers with nulls
    if (not isinstance(value, kinds) or isinstance(value, bool)) and not whole:
        raise ValueError(f"{given.name} must be {given.dtype} or null; got {value!r}")
    if given.dtype == "int64" and not NULL_INT <= value < -NULL_INT:
        raise ValueError(f"{given.name} must be an integer of at most 64 bits; got {value}")
    return value


def _after(step: Instruction, count: int) -> str:
    return f"{step.output} after {count}"


def _values(plan: Plan, columns: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return every register of ids (width,) and numbers (1,), and each chain's number after each of its steps."""
    program = [
        # What a chain reads is itself a chain, of no steps.
        replace(step, op="numbers", output=_after(step, count), numbers=numbers, arrays={}, steps=step.steps[:count])
        for step in plan.instructions
        if step.steps
        for numbers in [{"double": step.numbers.get("double", 1)}]
        for count in range(len(step.steps) + 1)
    ]
    widths = {name: slot.width for slot, name in zip(plan.layout.categorical, plan.categorical, strict=True)}
    ids = [step.output for step in plan.instructions if kind_of(plan, step.output) == "id"]
    numbers = [step.output for step in plan.instructions if kind_of(plan, step.output) == "number"]
    numbers += [step.output for step in program]
    slots = tuple(Slot(name, 1, widths.get(name, 1)) for name in ids)
    shown = replace(
        plan,
        instructions=(*plan.instructions, *program),
        layout=Layout(slots, tuple(numbers)),
        categorical=tuple(ids),
        continuous=tuple(numbers),
    )
    categorical, continuous = shown.run(columns, 1)
    ends = np.cumsum([slot.width for slot in slots])
    parts = np.split(categorical[0], ends[:-1]) if ids else []
    return dict(zip(ids, parts, strict=True)) | {name: continuous[0, [at]] for at, name in enumerate(numbers)}


def _key(
    step: Instruction, columns: Mapping[str, Any], values: Mapping[str, NDArray[Any]], keys: Mapping[str, UInt64Array]
) -> UInt64Array:
    if step.op == "combined_keys":
        parts = [keys[name] for name in step.inputs]
        return combined_keys(*parts) if len(parts) > 1 else int_keys(parts[0].view(np.int64))
    source = step.inputs[0]
    if step.op == "string_keys":
        return string_keys(columns[source])
    if step.op == "float_keys":
        return float_keys(columns[source])
    return int_keys(columns[source] if source in columns else values[source])


def _source(
    plan: Plan, step: Instruction, columns: Mapping[str, Any], keys: Mapping[str, UInt64Array]
) -> tuple[str, ...]:
    """Return whether a statistic's table lists what is looked up."""
    if step.op == "statistic":
        found = slots_of(keys[step.inputs[0]], plan.arrays[step.arrays["table"]])[0] >= 0
        return ("listed",) if found else ("unseen",)
    if step.op == "dense_statistic":
        value, table = int(columns[step.inputs[0]][0]), plan.arrays[step.arrays["table"]]
        place = value - int(step.numbers["low"] or 0)
        return ("null",) if value == NULL_INT else ("listed",) if 0 <= place < len(table) else ("unseen",)
    return ()


def _meaning(plan: Plan, step: Instruction, value: int) -> str:
    """Return what an id stands for."""
    if step.op in ("vocabulary", "dense_vocabulary") and step.numbers.get("default", UNSEEN_ID) != UNSEEN_ID:
        return "unseen" if value == step.numbers["default"] else "listed"
    if step.op in ("vocabulary", "dense_vocabulary", "list_vocabulary", "list_slice"):
        return _LISTED.get(value, "listed")
    if step.op == "is_null":
        return ("not null", "null")[value]
    if step.op in ("buckets", "words"):
        return "padding" if value == PADDING_ID else f"bucket {value - 1}"
    if step.op == "hour":
        return f"{value - 1}:00 to {value - 1}:59 UTC" if value <= 24 else "null"
    if step.op == "weekday":
        return _DAYS[value - 1] if value <= 7 else "null"
    if step.op == "bucketize":
        edges = plan.arrays[step.arrays["edges"]]
        place = value - int(step.numbers["first"] or 0)
        low = "" if place == 0 else f"{edges[place - 1]:g} ≤ "
        return f"{low}x{'' if place == len(edges) else f' < {edges[place]:g}'}" + (
            ", or missing" if place == len(edges) else ""
        )
    return ""
