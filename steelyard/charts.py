"""Small charts as SVG text that a page holds inline."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Points = tuple[Sequence[float] | Array, Sequence[float] | Array]

_WIDTH, _HEIGHT = 6.4, 3.2  # inches
_LONGEST = 48  # letters of a name, which would widen the chart beyond a page
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


@dataclass(frozen=True)
class Svg:
    """An `<svg>` element, whose text is escaped."""

    text: str


def lines(series: Mapping[str, Points], *, x: str, y: str, whole: bool = False, dots: Sequence[str] = ()) -> Svg:
    """Draw a line through the points of each series.

    Args:
        series: points by name.
        x: name of the horizontal axis.
        y: name of the vertical one.
        whole: whether horizontal ticks are at whole numbers alone.
        dots: series that are points without a line.
    """
    with _axes(x, y) as (axes, drawn):
        for name, (across, up) in series.items():
            width = 0.0 if name in dots else 1.5
            axes.plot(across, up, marker="o", markersize=3, linewidth=width, label=_plain(name))
        if whole:
            from matplotlib.ticker import MaxNLocator

            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(series) > 1:
            axes.legend(frameon=False, fontsize=8)
    return drawn[0]


def bars(values: Mapping[str, float], *, x: str, most: int = 30) -> Svg:
    """Draw a horizontal bar for each name, the first one on top.

    Args:
        values: by name.
        x: name of the horizontal axis.
        most: bars drawn; the rest are left out.
    """
    names = list(values)[:most]
    places = np.arange(len(names))[::-1]
    with _axes(x, "", height=_height(names)) as (axes, drawn):
        axes.barh(places, [values[name] for name in names], height=0.7)
        axes.set_yticks(places, [_plain(name) for name in names], fontsize=8)
        axes.axvline(0, color="grey", linewidth=0.8)
    return drawn[0]


def intervals(
    figures: Mapping[str, tuple[float, float, float]], *, x: str, line: float | None = None, most: int = 40
) -> Svg:
    """Draw a figure with its interval for each name, the first one on top.

    Args:
        figures: value, lower and upper end by name; NaN ends draw no interval.
        x: name of the horizontal axis.
        line: where a vertical line stands.
        most: figures drawn; the rest are left out.
    """
    names = list(figures)[:most]
    places = np.arange(len(names))[::-1]
    with _axes(x, "", height=_height(names)) as (axes, drawn):
        for place, name in zip(places, names, strict=True):
            value, low, high = figures[name]
            axes.plot([value], [place], "o", color="tab:blue", markersize=4)
            if low == low:
                axes.hlines(place, low, high, color="tab:blue", linewidth=1.5)
        axes.set_yticks(places, [_plain(name) for name in names], fontsize=8)
        if line is not None:
            axes.axvline(line, color="grey", linewidth=0.8)
    return drawn[0]


def scatter(groups: Mapping[str, Points], *, x: str, y: str) -> Svg:
    """Draw points in a colour for each group."""
    with _axes(x, y) as (axes, drawn):
        for name, (across, up) in groups.items():
            axes.plot(across, up, "o", markersize=4, label=_plain(name))
        if len(groups) > 1:
            axes.legend(frameon=False, fontsize=8)
    return drawn[0]


def reliability(means: Array, rates: Array, lows: Array, highs: Array, name: str) -> Svg:
    """Draw mean labels against mean predictions, with intervals and the line where both are equal.

    Args:
        means: mean prediction of each bin.
        rates: mean label of each bin.
        lows: lower ends of the intervals.
        highs: upper ends.
        name: what is predicted.
    """
    with _axes(f"mean prediction of {name}", "mean label") as (axes, drawn):
        largest = float(np.nanmax([*means, *rates]))
        axes.plot([0, largest], [0, largest], color="grey", linewidth=1)
        axes.vlines(means, lows, highs, color="tab:blue", linewidth=1)
        axes.plot(means, rates, "o", color="tab:blue", markersize=4)
    return drawn[0]


@contextmanager
def _axes(x: str, y: str, height: float = _HEIGHT) -> Iterator[tuple[Any, list[Svg]]]:
    """Yield axes to draw on, and a list that holds the SVG once they are left.

    Raises:
        RuntimeError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise RuntimeError(
            "chart must have matplotlib installed; got none, `pip install steelyard[report]` adds it"
        ) from None
    # text stays text: a tenth of the bytes of outlines, and readable to a screen reader
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "steelyard", "font.family": "sans-serif"}):
        figure = Figure(figsize=(_WIDTH, height))
        axes = figure.add_subplot()
        axes.set_xlabel(_plain(x))
        axes.set_ylabel(_plain(y))
        axes.spines[["top", "right"]].set_visible(False)
        drawn: list[Svg] = []
        yield axes, drawn
        written = io.StringIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # a browser's fonts have it
            # a tight box takes half the time that a layout solver does
            figure.savefig(written, format="svg", bbox_inches="tight", metadata=_NO_METADATA)
    text = written.getvalue()
    drawn.append(Svg(text[text.index("<svg") :]))


def _height(names: Sequence[str]) -> float:
    return 0.8 + 0.22 * max(len(names), 3)


def _plain(text: str) -> str:
    """Return text in which matplotlib sees no formula and no name that a legend would leave out, of one short line."""
    text = " ".join(text.split())
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return f" {text}".replace("$", r"\$") if text.startswith("_") else text.replace("$", r"\$")
