"""What the first places of ranked requests hold: NDCG@k and value captured@k, as pure functions of arrays.

Rows of equal score share their places: each counts as the mean over the orders that they could stand in, so that no
figure depends on the order of a log's rows. B rows, R draws.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bootstrap import Draws, Float64Array, one_draw
from models.metrics import checked, ratio, run_starts, sortable

Array = NDArray[Any]


def ndcg_at_k(gains: Array, scores: Array, groups: Array, k: int, weights: Array | None = None) -> float:
    """Return the mean over groups of DCG@k over the best possible DCG@k; groups without a gain do not count.

    DCG@k = Σ_{place ≤ k} gain / log₂(place + 1).

    Args:
        gains: at least 0, such as a label or a value, (B,).
        scores: (B,).
        groups: each row's request, (B,).
        k: places that count, at least 1.
        weights: how much each row counts, at least 0 and equal within a group, (B,).

    Raises:
        ValueError: lengths differ or are 0, a gain or score is not finite, a gain is negative, or k is below 1.

    Source: Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques, TOIS 2002; ties by McSherry and
        Najork, Computing information retrieval performance measures efficiently in the presence of tied scores, 2008.
    """
    return float(ndcg_at_k_draws(gains, scores, groups, k, one_draw(len(gains), weights))[0])


def ndcg_at_k_draws(gains: Array, scores: Array, groups: Array, k: int, draws: Draws) -> Float64Array:
    """Return the NDCG@k in each draw of whole groups; see `ndcg_at_k`."""
    reached, best, first = _collected(gains, scores, groups, k, discounted=True)
    counted = best > 0
    group_draws = draws.rows(first[counted])
    return ratio(group_draws.totals(reached[counted] / best[counted]), group_draws.totals(np.ones(counted.sum())))


def value_captured(values: Array, scores: Array, groups: Array, k: int, weights: Array | None = None) -> float:
    """Return what the top k of every group collect, over the most that any order could: a ratio of sums.

    Args:
        values: at least 0, (B,).
        scores: (B,).
        groups: each row's request, (B,).
        k: places that count, at least 1.
        weights: how much each row counts, at least 0 and equal within a group, (B,).

    Raises:
        ValueError: lengths differ or are 0, a value or score is not finite, a value is negative, or k is below 1.
    """
    return float(value_captured_draws(values, scores, groups, k, one_draw(len(values), weights))[0])


def value_captured_draws(values: Array, scores: Array, groups: Array, k: int, draws: Draws) -> Float64Array:
    """Return the value captured@k in each draw of whole groups; see `value_captured`."""
    reached, best, first = _collected(values, scores, groups, k, discounted=False)
    group_draws = draws.rows(first)
    return ratio(group_draws.totals(reached), group_draws.totals(best))


def _collected(
    gains: Array, scores: Array, groups: Array, k: int, *, discounted: bool
) -> tuple[Float64Array, Float64Array, NDArray[np.int64]]:
    """Return for each group what its top k collect, the most that they could, and one of its rows."""
    if k < 1:
        raise ValueError(f"k must be at least 1; got {k}")
    gains, scores = checked(gains, scores)
    if gains.min() < 0:
        raise ValueError(f"gains must be at least 0; got {gains.min()}")
    groups = sortable(groups, len(gains))
    by_score, by_gain = np.lexsort((-scores, groups)), np.lexsort((-gains, groups))
    group_starts = run_starts(groups[by_score])
    starts = np.flatnonzero(group_starts)
    sizes = np.diff(starts, append=len(gains))
    places = np.arange(len(gains)) - np.repeat(starts, sizes)
    shares = np.where(places < k, 1 / np.log2(places + 2.0) if discounted else 1.0, 0.0)
    ties = np.flatnonzero(group_starts | run_starts(scores[by_score]))
    tie_sizes = np.diff(ties, append=len(gains))
    shared = np.repeat(np.add.reduceat(shares, ties) / tie_sizes, tie_sizes)
    reached, best = np.add.reduceat(gains[by_score] * shared, starts), np.add.reduceat(gains[by_gain] * shares, starts)
    return reached, best, by_score[starts]
