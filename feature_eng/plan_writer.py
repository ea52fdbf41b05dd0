"""What rules write a plan with: instructions and arrays, collected while a workflow's graph is walked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_eng import kernels
from feature_eng.inputs import NULL_INT, UNSEEN_ID, Input
from feature_eng.keys import UInt64Array, int_keys, key_ints
from feature_eng.program import OPERATIONS, Instruction, chain_constants
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


@dataclass(frozen=True)
class Lookup:
    """A table to be built: the payload of each key of some registers, and of every other key."""

    columns: tuple[str, ...]
    keys: UInt64Array
    payloads: NDArray[Any]
    default: Any

    @property
    def is_ids(self) -> bool:
        """Whether the payloads are ids, not numbers."""
        return self.payloads.dtype == np.int32


class Writer:
    """Collects instructions and arrays; registers are written once.

    A register's numbers are float32. Where the workflow has float64, `doubles` names the register, and what reads it
    computes them anew in float64, from the inputs or the table that they come from.

    Rules find, by register: its kind in `kinds`; the input and the value it is filled with in `fills`; what it tells to
    be null in `indicators`; the table of lists of any length in `lists`; a list's columns in `widths`. `groups` are the
    columns of the operator that is lowered, those of one group together.
    """

    def __init__(self, inputs: Sequence[Input]) -> None:
        self.inputs = {i.name: i for i in inputs}
        self.kinds = {i.name: f"{i.dtype} list" if i.is_list else i.dtype for i in inputs}
        self.doubles = {i.name for i in inputs if i.dtype in ("int64", "float64")}
        self.instructions: list[Instruction] = []
        self.arrays: dict[str, NDArray[Any]] = {}
        self.virtual: set[str] = set()
        self.lookups: dict[str, Lookup] = {}
        self.cardinalities: dict[str, int] = {}
        self.groups: list[tuple[str, ...]] = []
        self.fills: dict[str, tuple[str, Any]] = {}
        self.indicators: dict[str, str] = {}
        self.lists: dict[str, Lookup] = {}
        self.widths: dict[str, int] = {}

    def emit(
        self,
        op: str,
        name: str,
        inputs: Sequence[str],
        numbers: Mapping[str, float | None] | None = None,
        arrays: Mapping[str, NDArray[Any]] | None = None,
        steps: Sequence[tuple[Any, ...]] = (),
    ) -> str:
        """Append an instruction and return its output register, which is named after a column.

        Raises:
            TypeError: it reads a register that stands for a column alone.
        """
        if self.virtual.intersection(inputs):
            raise TypeError(
                f"{op} of {name} must read a column as the request has it; got one that is filled or of lists"
            )
        output = self._named(name, OPERATIONS[op].writes)
        stored = self._stored(arrays or {})
        self.instructions.append(Instruction(op, tuple(inputs), output, numbers or {}, stored, tuple(steps)))
        return output

    def alias(self, name: str, kind: str) -> str:
        """Return a new register, named after a column, that only rules know of: no instruction writes it."""
        output = self._named(name, kind)
        self.virtual.add(output)
        return output

    def _named(self, name: str, kind: str) -> str:
        number = len(self.kinds)
        while f"{name}.{number}" in self.kinds:  # an input may be called so
            number += 1
        self.kinds[f"{name}.{number}"] = kind
        return f"{name}.{number}"

    def _stored(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, str]:
        stored = {}
        for key, array in arrays.items():
            stored[key] = f"a{len(self.arrays)}_{key}"
            self.arrays[stored[key]] = np.ascontiguousarray(array)
        return stored

    def keys(self, columns: Sequence[str]) -> str:
        """Return the register with the keys of inputs or of ids, which is shared by all that read it.

        Raises:
            TypeError: a column holds something else.
        """
        for name in columns:
            if self.kinds[name] not in _KEYS:
                raise TypeError(
                    f"keys of {name} must be of a column as the request has it or of ids; got {self.kinds[name]}"
                )
        parts = [self._once(_KEYS[self.kinds[name]], name, [name]) for name in columns]
        return parts[0] if len(parts) == 1 else self._once("combined_keys", "+".join(columns), parts)

    def _once(self, op: str, name: str, inputs: list[str]) -> str:
        written = (i.output for i in self.instructions if i.op == op and i.inputs == tuple(inputs))
        return next(written, None) or self.emit(op, name, inputs)

    def numbers(
        self, name: str, register: str, *steps: tuple[Any, ...], double: bool | None = None, wide: bool | None = None
    ) -> str:
        """Return the register of a chain of arithmetic; one on the numbers of a table changes the table.

        Args:
            name: of the column.
            register: holds numbers.
            steps: each a kind and its constants.
            double: whether to compute in float64, not float32; by default as wide as what is read.
            wide: whether the workflow holds the result as float64; by default where it is computed so.
        """
        double = register in self.doubles if double is None else double
        wide = double if wide is None else wide
        table = self.lookups.get(register)
        if table:
            default = _chained(np.array([table.default]), steps, double, wide)
            if not np.isinf(default).any():
                values = _chained(table.payloads, steps, double, wide)
                return self._look_up(name, replace(table, payloads=values, default=default[0]))
        output = self.emit("numbers", name, [register], {"double": int(double)}, steps=steps)
        if wide:
            self.doubles.add(output)
        return output

    def buckets(self, name: str, register: str, edges: Sequence[float] | NDArray[np.float64]) -> str:
        """Return the register of how many ascending edges are not above a number; NaN is above all."""
        array = np.array(edges, dtype=np.float64)
        table = self.lookups.get(register)
        if table:
            ids = np.searchsorted(array, table.payloads.astype(np.float64), side="right").astype(np.int32)
            default = np.int32(np.searchsorted(array, np.float64(table.default), side="right"))
            return self._look_up(name, replace(table, payloads=ids, default=default))
        return self.emit("bucketize", name, [register], {"first": 0}, {"edges": array})

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
            table = hash_table(keys, ids, _UNSEEN)
            return self.emit("list_vocabulary", name, columns, {"keep_last": 1}, {"table": table})
        return self._look_up(name, Lookup(tuple(columns), keys, ids.astype(np.int32), _UNSEEN))

    def statistic(
        self, name: str, columns: Sequence[str], keys: UInt64Array, values: NDArray[Any], default: float
    ) -> str:
        """Return the register of the values (V,) of raw columns' keys (V,); the default is every other key's.

        The values are float32, or float64 where what is computed from them should be.
        """
        return self._look_up(name, Lookup(tuple(columns), keys, values, values.dtype.type(default)))

    def _look_up(self, name: str, table: Lookup) -> str:
        op = "vocabulary" if table.is_ids else "statistic"
        output = self.emit(op, name, [self.keys(table.columns)])
        self.lookups[output] = table
        if table.payloads.dtype == np.float64:
            self.doubles.add(output)
        return output

    def finished(self, packed: Sequence[str]) -> tuple[tuple[Instruction, ...], dict[str, NDArray[Any]]]:
        """Return the instructions that give the packed registers alone, with their tables, and their arrays."""
        steps = _needed(self._joined(packed), packed)
        steps = _needed([self._with_table(s) if s.output in self.lookups else s for s in steps], packed)
        return tuple(steps), {key: self.arrays[key] for step in steps for key in step.arrays.values()}

    def _joined(self, packed: Sequence[str]) -> list[Instruction]:
        """Return the instructions, adjacent chains of arithmetic joined to one."""
        steps = list(self.instructions)
        for index, step in enumerate(steps):
            if step.op not in ("numbers", "bucketize"):
                continue
            before = next((s for s in steps[:index] if s.output == step.inputs[0]), None)
            if before is None or before.op != "numbers":
                continue
            readers = sum(before.output in s.inputs for s in steps) + list(packed).count(before.output)
            double = before.numbers["double"] and before.output in self.doubles
            alike = step.op == "numbers" and step.numbers == before.numbers
            if (double and (alike or step.op == "bucketize")) or (alike and not double and readers == 1):
                steps[index] = replace(step, inputs=before.inputs, steps=before.steps + step.steps)
        return steps

    def _with_table(self, step: Instruction) -> Instruction:
        table = self.lookups[step.output]
        payloads, default = table.payloads, table.default
        numbers: dict[str, float | None] = {}
        if not table.is_ids:
            payloads, default = payloads.astype(np.float32), np.float32(default)
            numbers = {"default": _number_or_null(default)}
            payloads, default = payloads.view(np.int32), default.view(np.int32)
        elif default != _UNSEEN:
            numbers = {"default": int(default)}
        if len(table.columns) == 1 and self.kinds[table.columns[0]] == "int64":
            nulls = table.keys == _NULL_INT_KEY
            dense = dense_table(key_ints(table.keys[~nulls]), payloads[~nulls], default)
            null = payloads[nulls][0] if nulls.any() else default
            if dense and (table.is_ids or not np.isinf(null.view(np.float32))):
                numbers["null"] = int(null) if table.is_ids else _number_or_null(null.view(np.float32))
                stored = self._stored({"table": dense[0]})
                return replace(
                    step,
                    op=f"dense_{step.op}",
                    inputs=table.columns,
                    numbers={**numbers, "low": dense[1]},
                    arrays=stored,
                )
        stored = self._stored({"table": hash_table(table.keys, payloads, default)})
        return replace(step, numbers=numbers, arrays=stored)


_KEYS = {
    "string": "string_keys",
    "int64": "int_keys",
    "id": "int_keys",
    "float32": "float_keys",
    "float64": "float_keys",
}


def _number_or_null(value: np.float32) -> float | None:
    return None if np.isnan(value) else float(value)


def _chained(values: NDArray[Any], steps: Sequence[tuple[Any, ...]], double: bool, wide: bool) -> NDArray[Any]:
    """Return numbers after a chain of arithmetic, as float64 if `wide`."""
    kinds, constants = chain_constants("table", steps)
    dtype = np.float64 if double else np.float32
    result = np.array(values, dtype=dtype)
    kernels.run_steps(result, np.array(kinds, np.int64), np.array(constants, dtype).reshape(-1, 2))
    return result.astype(np.float64 if wide else np.float32)


def _needed(steps: Sequence[Instruction], packed: Sequence[str]) -> list[Instruction]:
    """Return the instructions that packed registers depend on."""
    needed = set(packed)
    kept: list[Instruction] = []
    for step in reversed(steps):
        if step.output in needed:
            kept.append(step)
            needed.update(step.inputs)
    return kept[::-1]
