"""How far a figure can be trusted: what it would have been, had other requests of the same kind come in.

A bootstrap replicate draws groups of rows (requests) whole and with replacement. All replicates of a figure take one
pass: a row is read once, and how often the R draws took it is read from a table of groups. B rows, G groups, R draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]
Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class Draws:
    """How often each draw took each row: `counts[group[row], draw]`.

    Args:
        group: each row's group, 0 to G - 1, (B,).
        counts: how often a draw took a group, (G, R).
    """

    group: NDArray[np.int64]
    counts: Array

    def rows(self, chosen: Array) -> Draws:
        """Return the draws of some of the rows, chosen by a mask or by index."""
        return Draws(self.group[chosen], self.counts)

    def totals(self, values: Array) -> Float64Array:
        """Return the sum of values (B,) in each draw, (R,)."""
        by_group = np.bincount(self.group, values, len(self.counts)).astype(np.float64)
        totals: Float64Array = _totals(by_group, self.counts)
        return totals


def one_draw(rows: int, weights: Array | None = None) -> Draws:
    """Return a single draw that takes each row once, or as often as its weight says.

    Args:
        rows: how many there are, B.
        weights: at least 0, (B,).

    Raises:
        ValueError: there is not one weight a row, or one is negative or NaN.
    """
    if weights is None:
        return Draws(np.zeros(rows, dtype=np.int64), np.ones((1, 1), dtype=np.uint8))
    if np.shape(weights) != (rows,):
        raise ValueError(f"weights must have shape [{rows}], one a row; got {list(np.shape(weights))}")
    wrong = ~(weights >= 0)
    if wrong.any():
        raise ValueError(f"weights must be at least 0; got {weights[wrong][0]}")
    return Draws(np.arange(rows), weights.astype(np.float64)[:, None])


def draw_groups(group: NDArray[np.int64], replicates: int, seed: int) -> Draws:
    """Return draw 0, which takes every row once, and bootstrap replicates, each of which takes G groups at random.

    Args:
        group: each row's group, 0 to G - 1, (B,).
        replicates: how many, R - 1.
        seed: equal seeds draw equally.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 8.
    """
    rng = np.random.default_rng(seed)
    groups = int(group.max()) + 1
    counts = np.ones((groups, 1 + replicates), dtype=np.uint8)
    for draw in range(1, 1 + replicates):
        counts[:, draw] = np.bincount(rng.integers(0, groups, groups), minlength=groups)
    return Draws(group, counts)


def interval(replicates: Sequence[float] | Array, confidence: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of a figure's replicates, without those that are NaN; NaN where none are left."""
    known = np.asarray(replicates, dtype=np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


@njit()
def _totals(values: Float64Array, counts: Array) -> Float64Array:
    totals = np.zeros(counts.shape[1])
    for group in range(len(values)):
        if values[group] != 0:
            for draw in range(counts.shape[1]):
                totals[draw] += values[group] * counts[group, draw]
    return totals
