"""One HTML file out of sections, tables and charts, which opens without a network; what data says is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from steelyard.charts import Svg

TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class PageTable:
    """A title, names of columns, and rows of cells that are shown as they are."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Section:
    """A heading, a sentence that says how to read what follows, what was found in words, charts and tables."""

    title: str
    reading: str
    found: Sequence[str] = ()
    charts: Sequence[Svg] = ()
    tables: Sequence[PageTable] = ()


def write_page(path: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write a page beside its target and rename it, so that the file is whole or not there.

    Args:
        path: the HTML file; its folder is made where it does not exist.
        title: of the page.
        lead: a sentence below it.
        sections: in order.

    Raises:
        RuntimeError: Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError:
        raise RuntimeError(
            "page must have Jinja2 installed; got none, `pip install steelyard[report]` adds it"
        ) from None
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    shown = [
        {
            "title": section.title,
            "reading": section.reading,
            "found": section.found,
            "charts": [Markup(chart.text) for chart in section.charts],  # matplotlib escaped its text
            "tables": section.tables,
        }
        for section in sections
    ]
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(template.render(title=title, lead=lead, sections=shown), encoding="utf-8")
    beside.replace(path)


def check_installed(name: str, extra: str, modules: Sequence[str]) -> None:
    """Refuse to begin what would end without a page.

    Args:
        name: of what needs the modules.
        extra: of the package, that brings them.
        modules: to be imported.

    Raises:
        RuntimeError: naming the first that is not installed, and the extra.
    """
    for module in modules:
        try:
            import_module(module)
        except ImportError:
            raise RuntimeError(
                f"{name} must have {module} installed; got none, `pip install steelyard[{extra}]` adds it"
            ) from None


def number(value: float | None, digits: int = 4) -> str:
    """Return a figure for a cell; nothing where it is undefined."""
    return "" if value is None or value != value else f"{value:,.{digits}f}"


def with_interval(value: float, low: float, high: float, digits: int = 4) -> str:
    """Return a figure with its 95 % interval, where it has one."""
    if low != low:
        return number(value, digits)
    return f"{number(value, digits)} ({number(low, digits)} – {number(high, digits)})"
