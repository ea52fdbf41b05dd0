"""How NVTabular's operators on numbers, and those that change names and types alone, become instructions of a plan.

Those on categories are in `category_rules`. Registers hold what pandas would: float32 columns are computed in float32,
all others, and a float32 column that is given a constant that float32 does not hold, in float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from merlin.dag import ColumnSelector
from nvtabular import ops

from feature_eng.plan_writer import Registers, Writer, rule

_NUMBERS = ("int64", "float32", "float64", "number")
_PLAIN = (
    ops.AddMetadata,
    ops.AddTags,
    ops.AddProperties,
    ops.TagAsUserID,
    ops.TagAsItemID,
    ops.TagAsUserFeatures,
    ops.TagAsItemFeatures,
    ops.DataStats,
    ops.ValueCount,
)


def _number(writer: Writer, op: Any, column: str, registers: Registers) -> str:
    """Return a column's register, which must hold numbers."""
    register = registers[column]
    kind = writer.kinds[register]
    if register in writer.indicators:
        return writer.numbers(column, writer.indicators[register], ("null",), double=True)
    if kind not in _NUMBERS:
        raise TypeError(f"{type(op).__name__} on {column} must read numbers; got {kind}")
    return register


def _wide(writer: Writer, register: str, *constants: float | None) -> bool:
    """Return whether pandas computes in float64, as it does where float32 does not hold a constant."""
    given = [c for c in constants if c is not None]
    return register in writer.doubles or any(float(np.float32(c)) != c for c in given)


def _fixed(op: Any, column: str, value: Any) -> float:
    """Return a fitted number, which must be finite."""
    if not math.isfinite(value):
        raise ValueError(f"{type(op).__name__} on {column} must be fitted to a finite number; got {value}")
    return float(value)


def _unchanged(writer: Writer, op: Any, columns: list[str], registers: Registers) -> Registers:
    return registers


for _op in _PLAIN:
    rule(_op)(_unchanged)


@rule(ops.Rename)
def _rename(writer: Writer, op: ops.Rename, columns: list[str], registers: Registers) -> Registers:
    return {next(iter(op.column_mapping(ColumnSelector([c])))): registers[c] for c in columns}


def _filled(writer: Writer, op: Any, columns: list[str], registers: Registers, values: dict[str, Any]) -> Registers:
    """Return columns with nulls filled, and what tells which were."""
    filled = dict(registers)
    for column in columns:
        register, value = registers[column], values[column]
        kind = writer.kinds[register]
        if "list" in kind:
            raise TypeError(f"{type(op).__name__} on {column} must read one value a row; got {kind}")
        if op.add_binary_cols:
            filled[f"{column}_filled"] = _indicator(writer, f"{column}_filled", register)
        if kind == "string":
            filled[column] = register if register in writer.fills else writer.alias(column, "string")
            writer.fills.setdefault(filled[column], (register, str(value)))
        elif kind != "id" and register not in writer.fills and not math.isnan(value):
            wide = _wide(writer, register, value)
            filled[column] = writer.numbers(column, register, ("fill", _fixed(op, column, value)), double=wide)
            if register in writer.inputs:
                writer.fills[filled[column]] = (register, value)
    return filled


def _indicator(writer: Writer, name: str, register: str) -> str:
    """Return the register that tells where another is null, which ids and what was filled never are."""
    kind = writer.kinds[register]
    if kind == "id" or (kind == "string" and register in writer.fills):
        register = writer.emit("constant", name, [], {"value": 0.0})
        indicator = writer.buckets(name, register, [1.0])
    else:
        indicator = writer.emit("is_null", name, [register])
    if kind != "string":
        writer.indicators[indicator] = register
    return indicator


@rule(ops.FillMissing)
def _fill(writer: Writer, op: ops.FillMissing, columns: list[str], registers: Registers) -> Registers:
    return _filled(writer, op, columns, registers, dict.fromkeys(columns, op.fill_val))


@rule(ops.FillMedian)
def _fill_median(writer: Writer, op: ops.FillMedian, columns: list[str], registers: Registers) -> Registers:
    return _filled(writer, op, columns, registers, {c: op.medians[c] for c in columns})


@rule(ops.Clip)
def _clip(writer: Writer, op: ops.Clip, columns: list[str], registers: Registers) -> Registers:
    bounds = [None if bound is None else float(bound) for bound in (op.min_value, op.max_value)]
    clipped: Registers = {}
    for c in columns:
        register = _number(writer, op, c, registers)
        clipped[c] = writer.numbers(c, register, ("clip", *bounds), double=_wide(writer, register, *bounds))
    return clipped


@rule(ops.LogOp)
def _log(writer: Writer, op: ops.LogOp, columns: list[str], registers: Registers) -> Registers:
    sources = {c: _number(writer, op, c, registers) for c in columns}
    return {**registers, **{c: writer.numbers(c, sources[c], ("log", 1.0), double=False) for c in columns}}


@rule(ops.Normalize)
def _normalize(writer: Writer, op: ops.Normalize, columns: list[str], registers: Registers) -> Registers:
    wide = np.dtype(op.output_dtype) == np.float64
    normalized: Registers = {}
    for c in columns:
        moments = _fixed(op, c, op.means[c]), float(op.stds[c]) if op.stds[c] > 0 else 1.0
        register = _number(writer, op, c, registers)
        normalized[c] = writer.numbers(c, register, ("normalize", *moments), wide=wide)
    return normalized


@rule(ops.NormalizeMinMax)
def _min_max(writer: Writer, op: ops.NormalizeMinMax, columns: list[str], registers: Registers) -> Registers:
    wide = np.dtype(op.output_dtype) == np.float64
    normalized: Registers = {}
    for c in columns:
        low, high = op.mins[c], op.maxs[c]
        if not isinstance(low, np.floating):  # NVTabular's small integers wrap around
            low, high = int(low), int(high)
        with np.errstate(over="ignore"):
            span = _fixed(op, c, high - low)
        step = ("normalize", float(low), span) if span > 0 else ("over_twice",)
        normalized[c] = writer.numbers(c, _number(writer, op, c, registers), step, wide=wide)
    return normalized


@rule(ops.Bucketize)
def _bucketize(writer: Writer, op: ops.Bucketize, columns: list[str], registers: Registers) -> Registers:
    buckets: Registers = {}
    for c in columns:
        edges = np.array(op.boundaries(c), dtype=np.float64)
        if not len(edges) or not (edges[1:] >= edges[:-1]).all():
            raise ValueError(f"Bucketize on {c} must have boundaries that ascend; got {edges.tolist()}")
        buckets[c] = writer.buckets(c, _number(writer, op, c, registers), edges)
    return buckets


@rule(ops.ReduceDtypeSize)
def _reduce(writer: Writer, op: ops.ReduceDtypeSize, columns: list[str], registers: Registers) -> Registers:
    """Round numbers as the type does; integers stay as they are, where NVTabular's wrap around in a smaller type."""
    reduced = dict(registers)
    for c in columns:
        if registers[c] in writer.doubles and writer.kinds[registers[c]] in ("float64", "number"):
            dtype = np.dtype(op.float_dtype)
            if dtype not in (np.float32, np.float64):
                raise TypeError(f"ReduceDtypeSize on {c} must have float_dtype float32 or float64; got {dtype}")
            if dtype == np.float32:
                reduced[c] = writer.numbers(c, registers[c], wide=False)
    return reduced


@rule(ops.DifferenceLag)
def _difference_lag(writer: Writer, op: ops.DifferenceLag, columns: list[str], registers: Registers) -> Registers:
    differences: Registers = {}
    for c in columns:
        sources = [registers[name] for name in (c, *op.partition_cols)]
        if any(source not in writer.inputs for source in sources) or writer.kinds[sources[0]] not in _NUMBERS:
            kinds = ", ".join(writer.kinds[source] for source in sources)
            raise TypeError(f"DifferenceLag on {c} must read a number and columns as the request has them; got {kinds}")
        for shift in op.shifts:
            name = f"{c}_difference_lag_{shift}"
            differences[name] = writer.emit("difference_lag", name, sources, {"shift": shift})
    return differences
