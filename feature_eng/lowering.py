"""Fitted NVTabular workflow to plan: walks the graph and lowers each operator by its rule."""

from __future__ import annotations

from typing import Any

import nvtabular as nvt
from merlin.dag.ops.concat_columns import ConcatColumns
from merlin.dag.ops.selection import SelectionOp

import feature_eng.rules  # noqa: F401 - registers the rules
from feature_eng.functions import HOURS, WEEKDAYS
from feature_eng.layout import NO_NUMBER, Layout, Slot
from feature_eng.plan import Plan
from feature_eng.plan_writer import RULES, Registers, Writer, simplified
from feature_eng.schema import Categorical, CategoricalList, Column, Hashed, Schema, Text, TimePart


def lower(workflow: nvt.Workflow, schema: Schema) -> Plan:
    """Compile a schema's fitted workflow.

    The plan gives what the workflow gives for `serving_frame` rows.

    Raises:
        TypeError: the workflow holds an operator that has no rule.
    """
    writer = Writer(schema.inputs)
    # In training an infinity was cleaned away to NaN.
    roots = {i.name: writer.numbers(i.name, i.name, ("finite",)) for i in schema.inputs if i.dtype == "float32"}
    registers = _walk(workflow.output_node, writer, roots, {})
    layout = _layout(schema, writer.cardinalities)
    if layout.continuous == (NO_NUMBER,):
        registers[NO_NUMBER] = writer.emit("constant", NO_NUMBER, [], {"value": 0.0})
    categorical = tuple(registers[slot.name] for slot in layout.categorical)
    continuous = tuple(registers[name] for name in layout.continuous)
    return Plan(
        fingerprint=schema.fingerprint,
        inputs=schema.inputs,
        instructions=simplified(writer.instructions, (*categorical, *continuous)),
        layout=layout,
        categorical=categorical,
        continuous=continuous,
        arrays=writer.arrays,
    )


def _walk(node: Any, writer: Writer, roots: Registers, walked: dict[int, Registers]) -> Registers:
    """Return the registers of a node's output columns, lowering what it depends on first."""
    if id(node) not in walked:
        upstream: Registers = {}
        for parent in node.parents_with_dependencies:
            upstream.update(_walk(parent, writer, roots, walked))
        raw = {name: roots.get(name, name) for name in node.input_schema.column_names if name not in upstream}
        walked[id(node)] = _lowered(node, writer, raw | upstream)
    return walked[id(node)]


def _lowered(node: Any, writer: Writer, registers: Registers) -> Registers:
    if node.op is None or isinstance(node.op, (ConcatColumns, SelectionOp)):
        return registers
    columns = list(node.input_columns.names)
    if type(node.op) not in RULES:
        raise TypeError(
            f"operator {type(node.op).__name__} on {', '.join(columns)} must be one of "
            f"{', '.join(sorted(op.__name__ for op in RULES))}, which have a rule"
        )
    return RULES[type(node.op)](writer, node.op, columns, registers)


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
