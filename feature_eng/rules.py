"""How each operator of our own becomes instructions of a plan; NVTabular's are in `nvtabular_rules`."""

from __future__ import annotations

from typing import Any

import numpy as np

from feature_eng.functions import NULL_INT_KEY, NULL_STRING_KEY
from feature_eng.inputs import NULL_ID
from feature_eng.operators import (
    FillMedian,
    HashedIds,
    KeyStatistic,
    LogOp,
    MomentPart,
    Normalize,
    VocabularyIds,
    WordIds,
)
from feature_eng.plan_writer import Registers, Writer, rule


def _sources(writer: Writer, op: Any, columns: list[str], registers: Registers) -> list[str]:
    """Return the registers of columns, which must be of strings or integers: others have other keys in training."""
    sources = [registers[c] for c in columns]
    for column, source in zip(columns, sources, strict=True):
        kind = writer.kinds[source].removesuffix(" list")
        if source in writer.virtual or kind not in ("string", "int64", "id"):
            found = f"{'filled ' if source in writer.virtual else ''}{kind}"
            raise TypeError(f"{type(op).__name__} on {column} must read strings, integers or ids; got {found}")
    return sources


@rule(VocabularyIds)
def _vocabulary(writer: Writer, op: VocabularyIds, columns: list[str], registers: Registers) -> Registers:
    writer.cardinalities[op.name] = op.cardinality
    sources = _sources(writer, op, columns[:1], registers)  # fitting alone reads the one with the vocabulary
    null = NULL_STRING_KEY if "string" in writer.kinds[sources[0]] else NULL_INT_KEY
    keys, ids = np.append(op.keys, null), np.append(op.ids, np.int32(NULL_ID))
    return {op.name: writer.vocabulary(op.name, sources, keys, ids, op.width)}


@rule(HashedIds)
def _hashed(writer: Writer, op: HashedIds, columns: list[str], registers: Registers) -> Registers:
    keys = writer.keys(_sources(writer, op, columns, registers))
    return {op.name: writer.emit("buckets", op.name, [keys], {"buckets": op.buckets})}


@rule(WordIds)
def _words(writer: Writer, op: WordIds, columns: list[str], registers: Registers) -> Registers:
    sources = _sources(writer, op, columns, registers)
    return {op.name: writer.emit("words", op.name, sources, {"buckets": op.buckets})}


@rule(MomentPart)
def _moment(writer: Writer, op: MomentPart, columns: list[str], registers: Registers) -> Registers:
    return {op.name: writer.emit(op.part, op.name, _sources(writer, op, columns, registers))}


@rule(KeyStatistic)
def _key_statistic(writer: Writer, op: KeyStatistic, columns: list[str], registers: Registers) -> Registers:
    keys = [name for name in columns if name not in (op.column, op.fold)]
    sources = _sources(writer, op, keys, registers)
    return {op.name: writer.statistic(op.name, sources, op.keys, op.values, op.default)}


@rule(FillMedian)
def _fill_median(writer: Writer, op: FillMedian, columns: list[str], registers: Registers) -> Registers:
    return {c: writer.numbers(c, registers[c], ("fill", float(op.medians[c]))) for c in columns}


@rule(LogOp)
def _log(writer: Writer, op: LogOp, columns: list[str], registers: Registers) -> Registers:
    return {c: writer.numbers(c, registers[c], ("log", 1.0)) for c in columns}


@rule(Normalize)
def _normalize(writer: Writer, op: Normalize, columns: list[str], registers: Registers) -> Registers:
    moments = {c: (float(op.means[c]), float(op.stds[c]) or 1.0) for c in columns}
    return {c: writer.numbers(c, registers[c], ("normalize", *moments[c]), wide=False) for c in columns}
