"""The data report: what a log holds, what its checks found, and what was done about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from feature_eng.inputs import NULL_INT
from feature_eng.log_checks import is_null
from feature_eng.log_keys import Keys, array_keys

# the smallest keys kept of a column's values: counts are exact below it, within about 2 % above
DISTINCT_KEYS = 4096


class CheckReport(BaseModel):
    """What one check found in one column, out of `rows_read` rows."""

    check: str
    column: str
    found: int
    policy: str
    done: str
    example: str


class ColumnReport(BaseModel):
    """One canonical column over the rows read; `mean` of a binary label is its rate, lists count their elements."""

    name: str
    dtype: str
    is_label: bool
    null_rate: float
    distinct: int
    distinct_is_exact: bool
    lowest: float | None = None
    highest: float | None = None
    mean: float | None = None


class SplitReport(BaseModel):
    """How rows were split; `cut_ms` is the first validation moment, `straddling` requests went to training whole."""

    by: str
    fraction: float
    train_rows: int
    validation_rows: int
    cut_ms: int | None = None
    straddling: int = 0


class LogReport(BaseModel):
    """Everything that reading a log showed; `rows_kept` is what is left after every policy."""

    files: list[str]
    rows_read: int
    rows_kept: int
    checks: list[CheckReport]
    columns: list[ColumnReport]
    split: SplitReport | None = None


@dataclass(frozen=True)
class Summary:
    """What a piece of a column adds to its report; summaries of pieces add up."""

    dtype: str
    rows: int
    nulls: int
    keys: Keys
    count: int = 0
    total: float = 0.0
    lowest: float | None = None
    highest: float | None = None


def summarize(values: pa.Array) -> Summary:
    """Summarise a canonical column (n,)."""
    nulls = int(is_null(values).sum())
    if pa.types.is_list(values.type):
        inner = summarize(values.flatten())
        return replace(inner, dtype=f"list<{inner.dtype}>", rows=len(values), nulls=nulls)
    keys = array_keys(pc.unique(values))
    summary = Summary("float32" if pa.types.is_float32(values.type) else str(values.type), len(values), nulls, keys)
    summary = replace(summary, keys=_smallest(summary.keys))
    if pa.types.is_string(values.type) or nulls == len(values):
        return summary
    numbers = values.to_numpy()
    numbers = numbers[numbers != NULL_INT] if numbers.dtype == np.int64 else numbers[~np.isnan(numbers)]
    return replace(
        summary,
        count=len(numbers),
        total=float(numbers.sum(dtype=np.float64)),
        lowest=float(numbers.min()),
        highest=float(numbers.max()),
    )


def _smallest(keys: Keys) -> Keys:
    keys = np.unique(keys)
    return keys[:DISTINCT_KEYS].copy()


def add_up(summaries: Iterable[Mapping[str, Summary]]) -> dict[str, Summary]:
    """Add up the summaries of pieces, column by column."""
    total: dict[str, Summary] = {}
    for piece in summaries:
        for name, summary in piece.items():
            total[name] = _added(total[name], summary) if name in total else summary
    return total


def _added(a: Summary, b: Summary) -> Summary:
    lows, highs = ([x for x in pair if x is not None] for pair in ((a.lowest, b.lowest), (a.highest, b.highest)))
    return Summary(
        dtype=a.dtype,
        rows=a.rows + b.rows,
        nulls=a.nulls + b.nulls,
        keys=_smallest(np.concatenate([a.keys, b.keys])),
        count=a.count + b.count,
        total=a.total + b.total,
        lowest=min(lows, default=None),
        highest=max(highs, default=None),
    )


def column_report(name: str, summary: Summary, is_label: bool) -> ColumnReport:
    """Turn a summary into what a report says of the column."""
    return ColumnReport(
        name=name,
        dtype=summary.dtype,
        is_label=is_label,
        null_rate=summary.nulls / max(summary.rows, 1),
        distinct=distinct_count(summary.keys),
        distinct_is_exact=len(summary.keys) < DISTINCT_KEYS,
        lowest=summary.lowest,
        highest=summary.highest,
        mean=summary.total / summary.count if summary.count else None,
    )


def distinct_count(keys: Keys) -> int:
    """Count distinct values, null among them, from the smallest keys (n,), in order.

    Source: Bar-Yossef et al., Counting distinct elements in a data stream, RANDOM 2002 (k minimum values).
    """
    if len(keys) < DISTINCT_KEYS:
        return len(keys)
    return round((len(keys) - 1) * 2.0**64 / float(keys[-1]))
