"""What rules write a plan with: instructions and arrays, collected while a workflow's graph is walked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_eng.inputs import NULL_INT, UNSEEN_ID, Input
from feature_eng.keys import UInt64Array, int_keys, key_ints
from feature_eng.program import Instruction
from feature_eng.tables import dense_table, hash_table

Registers = dict[str, str]
Rule = Callable[["Writer", Any, list[str], Registers], Registers]

RULES: dict[type, Rule] = {}

_NULL_INT_KEY = int_keys(np.array([NULL_INT]))
_UNSEEN = np.int32(UNSEEN_ID)


def rule(operator: type) -> Callable[[Rule], Rule]:
    """Register the rule that lowers an operator, in place of an earlier one.

    A rule takes the writer, the fitted operator, its input columns, and the registers that hold them by name; it
    returns the registers of the operator's output columns.

        @rule(Doubled)
        def _doubled(writer, op, columns, registers):
            return {c: writer.numbers(c, registers[c], ("scale", 0.0, 2.0)) for c in columns}
    """

    def registered(function: Rule) -> Rule:
        RULES[operator] = function
        return function

    return registered


class Writer:
    """Collects instructions and arrays; registers are written once."""

    def __init__(self, inputs: Sequence[Input]) -> None:
        self.inputs = {i.name: i for i in inputs}
        self.instructions: list[Instruction] = []
        self.arrays: dict[str, NDArray[Any]] = {}
        self.cardinalities: dict[str, int] = {}

    def emit(
        self,
        op: str,
        name: str,
        inputs: Sequence[str],
        numbers: Mapping[str, float] | None = None,
        arrays: Mapping[str, NDArray[Any]] | None = None,
        steps: Sequence[tuple[Any, ...]] = (),
    ) -> str:
        """Append an instruction and return its output register, which is named after a column."""
        output = f"{name}.{len(self.instructions)}"
        stored = {}
        for key, array in (arrays or {}).items():
            stored[key] = f"a{len(self.arrays)}_{key}"
            self.arrays[stored[key]] = np.ascontiguousarray(array)
        self.instructions.append(Instruction(op, tuple(inputs), output, numbers or {}, stored, tuple(steps)))
        return output

    def keys(self, columns: Sequence[str]) -> str:
        """Return the register with the keys of raw columns, which is shared by all that read it."""
        parts = [
            self._once("string_keys" if self.inputs[name].dtype == "string" else "int_keys", name, [name])
            for name in columns
        ]
        return parts[0] if len(parts) == 1 else self._once("combined_keys", "+".join(columns), parts)

    def _once(self, op: str, name: str, inputs: list[str]) -> str:
        written = (i.output for i in self.instructions if i.op == op and i.inputs == tuple(inputs))
        return next(written, None) or self.emit(op, name, inputs)

    def numbers(self, name: str, register: str, *steps: tuple[Any, ...], double: bool = False) -> str:
        """Return the register of a chain of arithmetic, in float32 or, if `double`, in float64."""
        return self.emit("numbers", name, [register], {"double": int(double)}, steps=steps)

    def vocabulary(
        self, name: str, columns: Sequence[str], keys: UInt64Array, ids: NDArray[np.int32], width: int | None = None
    ) -> str:
        """Return the register of the ids (V,) of raw columns' keys (V,), nulls among them; 2 is every other key's.

        Args:
            name: of the feature.
            columns: raw columns; several are looked up by their tuple.
            keys: distinct.
            ids: int32.
            width: cells of a list, which keeps its last values.
        """
        if width is not None:
            arrays = hash_table(keys, ids, _UNSEEN)
            return self.emit("list_vocabulary", name, columns, {"keep_last": 1}, arrays)
        return self._lookup("vocabulary", name, columns, keys, ids, {}, _UNSEEN)

    def statistic(
        self, name: str, columns: Sequence[str], keys: UInt64Array, values: NDArray[np.float32], default: float
    ) -> str:
        """Return the register of the values (V,) of raw columns' keys (V,); the default is every other key's."""
        bits = np.ascontiguousarray(values, np.float32).view(np.int32)
        return self._lookup(
            "statistic", name, columns, keys, bits, {"default": default}, np.float32(default).view(np.int32)
        )

    def _lookup(
        self,
        op: str,
        name: str,
        columns: Sequence[str],
        keys: UInt64Array,
        payloads: NDArray[np.int32],
        numbers: dict[str, float],
        default: np.int32,
    ) -> str:
        if len(columns) == 1 and self.inputs[columns[0]].dtype == "int64":
            nulls = keys == _NULL_INT_KEY
            dense = dense_table(key_ints(keys[~nulls]), payloads[~nulls], default)
            if dense:
                null = payloads[nulls][0] if nulls.any() else default
                numbers = {**numbers, "low": dense[1], "null": _payload(op, null)}
                return self.emit(f"dense_{op}", name, columns, numbers, {"table": dense[0]})
        return self.emit(op, name, [self.keys(columns)], numbers, hash_table(keys, payloads, default))


def _payload(op: str, bits: np.int32) -> float:
    return int(bits) if op == "vocabulary" else float(bits.view(np.float32))


def simplified(instructions: Sequence[Instruction], packed: Sequence[str]) -> tuple[Instruction, ...]:
    """Return instructions that give the packed registers alone, adjacent chains of arithmetic joined to one."""
    steps = list(instructions)
    for index, step in enumerate(steps):
        if step.op != "numbers":
            continue
        before = next((s for s in steps[:index] if s.output == step.inputs[0]), None)
        readers = sum(step.inputs[0] in s.inputs for s in steps) + list(packed).count(step.inputs[0])
        if before and before.op == "numbers" and readers == 1 and before.numbers == step.numbers:
            steps[index] = replace(step, inputs=before.inputs, steps=before.steps + step.steps)
    needed = set(packed)
    kept: list[Instruction] = []
    for step in reversed(steps):
        if step.output in needed:
            kept.append(step)
            needed.update(step.inputs)
    return tuple(reversed(kept))
