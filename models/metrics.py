"""How well predictions order and size outcomes: pure functions of arrays.

Each metric comes twice: `auc(labels, scores)` is one number, `auc_draws(labels, scores, draws)` is one number for each
bootstrap draw of the rows, (R,), in about the time that a single number takes. A metric that the rows do not define,
such as the AUC of one class, is NaN. B rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.bootstrap import Draws, Float64Array, one_draw

Array = NDArray[Any]


def auc(labels: Array, scores: Array, weights: Array | None = None) -> float:
    """Return the area under the ROC curve: P(score of a positive > score of a negative), ties counting half.

    Args:
        labels: 0 or 1, (B,).
        scores: (B,).
        weights: how much each row counts, at least 0, (B,).

    Raises:
        ValueError: lengths differ or are 0, or a label or score is not finite.

    Source: Hanley and McNeil, The meaning and use of the area under a ROC curve, Radiology 1982.
    """
    return float(auc_draws(labels, scores, one_draw(len(labels), weights))[0])


def auc_draws(labels: Array, scores: Array, draws: Draws) -> Float64Array:
    """Return the AUC in each draw; see `auc`."""
    return gauc_draws(labels, scores, np.zeros(len(labels), dtype=np.uint8), draws)


def gauc(labels: Array, scores: Array, groups: Array, weights: Array | None = None) -> float:
    """Return the mean AUC within groups, weighted by their rows; groups of one class do not count.

    GAUC = Σ_g rows_g · AUC_g / Σ_g rows_g.

    Args:
        labels: 0 or 1, (B,).
        scores: (B,).
        groups: which rows belong together, such as a user's or a request's, (B,).
        weights: how much each row counts, at least 0, (B,).

    Raises:
        ValueError: lengths differ or are 0, or a label or score is not finite.

    Source: Zhou et al., Deep Interest Network for Click-Through Rate Prediction, KDD 2018.
    """
    return float(gauc_draws(labels, scores, groups, one_draw(len(labels), weights))[0])


def gauc_draws(labels: Array, scores: Array, groups: Array, draws: Draws) -> Float64Array:
    """Return the GAUC in each draw; see `gauc`."""
    labels, scores = checked(labels, scores)
    groups = sortable(groups, len(labels))
    order = np.lexsort((labels <= 0, scores, groups))  # positives before negatives of the same score
    group_starts = run_starts(groups[order])
    tie_starts = group_starts | run_starts(scores[order])
    areas: Float64Array = _mean_areas(labels[order] > 0, tie_starts, group_starts, draws.group[order], draws.counts)
    return areas


def log_loss(labels: Array, predictions: Array, weights: Array | None = None) -> float:
    """Return the mean negative log likelihood in nats: −mean(y log p + (1 − y) log(1 − p)).

    Args:
        labels: 0 or 1, (B,).
        predictions: probabilities, (B,), cut to [1e-7, 1 - 1e-7].
        weights: how much each row counts, at least 0, (B,).

    Raises:
        ValueError: lengths differ or are 0, or a label or prediction is not finite.
    """
    return float(log_loss_draws(labels, predictions, one_draw(len(labels), weights))[0])


def log_loss_draws(labels: Array, predictions: Array, draws: Draws) -> Float64Array:
    """Return the log loss in each draw; see `log_loss`."""
    labels, predictions = checked(labels, predictions)
    p = np.clip(predictions, 1e-7, 1 - 1e-7)
    losses = -np.where(labels > 0, np.log(p), np.log1p(-p))
    return ratio(draws.totals(losses), draws.totals(np.ones(len(labels))))


def normalized_entropy(labels: Array, predictions: Array, weights: Array | None = None) -> float:
    """Return the log loss over that of always predicting the base rate: below 1 is better than knowing nothing.

    NE = log loss / −(r log r + (1 − r) log(1 − r)), where r is the labels' mean; NaN where r is 0 or 1.

    Args:
        labels: 0 or 1, (B,).
        predictions: probabilities, (B,), cut to [1e-7, 1 - 1e-7].
        weights: how much each row counts, at least 0, (B,).

    Raises:
        ValueError: lengths differ or are 0, or a label or prediction is not finite.

    Source: He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, ADKDD 2014, equation 1.
    """
    return float(normalized_entropy_draws(labels, predictions, one_draw(len(labels), weights))[0])


def normalized_entropy_draws(labels: Array, predictions: Array, draws: Draws) -> Float64Array:
    """Return the normalised entropy in each draw; see `normalized_entropy`."""
    labels, predictions = checked(labels, predictions)
    rate = ratio(draws.totals(labels), draws.totals(np.ones(len(labels))))
    mixed = np.where((rate > 0) & (rate < 1), rate, np.nan)
    entropy = -(mixed * np.log(mixed) + (1 - mixed) * np.log1p(-mixed))
    return ratio(log_loss_draws(labels, predictions, draws), entropy)


def calibration_error(labels: Array, predictions: Array, weights: Array | None = None, *, bins: int = 20) -> float:
    """Return the expected calibration error over bins that hold about equally many rows.

    ECE = Σ_bins rows/B · |mean prediction − mean label|. Rows of the same prediction share a bin.

    Args:
        labels: (B,).
        predictions: (B,).
        weights: how much each row counts, at least 0, (B,); the bins do not follow them.
        bins: how many, at most.

    Raises:
        ValueError: lengths differ or are 0, or a label or prediction is not finite.

    Source: Naeini et al., Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI 2015.
    """
    return float(calibration_error_draws(labels, predictions, one_draw(len(labels), weights), bins=bins)[0])


def calibration_error_draws(labels: Array, predictions: Array, draws: Draws, *, bins: int = 20) -> Float64Array:
    """Return the calibration error in each draw; see `calibration_error`."""
    labels, predictions = checked(labels, predictions)
    parts = prediction_bins(predictions, bins)
    gaps = sum(np.abs(draws.rows(part).totals(predictions[part] - labels[part])) for part in parts)
    return ratio(np.asarray(gaps), draws.totals(np.ones(len(labels))))


def reliability_draws(
    labels: Array, predictions: Array, draws: Draws, *, bins: int = 20
) -> tuple[Float64Array, Float64Array]:
    """Return the points of a reliability diagram, over the bins of `calibration_error`.

    Args:
        labels: (B,).
        predictions: (B,).
        draws: of the rows.
        bins: how many, at most.

    Returns:
        The mean prediction of each bin, and its mean label in each draw, (bins, R); NaN where a draw took none of it.

    Source: Murphy and Winkler, Reliability of Subjective Probability Forecasts, Applied Statistics 1977.
    """
    labels, predictions = checked(labels, predictions)
    parts = prediction_bins(predictions, bins)
    means = np.array([predictions[part].mean() for part in parts], dtype=np.float64)
    taken = [draws.rows(part) for part in parts]
    rates = [
        ratio(own.totals(labels[part]), own.totals(np.ones(len(part)))) for part, own in zip(parts, taken, strict=True)
    ]
    return means, np.stack(rates)


def prediction_bins(predictions: Array, bins: int) -> list[NDArray[np.int64]]:
    """Return the rows of each bin, by rising prediction: about equally many, and rows of one prediction together."""
    order = np.argsort(predictions, kind="stable")
    tie_starts = np.flatnonzero(run_starts(predictions[order]))
    bin_starts = tie_starts[run_starts(tie_starts * bins // len(order))]
    return np.split(order, bin_starts[1:])


def bias(values: Array, predictions: Array, weights: Array | None = None) -> float:
    """Return the predicted over the observed sum: above 1 promises too much.

    Args:
        values: labels or amounts, (B,).
        predictions: of them, (B,).
        weights: how much each row counts, at least 0, (B,).

    Raises:
        ValueError: lengths differ or are 0, or a value or prediction is not finite.
    """
    return float(bias_draws(values, predictions, one_draw(len(values), weights))[0])


def bias_draws(values: Array, predictions: Array, draws: Draws) -> Float64Array:
    """Return the bias in each draw; see `bias`."""
    values, predictions = checked(values, predictions)
    return ratio(draws.totals(predictions), draws.totals(values))


def ratio(above: Float64Array, below: Float64Array) -> Float64Array:
    """Return the quotients, NaN where one divides by 0."""
    return np.divide(above, below, out=np.full(len(below), np.nan), where=below != 0)


def run_starts(ordered: Array) -> NDArray[np.bool_]:
    """Return where a run of equal values starts."""
    return np.append(True, ordered[1:] != ordered[:-1])


def sortable(groups: Array, rows: int) -> Array:
    """Return groups (B,) as whole numbers, which sort fast.

    Raises:
        ValueError: there is not one a row.
    """
    groups = np.asarray(groups)
    if groups.shape != (rows,):
        raise ValueError(f"groups must have shape [{rows}], one a row; got {list(groups.shape)}")
    return groups if groups.dtype.kind in "iu" else np.unique(groups, return_inverse=True)[1]


def checked(labels: Array, scores: Array) -> tuple[Float64Array, Float64Array]:
    """Return both as float64.

    Raises:
        ValueError: lengths differ or are 0, or a label or score is not finite.
    """
    labels, scores = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape or not len(labels):
        shapes = f"{list(labels.shape)} and {list(scores.shape)}"
        raise ValueError(f"labels and scores must have one shape [B], with B at least 1; got {shapes}")
    for name, values in (("labels", labels), ("scores", scores)):
        wrong = ~np.isfinite(values)
        if wrong.any():
            raise ValueError(f"{name} must be finite; got {values[wrong][0]}")
    return labels, scores


@njit()
def _mean_areas(
    positive: NDArray[np.bool_],
    tie_starts: NDArray[np.bool_],
    group_starts: NDArray[np.bool_],
    drawn: NDArray[np.int64],
    counts: Array,
) -> Float64Array:
    """Return the mean area of each draw from rows ordered by group, score and label, positives first."""
    draws = counts.shape[1]
    weighted_areas, rows = np.zeros(draws), np.zeros(draws)
    wins, positives, negatives, tied = np.zeros(draws), np.zeros(draws), np.zeros(draws), np.zeros(draws)
    tie_has_positives = False
    for row in range(len(positive) + 1):
        ends = row == len(positive)
        if ends or group_starts[row]:
            for draw in range(draws):
                pairs = positives[draw] * negatives[draw]
                if pairs > 0:
                    weight = positives[draw] + negatives[draw]
                    weighted_areas[draw] += weight * wins[draw] / pairs
                    rows[draw] += weight
                wins[draw] = positives[draw] = negatives[draw] = 0.0
        if ends:
            break
        if tie_starts[row] and tie_has_positives:
            tied[:] = 0.0
            tie_has_positives = False
        weights = counts[drawn[row]]
        if positive[row]:
            tie_has_positives = True
            for draw in range(draws):
                wins[draw] += weights[draw] * negatives[draw]
                positives[draw] += weights[draw]
                tied[draw] += weights[draw]
        else:
            for draw in range(draws):
                negatives[draw] += weights[draw]
            if tie_has_positives:
                for draw in range(draws):
                    wins[draw] += weights[draw] * tied[draw] / 2
    for draw in range(draws):
        rows[draw] = weighted_areas[draw] / rows[draw] if rows[draw] > 0 else np.nan
    return rows
