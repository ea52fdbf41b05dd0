"""Lookup tables of a plan: built once, read by `kernels` with one far read a key.

A hash table is made of lines, each as long as a line of the processor's cache, with five keys and their payloads; a key
for which its line has no room lies in one of the next. Integers without many gaps lie in a dense table instead.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_eng import kernels

UInt64Array = NDArray[np.uint64]
Int32Array = NDArray[np.int32]

_LOAD = 0.6  # share of places in use: one line in ten reaches beyond itself
_BYTES_A_KEY = kernels.LINE_BYTES / kernels.LINE_KEYS / _LOAD


def hash_table(keys: UInt64Array, payloads: Int32Array, default: np.int32) -> UInt64Array:
    """Return a table of distinct keys and their payloads.

    Args:
        keys: (V,).
        payloads: (V,), ids or the bits of float32 numbers.
        default: payload of the free places.

    Returns:
        uint64 (lines, 8): five keys, their payloads of 32 bits, and the line's reach, also of 32 bits.

    Raises:
        ValueError: a key comes twice, or too many begin with the same bits.
    """
    lines = fewest = int(len(keys) / kernels.LINE_KEYS / _LOAD) + 1
    while True:
        table = np.zeros((lines, kernels.LINE_BYTES // 8), dtype=np.uint64)
        # A free place's key, one that lies before all free places that it is looked for in, or 0, is found by nobody
        # there, or as unknown.
        table[:, : kernels.LINE_KEYS] = keys[0] if len(keys) else 0
        table.view(np.int32)[:, kernels.PAYLOADS_AT // 4 : kernels.REACH_AT // 4] = default
        placed = kernels.place_keys(keys, payloads.view(np.uint32), table)
        if placed == len(keys):
            return table
        if (distinct := len(np.unique(keys))) < len(keys):
            raise ValueError(f"keys must differ; got {len(keys)} of which {distinct} do")
        lines += lines // 8 + 1
        if lines > 2 * fewest:
            alike = int(np.unique(keys >> np.uint64(32), return_counts=True)[1].max())
            raise ValueError(f"keys must differ in their upper 32 bits; got {alike} that do not")


def slots_of(keys: UInt64Array, table: UInt64Array) -> NDArray[np.int64]:
    """Return where keys (n,) lie in a hash table (lines, 8): five times the line, plus the place; -1 if nowhere."""
    slots = np.empty(len(keys), dtype=np.int64)
    kernels.slots_of(np.ascontiguousarray(keys), table, slots)
    return slots


def dense_table(values: NDArray[np.int64], payloads: Int32Array, default: np.int32) -> tuple[Int32Array, int] | None:
    """Return a table that integers index after their lowest, and the lowest; None where hashing is smaller.

    Args:
        values: distinct integers (V,).
        payloads: (V,), ids or the bits of float32 numbers.
        default: payload of integers between them that are not listed.
    """
    if not len(values):
        return None
    low = int(values.min())
    span = int(values.max()) - low + 1
    if 4 * span > _BYTES_A_KEY * len(values):
        return None
    table = np.full(span, default, dtype=np.int32)
    table[values - low] = payloads
    return table, low
