"""64-bit keys of values: what vocabularies, statistics and hash buckets are looked up by.

A key is MurmurHash64A of the value's bytes (8 little-endian bytes of an integer, UTF-8 of a string), so it is the
same on every machine, row and batch. For integers it is a bijection; two of n strings share a key with probability
n² / 2⁶⁵. Source: A. Appleby, MurmurHash2, 64-bit version A.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_eng import kernels
from feature_eng.strings import Strings, encoded

UInt64Array = NDArray[np.uint64]

_MULTIPLIER = np.uint64(0xC6A4A7935BD1E995)
_INVERSE = np.uint64(pow(0xC6A4A7935BD1E995, -1, 2**64))
_SHIFT = np.uint64(47)


def int_keys(values: NDArray[Any]) -> UInt64Array:
    """Return the keys (n,) of integers (n,)."""
    keys = np.empty(len(values), dtype=np.uint64)
    kernels.int_keys(np.ascontiguousarray(values, dtype=np.int64), keys)
    return keys


def float_keys(values: NDArray[np.float64]) -> UInt64Array:
    """Return the keys (n,) of numbers (n,): of their bits, NaN being null and zero having one sign."""
    keys = np.empty(len(values), dtype=np.uint64)
    kernels.float_keys(np.ascontiguousarray(values, dtype=np.float64), keys)
    return keys


def key_ints(keys: UInt64Array) -> NDArray[np.int64]:
    """Return the integers (n,) whose keys (n,) these are."""
    with np.errstate(over="ignore"):
        state = (keys ^ (keys >> _SHIFT)) * _INVERSE
        state = (state ^ (state >> _SHIFT)) * _INVERSE
        block = (state ^ np.uint64(8) * _MULTIPLIER) * _INVERSE
        return ((block ^ (block >> _SHIFT)) * _INVERSE).view(np.int64)


def string_keys(values: Strings | Sequence[Any] | NDArray[Any]) -> UInt64Array:
    """Return the keys (n,) of strings (n,), given as `Strings`, as `str` or as UTF-8 `bytes`."""
    strings = values if isinstance(values, Strings) else encoded(values)
    keys = np.empty(len(strings), dtype=np.uint64)
    kernels.string_keys(strings.data, strings.starts, strings.ends, keys)
    return keys


def combined_keys(*keys: UInt64Array) -> UInt64Array:
    """Return the keys (n,) of tuples, from the keys (n,) or (1,) of their parts; a single part's key is its own."""
    if len(keys) == 1:
        return keys[0]
    with np.errstate(over="ignore"):
        state = np.full(1, np.uint64(8 * len(keys)) * _MULTIPLIER)
        for part in keys:
            state = (state ^ _mixed(part)) * _MULTIPLIER
        state = (state ^ (state >> _SHIFT)) * _MULTIPLIER
        finished: UInt64Array = state ^ (state >> _SHIFT)
        return finished


def _mixed(block: UInt64Array) -> UInt64Array:
    block = block * _MULTIPLIER
    return (block ^ (block >> _SHIFT)) * _MULTIPLIER
