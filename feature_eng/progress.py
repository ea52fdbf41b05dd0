"""Progress of long work: a bar with rows per second on a terminal, silence elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def row_bar(title: str, rows: int, show: bool | None = None) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told of rows done.

    Args:
        title: what is done to them.
        rows: how many there are in all.
        show: whether to draw the bar; by default where stderr is a terminal.
    """
    if not (sys.stderr.isatty() if show is None else show):
        yield lambda done: None
        return
    shape = (
        TextColumn("{task.description:>22}"),
        BarColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*shape, console=Console(stderr=True)) as bars:
        task = bars.add_task(title, total=rows, speed="")

        def advance(done: int) -> None:
            seconds = max(bars.tasks[0].elapsed or 0.0, 1e-3)
            bars.update(task, advance=done, speed=f"{(bars.tasks[0].completed + done) / seconds:,.0f} rows/s")

        yield advance
