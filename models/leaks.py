"""Columns that know too much: how well each one alone orders an objective, learnt on one half and tried on the other.

B rows, K objectives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_eng.drafting import LEAK_AUC
from models.bootstrap import Float64Array
from models.importance import skills

Array = NDArray[Any]

# Normalised Gini from which a column alone is suspect: where a draft of a schema leaves one out, too.
SUSPECT_SKILL = 2 * LEAK_AUC - 1
# By so much a column must order better than the whole ranker to be suspect for that.
MARGIN = 0.02
# Quantiles that numbers are cut at, and rows of the overall mean mixed into the mean of a value.
_BINS, _SMOOTHING = 64, 10.0


@dataclass(frozen=True)
class Suspect:
    """A column that alone orders an objective too well, and why that is thought."""

    column: str
    objective: str
    skill: float
    reason: str


def number_codes(values: Array) -> NDArray[np.int64]:
    """Return numbers (B,) as codes of their quantiles, those that are NaN as one more."""
    missing = np.isnan(values)
    edges = np.unique(np.quantile(values[~missing], np.arange(1, _BINS) / _BINS)) if not missing.all() else []
    codes = np.searchsorted(edges, values, side="right")
    return np.where(missing, _BINS, codes)


def value_codes(values: Array) -> NDArray[np.int64]:
    """Return values (B,) as whole numbers from 0."""
    codes: NDArray[np.int64] = np.unique(values, return_inverse=True)[1]
    return codes


def skill_alone(codes: NDArray[np.int64], labels: Array, halves: NDArray[np.bool_]) -> Float64Array:
    """Return how well a column alone orders each objective: its values' mean labels in one half, tried on the other.

    Args:
        codes: of the column's values, at least 0, (B,).
        labels: what happened, (B, K); NaN where unknown.
        halves: which half each row is in; rows of a request must share one, (B,).

    Returns:
        The normalised Gini of each objective, (K,); NaN where all labels are equal.

    Source: Micci-Barreca, A Preprocessing Scheme for High-Cardinality Categorical Attributes, SIGKDD Explorations 2001,
        equation 3, out of fold.
    """
    count = int(codes.max()) + 1
    predictions = np.zeros(labels.shape)
    for objective in range(labels.shape[1]):
        known = np.isfinite(labels[:, objective])
        for half in (False, True):
            learnt = known & (halves == half)
            mean = labels[learnt, objective].mean() if learnt.any() else 0.0
            rows = np.bincount(codes[learnt], minlength=count)
            sums = np.bincount(codes[learnt], labels[learnt, objective], minlength=count)
            # against the half's own mean, since a half with fewer positives would rank below the other
            means = (sums - rows * mean) / (rows + _SMOOTHING)
            predictions[halves != half, objective] = means[codes[halves != half]]
    return skills(labels, predictions)


def suspects(alone: Mapping[str, Float64Array], ranker: Float64Array, names: Sequence[str]) -> tuple[Suspect, ...]:
    """Return the columns that order an objective too well to be true, most skilful first.

    Args:
        alone: for each column the skill in each objective, (K,).
        ranker: skill of the whole ranker, (K,).
        names: the objectives', (K,).
    """
    found = []
    for column, own in alone.items():
        for objective, skill in enumerate(own):
            if skill >= SUSPECT_SKILL:
                reason = f"alone it orders {names[objective]} with a normalised Gini of {skill:.2f}"
            elif skill > ranker[objective] + MARGIN:
                reason = (
                    f"alone it orders {names[objective]} better than the ranker, {skill:.2f} to {ranker[objective]:.2f}"
                )
            else:
                continue
            found.append(Suspect(column, names[objective], float(skill), reason))
    return tuple(sorted(found, key=lambda each: -each.skill))
