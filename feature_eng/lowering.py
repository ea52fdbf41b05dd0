"""Fitted NVTabular workflow to plan: walks the graph and lowers each operator by a rule of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import nvtabular as nvt
from merlin.dag.ops.concat_columns import ConcatColumns
from merlin.dag.ops.selection import SelectionOp
from nvtabular import ops

from feature_eng.functions import HOURS, WEEKDAYS
from feature_eng.inputs import Input
from feature_eng.layout import NO_NUMBER, Layout, Slot
from feature_eng.operators import (
    FillMedian,
    HashedIds,
    KeyStatistic,
    MomentPart,
    Normalize,
    VocabularyIds,
    WordIds,
)
from feature_eng.plan import Instruction, Plan
from feature_eng.schema import Categorical, CategoricalList, Column, Hashed, Schema, Text, TimePart

Registers = dict[str, str]


def lower(workflow: nvt.Workflow, schema: Schema) -> Plan:
    """Compile a schema's fitted workflow.

    The plan gives what the workflow gives for `serving_frame` rows.

    Raises:
        TypeError: the workflow holds an operator that has no rule.
    """
    writer = _Writer(schema)
    registers = writer.node(workflow.output_node)
    layout = _layout(schema, writer.cardinalities)
    if layout.continuous == (NO_NUMBER,):
        registers[NO_NUMBER] = writer.emit("zero", NO_NUMBER, [])
    return Plan(
        fingerprint=schema.fingerprint,
        inputs=schema.inputs,
        instructions=tuple(writer.instructions),
        layout=layout,
        categorical=tuple(registers[slot.name] for slot in layout.categorical),
        continuous=tuple(registers[name] for name in layout.continuous),
        arrays=writer.arrays,
    )


class _Writer:
    """Collects instructions and arrays while the graph is walked; registers are written once."""

    def __init__(self, schema: Schema) -> None:
        self.inputs: dict[str, Input] = {i.name: i for i in schema.inputs}
        self.instructions: list[Instruction] = []
        self.arrays: dict[str, Any] = {}
        self.cardinalities: dict[str, int] = {}
        self._nodes: dict[int, Registers] = {}

    def emit(self, op: str, name: str, inputs: list[str], numbers: Any = None, arrays: Any = None) -> str:
        """Append an instruction and return its output register, which is named after a column."""
        output = f"{name}.{len(self.instructions)}"
        stored = {}
        for key, array in (arrays or {}).items():
            stored[key] = f"a{len(self.arrays)}_{key}"
            self.arrays[stored[key]] = np.ascontiguousarray(array)
        self.instructions.append(Instruction(op, tuple(inputs), output, numbers or {}, stored))
        return output

    def keys(self, columns: list[str]) -> str:
        """Return the register with the keys of raw columns, which is shared by all that read it."""
        parts = [self._column_keys(name) for name in columns]
        return parts[0] if len(parts) == 1 else self._once("combine_keys", "+".join(columns), parts)

    def _column_keys(self, name: str) -> str:
        column = self.inputs[name]
        op = "string_keys" if column.dtype == "string" else "int_keys"
        return self._once(op, name, [column.tensors[0]])

    def _once(self, op: str, name: str, inputs: list[str]) -> str:
        written = (i.output for i in self.instructions if i.op == op and i.inputs == tuple(inputs))
        return next(written, None) or self.emit(op, name, inputs)

    def node(self, node: Any) -> Registers:
        """Return the registers of a node's output columns, lowering what it depends on first."""
        if id(node) not in self._nodes:
            upstream: Registers = {}
            for parent in node.parents_with_dependencies:
                upstream.update(self.node(parent))
            roots = {name: name for name in node.input_schema.column_names if name not in upstream}
            self._nodes[id(node)] = self._apply(node, roots | upstream)
        return self._nodes[id(node)]

    def _apply(self, node: Any, registers: Registers) -> Registers:
        if node.op is None or isinstance(node.op, (ConcatColumns, SelectionOp)):
            return registers
        rule = _RULES.get(type(node.op))
        columns = list(node.input_columns.names)
        if rule is None:
            raise TypeError(
                f"operator {type(node.op).__name__} on {', '.join(columns)} must be one of "
                f"{', '.join(sorted(op.__name__ for op in _RULES))}, which have a rule"
            )
        return rule(self, node.op, columns, registers)


def _vocabulary(writer: _Writer, op: VocabularyIds, columns: list[str], _: Registers) -> Registers:
    writer.cardinalities[op.name] = op.cardinality
    table = {"listed": op.keys, "ids": op.ids}
    ids = writer.emit("vocabulary", op.name, [writer.keys(columns)], arrays=table)
    if op.width is not None:
        offsets = writer.inputs[columns[0]].tensors[1]
        ids = writer.emit("pad", op.name, [ids, offsets], {"width": op.width})
    return {op.name: ids}


def _hashed(writer: _Writer, op: HashedIds, columns: list[str], _: Registers) -> Registers:
    return {op.name: writer.emit("buckets", op.name, [writer.keys(columns)], {"buckets": op.buckets})}


def _text(writer: _Writer, op: WordIds, columns: list[str], _: Registers) -> Registers:
    return {op.name: writer.emit("words", op.name, columns, {"buckets": op.buckets, "width": op.width})}


def _moment(writer: _Writer, op: MomentPart, columns: list[str], _: Registers) -> Registers:
    return {op.name: writer.emit(op.part, op.name, columns)}


def _key_statistic(writer: _Writer, op: KeyStatistic, columns: list[str], _: Registers) -> Registers:
    keys = writer.keys([name for name in columns if name not in (op.column, op.fold)])
    table = {"listed": op.keys, "values": op.values}
    return {op.name: writer.emit("lookup", op.name, [keys], {"default": op.default}, table)}


def _element_wise(name: str, numbers: Callable[[Any, str], dict[str, float]], arrays: Any = None) -> Callable[..., Any]:
    """Return the rule of an operator that maps each of its columns on its own."""

    def rule(writer: _Writer, op: Any, columns: list[str], registers: Registers) -> Registers:
        return {
            column: writer.emit(name, column, [registers[column]], numbers(op, column), arrays and arrays(op, column))
            for column in columns
        }

    return rule


def _clip_bounds(op: ops.Clip, _: str) -> dict[str, float]:
    """Return the bounds, a missing one as the float32 farthest out, since JSON has no infinity."""
    farthest = float(np.finfo(np.float32).max)
    low = -farthest if op.min_value is None else op.min_value
    return {"low": low, "high": farthest if op.max_value is None else op.max_value}


_RULES: dict[type, Callable[..., Registers]] = {
    VocabularyIds: _vocabulary,
    HashedIds: _hashed,
    WordIds: _text,
    MomentPart: _moment,
    KeyStatistic: _key_statistic,
    FillMedian: _element_wise("fill", lambda op, column: {"value": op.medians[column]}),
    ops.FillMissing: _element_wise("fill", lambda op, column: {"value": op.fill_val}),
    ops.Clip: _element_wise("clip", _clip_bounds),
    ops.LogOp: _element_wise("log", lambda op, column: {}),
    Normalize: _element_wise("normalize", lambda op, column: {"mean": op.means[column], "deviation": op.stds[column]}),
    ops.Bucketize: _element_wise(
        "bucketize", lambda op, column: {}, lambda op, column: {"edges": np.float32(op.boundaries(column)[1:])}
    ),
}


def _layout(schema: Schema, cardinalities: dict[str, int]) -> Layout:
    """Return where each feature stands; a shop without numbers gets one column of zeros."""
    slots = [_slot(feature, cardinalities) for feature in schema.features]
    numbers = [f.name for f, slot in zip(schema.features, slots, strict=True) if slot is None]
    return Layout(tuple(slot for slot in slots if slot), tuple(numbers or [NO_NUMBER]))


def _slot(feature: Column, cardinalities: dict[str, int]) -> Slot | None:
    """Return a feature's slot, None for a continuous one."""
    embedding = getattr(feature, "embedding", None)
    if isinstance(feature, Categorical):
        return Slot(feature.name, cardinalities[feature.name], embedding=embedding)
    if isinstance(feature, CategoricalList):
        return Slot(feature.name, cardinalities[feature.name], feature.max_length, embedding)
    if isinstance(feature, Text):
        return Slot(feature.name, feature.buckets + 1, feature.max_length, embedding)
    if isinstance(feature, Hashed):
        return Slot(feature.name, feature.buckets + 1, embedding=embedding)
    if isinstance(feature, TimePart) and feature.part != "age_days":
        return Slot(feature.name, (HOURS if feature.part == "hour" else WEEKDAYS) + 2, embedding=embedding)
    if getattr(feature, "is_categorical", False):
        return Slot(feature.name, len(feature.transform[-1].values) + 2)  # type: ignore[union-attr]
    return None
