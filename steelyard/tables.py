"""Reports, metrics and rankings as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from feature_eng.log_report import LogReport
from models.evaluation import Evaluation


def log_tables(report: LogReport) -> Iterator[Table]:
    """Yield what a log holds, and what its checks found."""
    columns = Table(title=f"{report.rows_read:,} rows, {report.rows_kept:,} kept", title_justify="left")
    for name in ("column", "dtype", "null", "distinct", "lowest", "highest", "mean"):
        columns.add_column(name, justify="left" if name in ("column", "dtype") else "right")
    for column in report.columns:
        distinct = f"{'' if column.distinct_is_exact else '~'}{column.distinct:,}"
        numbers = (_number(column.lowest), _number(column.highest), _number(column.mean))
        columns.add_row(column.name, column.dtype, f"{column.null_rate:.1%}", distinct, *numbers)
    yield columns
    if report.checks:
        checks = Table(title="checks", title_justify="left")
        for name in ("check", "column", "rows", "policy", "done", "example"):
            checks.add_column(name, justify="right" if name == "rows" else "left")
        for found in report.checks:
            checks.add_row(
                found.check, found.column, f"{found.found:,}", found.policy, found.done, escape(found.example)
            )
        yield checks


def evaluation_tables(evaluation: Evaluation) -> Iterator[Table]:
    """Yield a table an objective: metrics down, systems across, 95 % intervals behind."""
    rows = evaluation.figures
    for objective in dict.fromkeys(row.objective for row in rows):
        own = [row for row in rows if row.objective == objective]
        systems = list(dict.fromkeys(row.system for row in own))
        table = Table(title=objective, title_justify="left")
        table.add_column("metric")
        for system in systems:
            table.add_column(system, justify="right")
        for metric in dict.fromkeys(row.metric for row in own):
            cells = {row.system: row for row in own if row.metric == metric}
            table.add_row(metric, *(_interval(cells.get(system)) for system in systems))
        yield table


def ranking_table(title: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return rankings side by side, a place a row."""
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(_number(v) if isinstance(v, float) else escape(str(v)) for v in (row[c] for c in columns)))
    return table


def _interval(row: Any) -> str:
    if row is None:
        return ""
    if row.low != row.low:
        return f"{row.value:.4f}"
    return f"{row.value:.4f} [dim]{row.low:.4f}–{row.high:.4f}[/]"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}"
