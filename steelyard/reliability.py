"""Reliability diagrams: what happened against what was predicted, for each binary objective."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.bootstrap import draw_groups, interval
from models.metrics import calibration_error_draws, reliability_draws
from steelyard.evaluating import JudgedRows


def plot_reliability(rows: JudgedRows, path: Path, *, bins: int = 20, replicates: int = 100, seed: int = 0) -> None:
    """Draw a diagram for each binary objective: a bin's mean label against its mean prediction, with 95 % intervals.

    Args:
        rows: predicted and labelled.
        path: a PNG, SVG or PDF file.
        bins: how many, at most.
        replicates: bootstrap replicates of requests behind the intervals.
        seed: of the bootstrap.

    Raises:
        RuntimeError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise RuntimeError(
            "plot must have matplotlib installed; got none, `pip install steelyard[report]` adds it"
        ) from None
    binary = [k for k, objective in enumerate(rows.schema.objectives) if objective.kind == "binary"]
    requests = rows.columns.get(rows.schema.request or "")
    codes = np.arange(len(rows.labels)) if requests is None else np.unique(requests, return_inverse=True)[1]
    figure = Figure(figsize=(4.5 * max(len(binary), 1), 4.5), layout="constrained")
    for place, k in enumerate(binary):
        known = np.isfinite(rows.labels[:, k])
        if not known.any():
            continue
        draws = draw_groups(np.unique(codes[known], return_inverse=True)[1], replicates, seed)
        labels, predictions = rows.labels[known, k], rows.predictions[known, k]
        means, rates = reliability_draws(labels, predictions, draws, bins=bins)
        error, *others = calibration_error_draws(labels, predictions, draws, bins=bins)
        ends = np.array([interval(each[1:]) for each in rates])
        axes = figure.add_subplot(1, len(binary), place + 1)
        axes.plot([0, means.max()], [0, means.max()], color="grey", linewidth=1)
        axes.vlines(means, ends[:, 0], ends[:, 1], color="tab:blue", linewidth=1)
        axes.plot(means, rates[:, 0], "o", color="tab:blue", markersize=4)
        low, high = interval(others)
        axes.set_title(
            f"{rows.schema.objective_names[k]}: calibration error {error:.4f} ({low:.4f}–{high:.4f})", size=9
        )
        axes.set_xlabel("mean prediction")
        axes.set_ylabel("mean label")
    figure.savefig(path, dpi=150)
