"""How well predictions order and size outcomes: pure functions of arrays.

Each metric comes twice: `auc(labels, scores)`, and `weighted_auc(labels, scores)`, which sorts once and returns a
function of row weights (B,), so that a bootstrap replicate costs a pass over the rows. A metric that the rows do not
define, such as the AUC of one class, is NaN. B rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Weighted = Callable[[Array], float]


def auc(labels: Array, scores: Array) -> float:
    """Return the area under the ROC curve: P(score of a positive > score of a negative), ties counting half.

    Args:
        labels: 0 or 1, (B,).
        scores: any finite numbers, (B,).

    Raises:
        ValueError: lengths differ, or a score is not finite.
    """
    return weighted_auc(labels, scores)(np.ones(len(labels)))


def weighted_auc(labels: Array, scores: Array) -> Weighted:
    """Return the AUC as a function of row weights; see `auc`."""
    return weighted_gauc(labels, scores, np.zeros(len(labels), dtype=np.int64))


def gauc(labels: Array, scores: Array, groups: Array) -> float:
    """Return the mean AUC within groups, weighted by rows; groups of one class do not count.

    Args:
        labels: 0 or 1, (B,).
        scores: any finite numbers, (B,).
        groups: which rows belong together, such as a user's or a request's, (B,).

    Raises:
        ValueError: lengths differ, or a score is not finite.

    Source: Zhou et al., Deep Interest Network, KDD 2018, equation 6.
    """
    return weighted_gauc(labels, scores, groups)(np.ones(len(labels)))


def weighted_gauc(labels: Array, scores: Array, groups: Array) -> Weighted:
    """Return the GAUC as a function of row weights; see `gauc`."""
    labels, scores = _checked(labels, scores)
    group = _codes(groups)
    order = np.lexsort((scores, group))
    positive_rows, group = labels[order] > 0, group[order]
    starts = np.flatnonzero(np.append(True, (np.diff(scores[order]) != 0) | (np.diff(group) != 0)))
    of_tie = group[starts]

    def weigh(weights: Array) -> float:
        ordered = weights[order].astype(np.float64)
        positive = np.add.reduceat(np.where(positive_rows, ordered, 0), starts)
        negative = np.add.reduceat(ordered, starts) - positive
        positives, negatives = np.bincount(of_tie, positive), np.bincount(of_tie, negative)
        below = np.cumsum(negative) - negative - (np.cumsum(negatives) - negatives)[of_tie]
        wins = np.bincount(of_tie, positive * (below + negative / 2))
        both = (positives > 0) & (negatives > 0)
        if not both.any():
            return float("nan")
        areas = wins[both] / positives[both] / negatives[both]
        return float(np.average(areas, weights=(positives + negatives)[both]))

    return weigh


def log_loss(labels: Array, predictions: Array) -> float:
    """Return the mean negative log likelihood in nats.

    Args:
        labels: 0 or 1, (B,).
        predictions: probabilities, (B,), cut to [1e-7, 1 - 1e-7].

    Raises:
        ValueError: lengths differ, or a prediction is not finite.
    """
    return weighted_log_loss(labels, predictions)(np.ones(len(labels)))


def weighted_log_loss(labels: Array, predictions: Array) -> Weighted:
    """Return the log loss as a function of row weights; see `log_loss`."""
    labels, predictions = _checked(labels, predictions)
    p = np.clip(predictions, 1e-7, 1 - 1e-7)
    losses = -np.where(labels > 0, np.log(p), np.log1p(-p))
    return lambda weights: float(losses @ weights / weights.sum())


def normalized_entropy(labels: Array, predictions: Array) -> float:
    """Return the log loss over that of always predicting the base rate: below 1 is better than knowing nothing.

    Raises:
        ValueError: lengths differ, or a prediction is not finite.

    Source: He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, ADKDD 2014, equation 1.
    """
    return weighted_normalized_entropy(labels, predictions)(np.ones(len(labels)))


def weighted_normalized_entropy(labels: Array, predictions: Array) -> Weighted:
    """Return the normalised entropy as a function of row weights; see `normalized_entropy`."""
    labels, predictions = _checked(labels, predictions)
    loss = weighted_log_loss(labels, predictions)

    def weigh(weights: Array) -> float:
        rate = float(labels @ weights / weights.sum())
        if rate in (0.0, 1.0):
            return float("nan")
        return loss(weights) / float(-(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)))

    return weigh


def calibration_error(labels: Array, predictions: Array, bins: int = 20) -> float:
    """Return the expected calibration error: the mean |mean prediction − mean label| over bins of equal row counts.

    Args:
        labels: (B,).
        predictions: (B,).
        bins: how many.

    Raises:
        ValueError: lengths differ, or a prediction is not finite.

    Source: Naeini et al., Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI 2015.
    """
    return weighted_calibration_error(labels, predictions, bins)(np.ones(len(labels)))


def weighted_calibration_error(labels: Array, predictions: Array, bins: int = 20) -> Weighted:
    """Return the calibration error as a function of row weights; see `calibration_error`."""
    labels, predictions = _checked(labels, predictions)
    order = np.argsort(predictions, kind="stable")
    bin_of = np.empty(len(order), dtype=np.int64)
    bin_of[order] = np.arange(len(order)) * bins // len(order)
    gaps = predictions - labels
    return lambda weights: float(np.abs(np.bincount(bin_of, gaps * weights)).sum() / weights.sum())


def ndcg_at_k(gains: Array, scores: Array, groups: Array, k: int) -> float:
    """Return the mean over groups of DCG@k over the best possible DCG@k; groups without a gain do not count.

    DCG@k = Σ_{place ≤ k} gain / log₂(place + 1). Equal scores keep the rows' order.

    Args:
        gains: at least 0, such as a label or a value, (B,).
        scores: any finite numbers, (B,).
        groups: each row's request, (B,).
        k: places that count.

    Raises:
        ValueError: lengths differ, a score is not finite, or k is below 1.

    Source: Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques, TOIS 2002.
    """
    return weighted_ndcg_at_k(gains, scores, groups, k)(np.ones(len(gains)))


def weighted_ndcg_at_k(gains: Array, scores: Array, groups: Array, k: int) -> Weighted:
    """Return the NDCG as a function of row weights, which are equal within a group; see `ndcg_at_k`."""
    reached, best, first = _collected(gains, scores, groups, k, discounted=True)
    counted = best > 0
    ratios, first = reached[counted] / best[counted], first[counted]

    def weigh(weights: Array) -> float:
        group_weights = weights[first]
        total = group_weights.sum()
        return float(ratios @ group_weights / total) if total > 0 else float("nan")

    return weigh


def value_captured(values: Array, scores: Array, groups: Array, k: int) -> float:
    """Return what the top k of every group collect, over the most that any order could: a ratio of sums.

    Args:
        values: at least 0, (B,).
        scores: any finite numbers, (B,).
        groups: each row's request, (B,).
        k: places that count.

    Raises:
        ValueError: lengths differ, a score is not finite, or k is below 1.
    """
    return weighted_value_captured(values, scores, groups, k)(np.ones(len(values)))


def weighted_value_captured(values: Array, scores: Array, groups: Array, k: int) -> Weighted:
    """Return the value captured as a function of row weights, which are equal within a group; see `value_captured`."""
    reached, best, first = _collected(values, scores, groups, k, discounted=False)

    def weigh(weights: Array) -> float:
        most = float(best @ weights[first])
        return float(reached @ weights[first]) / most if most > 0 else float("nan")

    return weigh


def _collected(gains: Array, scores: Array, groups: Array, k: int, discounted: bool) -> tuple[Array, Array, Array]:
    """Return for each group what the top k collect, the best possible, and one of its rows."""
    if k < 1:
        raise ValueError(f"k must be at least 1; got {k}")
    gains, scores = _checked(gains, scores)
    group = _codes(groups)
    by_score = np.lexsort((-scores, group))
    by_gain = np.lexsort((-gains, group))
    sizes = np.bincount(group)
    starts = np.cumsum(sizes) - sizes
    place = np.arange(len(group)) - np.repeat(starts, sizes)
    share = np.where(place < k, 1 / np.log2(place + 2.0) if discounted else 1.0, 0.0)
    reached, best = (np.add.reduceat(gains[order] * share, starts) for order in (by_score, by_gain))
    return reached, best, by_score[starts]


def _codes(groups: Array) -> Array:
    """Return groups as whole numbers from 0, in no order that matters."""
    codes: Array = np.unique(groups, return_inverse=True)[1]
    return codes


def _checked(labels: Array, scores: Array) -> tuple[Array, Array]:
    labels, scores = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if len(labels) != len(scores) or not len(labels):
        raise ValueError(f"labels and scores must be equally long, and not empty; got {len(labels)} and {len(scores)}")
    if not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite; got {scores[~np.isfinite(scores)][0]}")
    return labels, scores
