"""What benchmarks share: the machine they ran on, the form of their results, closed-loop load, and plots."""

from __future__ import annotations

import argparse
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

Result = dict[str, Any]


def benchmark_parser(about: str | None, quick: str) -> argparse.ArgumentParser:
    """Return the options that every benchmark has.

    Args:
        about: the benchmark's own docstring.
        quick: what `--quick` leaves out.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--plot", type=Path, help="file for the plot, .png or .svg")
    return parser


def hardware() -> dict[str, Any]:
    """Return what the figures depend on: processor, cores, memory, GPUs and versions."""
    import torch

    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def report(results: Sequence[Result], path: Path | None, **more: Any) -> None:
    """Print results as a table, and write them as JSON with the hardware where a path is given."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in results[0]:
        table.add_column(name, justify="right" if isinstance(results[0][name], (int, float)) else "left")
    for result in results:
        table.add_row(*(_shown(value) for value in result.values()))
    Console().print(table)
    if path:
        beside = path.with_name(f".{path.name}.partial")
        text = json.dumps({"hardware": hardware(), "results": list(results), **more}, indent=1)
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,.3f}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Load:
    """What a closed loop of callers saw: each call's seconds, and how long the loop ran."""

    seconds: tuple[float, ...]
    elapsed_s: float

    def summary(self, rows_per_call: int) -> Result:
        """Return latency percentiles and throughput."""
        p50, p95, p99 = (float(x) for x in np.percentile(np.array(self.seconds) * 1e3, [50, 95, 99]))
        per_s = len(self.seconds) / self.elapsed_s
        return {
            "p50_ms": p50,
            "p95_ms": p95,
            "p99_ms": p99,
            "requests_per_s": per_s,
            "rows_per_s": per_s * rows_per_call,
        }


def joined(loads: Iterable[Load]) -> Load:
    """Return several loads of one system as one."""
    listed = list(loads)
    return Load(tuple(s for load in listed for s in load.seconds), sum(load.elapsed_s for load in listed))


def closed_loop(callers: Sequence[Callable[[], None]], duration_s: float) -> Load:
    """Let each caller call again as soon as it has its answer, all at once, for a time.

    Raises:
        RuntimeError: a call failed.
    """
    seconds: list[list[float]] = [[] for _ in callers]
    failures: list[BaseException] = []
    started = time.perf_counter()
    deadline = started + duration_s

    def loop(call: Callable[[], None], taken: list[float]) -> None:
        try:
            while (begin := time.perf_counter()) < deadline:
                call()
                taken.append(time.perf_counter() - begin)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=loop, args=pair) for pair in zip(callers, seconds, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise RuntimeError(f"every call must be answered; got {failures[0]}")
    return Load(tuple(s for taken in seconds for s in taken), time.perf_counter() - started)


def median_seconds(
    calls: Mapping[str, Callable[[int], Callable[[], object]]], seconds: float, rounds: int
) -> dict[str, float]:
    """Return the median duration of each system's calls, the systems taking turns.

    Args:
        calls: for each system what makes its call number i ready, outside of the measured time.
        seconds: that each system has for its calls, all rounds together; it makes one call a round at least.
        rounds: turns of each system, after one that does not count.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, prepare in calls.items():
            deadline = time.perf_counter() + seconds / rounds
            counted = 0
            while counted == 0 or time.perf_counter() < deadline:
                call = prepare(len(taken[name]) + counted)
                begin = time.perf_counter()
                call()
                duration = time.perf_counter() - begin
                counted += 1
                if turn:
                    taken[name].append(duration)
    return {name: float(np.median(durations)) for name, durations in taken.items()}


Lines = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def bar_plot(path: Path, bars: Mapping[str, float], *, title: str, y: str) -> None:
    """Write a plot of named bars as PNG or SVG, by the path's ending."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    axes.bar(list(bars), list(bars.values()))
    axes.set(ylabel=y, title=title)
    axes.grid(alpha=0.3, axis="y")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def line_plot(path: Path, lines: Lines, *, title: str, x: str, y: str) -> None:
    """Write a plot of lines on logarithmic axes as PNG or SVG, by the path's ending."""
    panel_plot(path, {title: lines}, x=x, y=y)


def panel_plot(path: Path, panels: Mapping[str, Lines], *, x: str, y: str) -> None:
    """Write plots of lines side by side, each under its title, on logarithmic axes that they share."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, row = pyplot.subplots(
        1, len(panels), figsize=(6 * len(panels) + 1, 4.5), layout="constrained", sharey=True, squeeze=False
    )
    for axes, (title, lines) in zip(row[0], panels.items(), strict=True):
        for name, (xs, ys) in lines.items():
            axes.plot(xs, ys, marker="o", label=name)
        axes.set(xscale="log", yscale="log", xlabel=x, title=title)
        axes.grid(alpha=0.3, which="both")
    row[0][0].set_ylabel(y)
    figure.legend(*row[0][0].get_legend_handles_labels(), loc="outside right center")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
