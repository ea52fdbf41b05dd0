"""A plan, and a row's way through one, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from feature_eng.explaining import Explained


def plan_tables(about: Mapping[str, Any]) -> Iterator[Table]:
    """Yield what `describe` found: inputs, instructions, outputs and arrays."""
    yield _table("inputs", ("name", "role", "dtype"), [(i["name"], i["role"], i["dtype"]) for i in about["inputs"]])
    yield _table(
        "instructions",
        ("", "writes", "kind", "operation", "reads", "settings", "table"),
        [
            (index, step["writes"], step["kind"], step["operation"], ", ".join(step["reads"]), *_settings(step))
            for index, step in enumerate(about["instructions"])
        ],
    )
    yield _table(
        "outputs",
        ("array", "columns", "name", "register", "cardinality", "embedding"),
        [
            (
                each["array"],
                "–".join(str(column) for column in dict.fromkeys(each["columns"])),
                each["name"],
                each["register"],
                _count(each.get("cardinality")),
                _count(each.get("embedding")),
            )
            for each in about["outputs"]
        ],
    )
    rows = [(a["name"], a["dtype"], " × ".join(map(_count, a["shape"])), _count(a["bytes"])) for a in about["arrays"]]
    yield _table("arrays", ("name", "dtype", "shape", "bytes"), [*rows, ("in all", "", "", _count(about["bytes"]))])


def explained_tables(explained: Sequence[Explained], packed: Mapping[str, Any]) -> Iterator[Table]:
    """Yield what each instruction made of a row, and the row as it was packed."""
    rows: list[tuple[Any, ...]] = []
    for index, each in enumerate(explained):
        rows.append((index, each.register, each.operation, ", ".join(each.reads), *_result(each)))
        rows += [("", "", "", f"  {words}", _number(value), "") for words, value in each.steps]
    yield _table("instructions", ("", "writes", "operation", "reads", "value", "meaning"), rows)
    for array in ("categorical", "continuous"):
        cells = [(c["column"], c["name"], _number(c["value"])) for c in packed[array]]
        yield _table(array, ("column", "name", "value"), cells)


def _settings(step: Mapping[str, Any]) -> tuple[str, str]:
    settings = [f"{name} {_number(value)}" for name, value in step["settings"].items() if name != "double"]
    settings += ["in float64"] if step["settings"].get("double") else []
    told = "; ".join([*settings, *step["arithmetic"]])
    if not (table := step["table"]):
        return told, ", ".join(step["arrays"].values())
    return told, f"{table['kind']}, {_count(table['keys'])} keys in {_count(table['slots'])} slots"


def _result(each: Explained) -> tuple[str, str]:
    if isinstance(each.value, list):
        return " ".join(map(str, each.value)), ", ".join(each.meaning)
    return (each.value if isinstance(each.value, str) else _number(each.value)), ", ".join(each.meaning)


def _table(title: str, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name, justify="right" if name in _NUMBERS else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    return table


_NUMBERS = ("", "columns", "column", "cardinality", "embedding", "bytes", "value")


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _number(value: Any) -> str:
    """Return a number with the digits that a float32 has."""
    return f"{value:.9g}" if isinstance(value, float) else str(value)
