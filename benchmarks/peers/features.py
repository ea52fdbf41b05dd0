"""What the systems that compute features share: the canonical columns they start from, and the numbers they look up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, NDArray[Any]]
Packed = tuple[NDArray[np.int32], NDArray[np.float32]]


@dataclass(frozen=True)
class Tables:
    """What a fitted workflow knows.

    `vocabularies` has for each categorical column its keys (V,), ascending and with the null among them, and their ids
    (V,). `medians`, `means` and `deviations` (D,) are those of the columns `continuous`.
    """

    vocabularies: Mapping[str, tuple[NDArray[Any], NDArray[np.int32]]]
    continuous: tuple[str, ...]
    medians: NDArray[np.float32]
    means: NDArray[np.float32]
    deviations: NDArray[np.float32]


@dataclass(frozen=True)
class System:
    """A way to compute features: `form` brings canonical columns (B,) into its own form, `run` does the work.

    `run` returns `categorical` int32 (B, S) and `continuous` float32 (B, D), or what a DataFrame library has of them.
    """

    form: Callable[[Columns], Any]
    run: Callable[[Any], Any]


def outputs(categorical: int, continuous: int) -> Callable[[int], Packed]:
    """Return what gives arrays of a number of rows and these widths to write to, the same ones again and again."""

    @lru_cache(maxsize=1)
    def output(rows: int) -> Packed:  # of ones, so that no page is new to a call
        return np.ones((rows, categorical), dtype=np.int32), np.ones((rows, continuous), dtype=np.float32)

    return output


def is_text(keys: NDArray[Any]) -> bool:
    """Return whether keys are strings."""
    return keys.dtype == object
