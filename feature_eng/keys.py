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

UInt64Array = NDArray[np.uint64]

_MULTIPLIER = np.uint64(0xC6A4A7935BD1E995)
_SHIFT = np.uint64(47)
_LONG = 1024  # bytes that strings are hashed side by side; the few longer ones go on one by one


def int_keys(values: NDArray[Any]) -> UInt64Array:
    """Return the keys (n,) of integers (n,)."""
    return _hash_blocks(np.ascontiguousarray(values, dtype=np.int64).view(np.uint64)[:, None])


def string_keys(values: Sequence[Any] | NDArray[Any]) -> UInt64Array:
    """Return the keys (n,) of strings (n,), given as `str` or as UTF-8 `bytes`."""
    distinct, codes = distinct_values(values)
    encoded = [value if isinstance(value, bytes) else str(value).encode() for value in distinct]
    offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum([len(value) for value in encoded], out=offsets[1:])
    return buffer_keys(np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets)[codes]


def distinct_values(values: Sequence[Any] | NDArray[Any]) -> tuple[list[Any], NDArray[np.int64]]:
    """Return the distinct values (d,) in order of appearance, and for each value (n,) which of them it is."""
    seen: dict[Any, int] = {}
    codes = np.fromiter((seen.setdefault(value, len(seen)) for value in values), dtype=np.int64, count=len(values))
    return list(seen), codes


def buffer_keys(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> UInt64Array:
    """Return the keys (n,) of strings that lie end to end in `data`, string i at `offsets[i]:offsets[i + 1]`."""
    starts, lengths = offsets[:-1], np.diff(offsets)
    with np.errstate(over="ignore"):
        state = lengths.astype(np.uint64) * _MULTIPLIER
        padded = np.concatenate([data, np.zeros(8, dtype=np.uint8)])
        words = np.lib.stride_tricks.sliding_window_view(padded, 8)
        for block in range(min(int(lengths.max(initial=0)), _LONG) // 8):
            rows = np.flatnonzero(lengths >= 8 * (block + 1))
            state[rows] = _absorb(state[rows], words[starts[rows] + 8 * block].view(np.uint64)[:, 0])
        for row in np.flatnonzero(lengths >= _LONG + 8):
            blocks = data[starts[row] + _LONG :][: (lengths[row] - _LONG) // 8 * 8].view(np.uint64)
            state[row] = _absorb_all(int(state[row]), blocks)
        left = lengths % 8
        rows = np.flatnonzero(left)
        tails = words[starts[rows] + lengths[rows] - left[rows]].view(np.uint64)[:, 0]
        tails = tails & ((np.uint64(1) << (left[rows] * 8).astype(np.uint64)) - np.uint64(1))
        state[rows] = (state[rows] ^ tails) * _MULTIPLIER
        return _finish(state)


def combined_keys(*keys: UInt64Array) -> UInt64Array:
    """Return the keys (n,) of tuples, from the keys (n,) or (1,) of their parts; a single part's key is its own."""
    return keys[0] if len(keys) == 1 else _hash_blocks(np.stack(np.broadcast_arrays(*keys), axis=1))


def _hash_blocks(blocks: UInt64Array) -> UInt64Array:
    with np.errstate(over="ignore"):
        state = np.full(len(blocks), np.uint64(8 * blocks.shape[1]) * _MULTIPLIER)
        for column in blocks.T:
            state = _absorb(state, column)
        return _finish(state)


def _absorb(state: UInt64Array, block: UInt64Array) -> UInt64Array:
    return (state ^ _mixed(block)) * _MULTIPLIER


def _absorb_all(state: int, blocks: UInt64Array) -> int:
    """Absorb one string's blocks (m,) in turn, each of which waits for the one before."""
    multiplier = int(_MULTIPLIER)
    for mixed in _mixed(blocks).tolist():
        state = (state ^ mixed) * multiplier & 0xFFFFFFFFFFFFFFFF
    return state


def _mixed(block: UInt64Array) -> UInt64Array:
    block = block * _MULTIPLIER
    block ^= block >> _SHIFT
    return block * _MULTIPLIER


def _finish(state: UInt64Array) -> UInt64Array:
    state = (state ^ state >> _SHIFT) * _MULTIPLIER
    return state ^ state >> _SHIFT
