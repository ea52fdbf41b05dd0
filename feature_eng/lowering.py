"""Fitted NVTabular workflow to plan: walks the graph and lowers each operator by its rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import nvtabular as nvt
from merlin.dag.ops.concat_columns import ConcatColumns
from merlin.dag.ops.selection import SelectionOp
from merlin.dag.ops.subset_columns import SubsetColumns
from merlin.dag.ops.subtraction import SubtractionOp
from nvtabular import ops

import feature_eng.category_rules
import feature_eng.nvtabular_rules
import feature_eng.rules  # noqa: F401 - these register the rules
from feature_eng.fitted import fitted_fingerprint, fitted_inputs, fitted_layout, read_inputs, with_cardinalities
from feature_eng.functions import HOURS, WEEKDAYS
from feature_eng.inputs import Input
from feature_eng.layout import NO_NUMBER, Layout, Slot
from feature_eng.operators import list_outputs
from feature_eng.plan import Plan
from feature_eng.plan_writer import RULES, Registers, Writer
from feature_eng.plan_writer import rule as rule  # from here it comes after ours, which it may replace
from feature_eng.schema import Categorical, CategoricalList, Column, Hashed, Schema, Text, TimePart

HASHED = (ops.HashBucket, ops.HashedCross)


def lower(workflow: nvt.Workflow, schema: Schema | None = None) -> Plan:
    """Compile a fitted workflow: a schema's, or one written by hand from NVTabular's operators.

    A schema's plan gives what the workflow gives for `serving_frame` rows. One written by hand has the inputs that its
    outputs depend on; docs/lowering.md says which operators compile and where the plan differs from the workflow.

    Raises:
        TypeError: the workflow holds an operator that has no rule, or an output that a plan cannot have.
        ValueError: the workflow is not fitted, or to numbers that a plan cannot hold.
    """
    if workflow.output_schema is None:
        raise ValueError("workflow must be fitted; got one that is not")
    return _lower_schema(workflow, schema) if schema else _lower_fitted(workflow)


def _lower_schema(workflow: nvt.Workflow, schema: Schema) -> Plan:
    writer = Writer(schema.inputs)
    # In training an infinity was cleaned away to NaN.
    roots = {i.name: writer.numbers(i.name, i.name, ("finite",)) for i in schema.inputs if i.dtype == "float32"}
    registers = _walk(workflow.output_node, writer, roots, {})
    layout = _layout(schema, writer.cardinalities)
    return _plan(schema.fingerprint, schema.inputs, writer, layout, registers)


def _lower_fitted(workflow: nvt.Workflow) -> Plan:
    writer = Writer(fitted_inputs(workflow.input_schema))
    registers = _walk(workflow.output_node, writer, {}, {})
    layout, packed = fitted_layout(workflow.output_schema, writer, registers)
    plan = with_cardinalities(_plan("", tuple(writer.inputs.values()), writer, layout, packed))
    inputs = read_inputs(plan, workflow.output_schema)
    return replace(plan, inputs=inputs, fingerprint=fitted_fingerprint(plan, inputs))


def _plan(fingerprint: str, inputs: tuple[Input, ...], writer: Writer, layout: Layout, registers: Registers) -> Plan:
    if layout.continuous == (NO_NUMBER,):
        registers[NO_NUMBER] = writer.emit("constant", NO_NUMBER, [], {"value": 0.0})
    categorical = tuple(registers[slot.name] for slot in layout.categorical)
    continuous = tuple(registers[name] for name in layout.continuous)
    instructions, arrays = writer.finished((*categorical, *continuous))
    return Plan(fingerprint, inputs, instructions, layout, categorical, continuous, arrays)


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
    if node.op is None or isinstance(node.op, (ConcatColumns, SelectionOp, SubsetColumns, SubtractionOp)):
        names = set(node.output_schema.column_names)
        return {n: r for n, r in registers.items() if n in names or list_outputs(n, 1)[0] in names}
    columns = list(node.input_columns.names)
    writer.groups = [(g,) if isinstance(g, str) else tuple(g) for g in node.input_columns.grouped_names]
    name = type(node.op).__name__
    if type(node.op) in HASHED:
        raise TypeError(
            f"operator {name} on {', '.join(columns)} must be feature_eng.operators.HashedIds, since on a CPU it "
            f"hashes a row's index with its value; got {name}"
        )
    if type(node.op) not in RULES:
        raise TypeError(
            f"operator {name} on {', '.join(columns)} must be one of "
            f"{', '.join(sorted({op.__name__ for op in RULES}))}, which have a rule; replace it by these, or "
            "register a rule with feature_eng.lowering.rule"
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
