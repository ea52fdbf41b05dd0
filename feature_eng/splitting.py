"""Which rows train and which validate: the cut, the requests that straddle it, and the folds.

A row's rank says how late it comes: its moment in a split by time, a mixed key of its request or user in the others.
Rows ranked at or above the cut validate, but a request with a row below the cut trains whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from feature_eng.keys import combined_keys

Split = Literal["time", "request", "user"]
Keys = npt.NDArray[np.uint64]
Ranks = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

FOLD_COLUMN = "__fold__"
FOLDS = 5
# moments kept of a piece to find the cut: exact up to as many rows, above within 0.02 % of a piece's rows
SKETCH_SIZE = 8192
_SPLIT_SALT = np.uint64(0x5DEECE66D)


@dataclass(frozen=True)
class Sketch:
    """Evenly spaced order statistics of a piece's ranks, each standing for `weight` rows."""

    ranks: Ranks
    weight: float


@dataclass(frozen=True)
class Spans:
    """The lowest and the highest rank of each request of a piece."""

    requests: Keys
    lowest: Ranks
    highest: Ranks


def check_split(split: str, fraction: float) -> None:
    """Check the arguments of a split.

    Raises:
        ValueError: `split` is not known, or `fraction` is not in [0, 1).
    """
    if split not in get_args(Split):
        raise ValueError(f"split must be time, request or user; got {split}")
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction must be at least 0 and below 1; got {fraction}")


def key_ranks(keys: Keys) -> Ranks:
    """Return ranks (n,) in [0, 2⁶³) of request or user keys (n,), independent of the keys' folds."""
    mixed = combined_keys(keys, np.full(len(keys), _SPLIT_SALT))
    return (mixed >> np.uint64(1)).astype(np.int64)


def folds(requests: Keys) -> npt.NDArray[np.int8]:
    """Return the fold (n,), 0 to 4, of each row's request (n,)."""
    return (requests % np.uint64(FOLDS)).astype(np.int8)


def sketch(ranks: Ranks) -> Sketch:
    """Keep at most `SKETCH_SIZE` ranks that stand for all (n,)."""
    kept = min(len(ranks), SKETCH_SIZE)
    places = (np.arange(kept) + 0.5) * len(ranks) / max(kept, 1)
    return Sketch(np.sort(ranks)[places.astype(np.int64)], len(ranks) / max(kept, 1))


def rank_cut(sketches: Sequence[Sketch], fraction: float) -> int:
    """Return the rank at or above which the last `fraction` of the rows lie."""
    ranks = np.concatenate([part.ranks for part in sketches])
    weights = np.concatenate([np.full(len(part.ranks), part.weight) for part in sketches])
    order = np.argsort(ranks, kind="stable")
    before = np.cumsum(weights[order]) - weights[order]
    # a hair below, so that rounding of the product does not move a cut that falls between two rows
    place = int(np.searchsorted(before, (1 - fraction) * weights.sum() - 1e-6))
    return int(ranks[order][min(place, len(ranks) - 1)])


def key_cut(fraction: float) -> int:
    """Return the cut of ranks that come from keys."""
    return int((1 - fraction) * 2.0**63)


def spans(requests: Keys, ranks: Ranks) -> Spans:
    """Return the span of each request (unique,) of a piece, from rows' requests (n,) and ranks (n,)."""
    order = np.argsort(requests, kind="stable")
    ordered = requests[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if len(ordered) else order
    if not len(starts):
        return Spans(ordered, ranks, ranks)
    by_request = ranks[order]
    return Spans(ordered[starts], np.minimum.reduceat(by_request, starts), np.maximum.reduceat(by_request, starts))


def straddling(parts: Sequence[Spans], cut: int) -> Keys:
    """Return the requests (m,), in order, that have rows below the cut and rows at or above it."""
    if not parts:
        return np.empty(0, np.uint64)
    early = np.unique(np.concatenate([part.requests[part.lowest < cut] for part in parts]))
    late = np.unique(np.concatenate([part.requests[part.highest >= cut] for part in parts]))
    both: Keys = np.intersect1d(early, late, assume_unique=True)
    return both


def validates(requests: Keys, ranks: Ranks, cut: int, straddlers: Keys) -> Mask:
    """Return which rows (n,) validate; those of straddling requests train."""
    late: Mask = ranks >= cut
    if not len(straddlers):
        return late
    places = np.minimum(np.searchsorted(straddlers, requests), len(straddlers) - 1)
    late &= straddlers[places] != requests
    return late
