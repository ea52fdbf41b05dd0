"""Two rankers on the same rows: each metric's difference, with an interval from draws that both share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import metrics
from models.bootstrap import Draws, Float64Array, draw_groups, interval
from models.metrics import sortable
from models.ranking_metrics import ndcg_at_k_draws, value_captured_draws

Array = NDArray[Any]
Metric = Callable[[Array], Float64Array]


@dataclass(frozen=True)
class Difference:
    """One metric of two rankers, and by how much the new one's is larger, with a 95 % interval of that difference."""

    objective: str
    metric: str
    new: float
    old: float
    difference: float
    low: float
    high: float


def compare(
    new: Array,
    old: Array,
    labels: Array,
    *,
    names: Sequence[str],
    kinds: Sequence[str],
    requests: Array | None = None,
    k: int = 10,
    replicates: int = 100,
    seed: int = 0,
) -> tuple[Difference, ...]:
    """Compare two rankers' predictions of the same rows.

    A replicate draws requests once and judges both on them, so what makes requests easy or hard falls out of the
    difference.

    Args:
        new: expected values, (B, K).
        old: likewise.
        labels: what happened, (B, K); NaN where unknown.
        names: the objectives', (K,).
        kinds: `binary` or `value`, (K,).
        requests: each row's request, (B,); else each row is its own, and nothing is ranked.
        k: places that NDCG and value captured count.
        replicates: bootstrap replicates behind the intervals.
        seed: of the bootstrap.

    Raises:
        ValueError: the predictions are not shaped like the labels.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 8, of paired differences.
    """
    for name, given in (("new", new), ("old", old)):
        if given.shape != labels.shape:
            raise ValueError(f"{name} must have the shape of labels; got {list(given.shape)} and {list(labels.shape)}")
    codes = np.arange(len(labels)) if requests is None else sortable(requests, len(labels))
    codes = np.unique(codes, return_inverse=True)[1]
    draws = draw_groups(codes, replicates, seed)
    several = np.bincount(codes)[codes] > 1
    found = []
    for index, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        known = np.isfinite(labels[:, index])
        if not known.any():
            continue
        own = _metrics(labels[:, index], kind, known, known & several, codes, draws, k)
        for metric, function in own.items():
            of_new, of_old = function(new[:, index]), function(old[:, index])
            gaps = of_new - of_old
            low, high = interval(gaps[1:])
            found.append(Difference(name, metric, float(of_new[0]), float(of_old[0]), float(gaps[0]), low, high))
    return tuple(found)


def compare_scores(
    new: Array, old: Array, worth: Array, requests: Array, *, k: int = 10, replicates: int = 100, seed: int = 0
) -> Difference | None:
    """Compare what two rankings collect in the first k places, of the most that any order could; see `compare`.

    Args:
        new: scores, (B,).
        old: likewise.
        worth: of each row, at least 0, (B,); NaN where unknown, which leaves the row out.
        requests: each row's request, (B,).
        k: places that count.
        replicates: bootstrap replicates behind the interval.
        seed: of the bootstrap.

    Returns:
        The difference; None where no request has several rows.
    """
    codes = np.unique(sortable(requests, len(worth)), return_inverse=True)[1]
    counted = np.isfinite(worth) & (np.bincount(codes)[codes] > 1)
    if not counted.any():
        return None
    draws, groups = draw_groups(codes, replicates, seed).rows(counted), codes[counted]
    of_new, of_old = (value_captured_draws(worth[counted], scores[counted], groups, k, draws) for scores in (new, old))
    low, high = interval(of_new[1:] - of_old[1:])
    figures = float(of_new[0]), float(of_old[0]), float(of_new[0] - of_old[0])
    return Difference("score", f"worth captured@{k}", *figures, low, high)


def _metrics(
    labels: Array, kind: str, known: Array, ranked: Array, codes: Array, draws: Draws, k: int
) -> dict[str, Metric]:
    y, own = labels[known], draws.rows(known)
    found: dict[str, Metric] = {}
    if kind == "binary":
        found["AUC"] = lambda p: metrics.auc_draws(y, p[known], own)
        found["log loss"] = lambda p: metrics.log_loss_draws(y, p[known], own)
        found["calibration error"] = lambda p: metrics.calibration_error_draws(y, p[known], own)
    else:
        found["predicted / observed"] = lambda p: metrics.bias_draws(y, p[known], own)
    if ranked.any():
        gains, several, requests = labels[ranked], draws.rows(ranked), codes[ranked]
        found[f"NDCG@{k}"] = lambda p: ndcg_at_k_draws(gains, p[ranked], requests, k, several)
        found[f"captured@{k}"] = lambda p: value_captured_draws(gains, p[ranked], requests, k, several)
    return found
