"""Who gets seen: how attention falls on groups of items or users under a ranking, and how predictions fit each group.

B rows, R draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bootstrap import Draws, Float64Array, draw_groups, interval
from models.metrics import bias_draws, checked, ratio, run_starts, sortable

Array = NDArray[Any]
Interval = tuple[float, float]


@dataclass(frozen=True)
class GroupExposure:
    """What a group of rows gets, with 95 % intervals.

    Attributes:
        group: its name.
        rows: how many it has.
        row_share: of all rows, in [0, 1].
        exposure_share: of all attention, in [0, 1].
        parity: exposure share over row share; 1 is as seen as it is offered.
        parity_interval: of it.
        merit_parity: exposure share over the share of all merit; NaN where the group has none.
        merit_interval: of it.
    """

    group: str
    rows: int
    row_share: float
    exposure_share: float
    parity: float
    parity_interval: Interval
    merit_parity: float
    merit_interval: Interval


@dataclass(frozen=True)
class GroupCalibration:
    """One objective's predicted over its observed sum in one group, with a 95 % interval; NaN where nothing was."""

    group: str
    rows: int
    ratio: float
    interval: Interval


def place_weights(scores: Array, requests: Array, weight: Callable[[Array], Array]) -> Float64Array:
    """Return what each row's place in its request weighs; rows of equal score share their places' weights.

    Args:
        scores: higher ranks first, (B,).
        requests: each row's request, (B,).
        weight: of places, which count from 0.

    Raises:
        ValueError: lengths differ or are 0, or a score is not finite.

    Source: McSherry and Najork, Computing information retrieval performance measures efficiently in the presence of
        tied scores, ECIR 2008.
    """
    scores, _ = checked(scores, scores)
    groups = sortable(requests, len(scores))
    order = np.lexsort((-scores, groups))
    group_starts = run_starts(groups[order])
    starts = np.flatnonzero(group_starts)
    places = np.arange(len(scores)) - np.repeat(starts, np.diff(starts, append=len(scores)))
    ties = np.flatnonzero(group_starts | run_starts(scores[order]))
    sizes = np.diff(ties, append=len(scores))
    weights = np.empty(len(scores))
    weights[order] = np.repeat(np.add.reduceat(weight(places).astype(np.float64), ties) / sizes, sizes)
    return weights


def exposures(scores: Array, requests: Array) -> Float64Array:
    """Return the attention that each row gets where its place in its request gets 1 / log₂(place + 1), (B,).

    Args:
        scores: higher ranks first, (B,).
        requests: each row's request, (B,).

    Source: Singh and Joachims, Fairness of Exposure in Rankings, KDD 2018, with the position bias of DCG.
    """
    return place_weights(scores, requests, lambda places: 1 / np.log2(places + 2.0))


def exposure_by_group(
    scores: Array, requests: Array, groups: Array, merit: Array, *, replicates: int = 100, seed: int = 0
) -> tuple[GroupExposure, ...]:
    """Return what each group of rows gets of all attention, beside what it is of all rows and of all merit.

    Args:
        scores: higher ranks first, (B,).
        requests: each row's request, (B,); replicates draw them.
        groups: of the rows, (B,); as text they name the groups.
        merit: what a row turned out to be worth, at least 0, (B,); NaN where unknown, which counts as 0.
        replicates: bootstrap replicates behind the intervals.
        seed: of the bootstrap.

    Source: Singh and Joachims, Fairness of Exposure in Rankings, KDD 2018, demographic parity and disparate treatment,
        as ratios to the whole instead of between two groups.
    """
    draws = draw_groups(np.unique(sortable(requests, len(scores)), return_inverse=True)[1], replicates, seed)
    seen, worth = exposures(scores, requests), np.nan_to_num(np.asarray(merit, dtype=np.float64))
    rows_all, seen_all, worth_all = draws.totals(np.ones(len(seen))), draws.totals(seen), draws.totals(worth)
    names = groups.astype(str)
    found = []
    for name in np.unique(names):
        own = names == name
        row_share = ratio(draws.totals(own.astype(np.float64)), rows_all)
        seen_share = ratio(draws.totals(seen * own), seen_all)
        worth_share = ratio(draws.totals(worth * own), worth_all)
        parity, merit_parity = ratio(seen_share, row_share), ratio(seen_share, worth_share)
        found.append(
            GroupExposure(
                str(name),
                int(own.sum()),
                float(row_share[0]),
                float(seen_share[0]),
                float(parity[0]),
                interval(parity[1:]),
                float(merit_parity[0]),
                interval(merit_parity[1:]),
            )
        )
    return tuple(found)


def calibration_by_group(
    labels: Array, predictions: Array, requests: Array, groups: Array, *, replicates: int = 100, seed: int = 0
) -> tuple[GroupCalibration, ...]:
    """Return how far one objective's predictions add up to what happened, in each group.

    Args:
        labels: what happened, (B,); NaN where unknown, which leaves the row out.
        predictions: expected values, (B,).
        requests: each row's request, (B,); replicates draw them.
        groups: of the rows, (B,).
        replicates: bootstrap replicates behind the intervals.
        seed: of the bootstrap.

    Source: Kleinberg, Mullainathan and Raghavan, Inherent Trade-Offs in the Fair Determination of Risk Scores, ITCS
        2017, condition A (calibration within groups), of a group's rows as a whole.
    """
    known = np.isfinite(labels)
    if not known.any():
        return ()
    codes = np.unique(sortable(requests, len(labels))[known], return_inverse=True)[1]
    draws: Draws = draw_groups(codes, replicates, seed)
    labels, predictions, names = labels[known], predictions[known], groups.astype(str)[known]
    found = []
    for name in np.unique(names):
        own = names == name
        sums = bias_draws(labels[own], predictions[own], draws.rows(own))
        found.append(GroupCalibration(str(name), int(own.sum()), float(sums[0]), interval(sums[1:])))
    return tuple(found)
