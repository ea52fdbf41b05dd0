"""Lookup tables of a plan: built once, read by `kernels` with one probe a key.

A hash table is perfect: a bucket's pilot moves each of its keys to a slot of its own. Integers without many gaps lie in
a dense table instead. Source: Pibiri and Trani, PTHash: Revisiting FCH Minimal Perfect Hashing, SIGIR 2021.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_eng import kernels

UInt64Array = NDArray[np.uint64]
Int32Array = NDArray[np.int32]

_LOAD = 0.9  # share of slots in use
_KEYS_A_BUCKET = 4
_BYTES_A_KEY = 16 / _LOAD + 2 / _KEYS_A_BUCKET
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def hash_table(keys: UInt64Array, payloads: Int32Array, default: np.int32) -> dict[str, NDArray[Any]]:
    """Return a table of distinct keys and their payloads.

    Args:
        keys: (V,).
        payloads: (V,), ids or the bits of float32 numbers.
        default: payload of the free slots.

    Returns:
        `table` uint64 (slots, 2), each slot a key and its payload, a free one the default; and `pilots` uint16
        (buckets,), what moves a bucket's keys to their slots.

    Raises:
        ValueError: a key comes twice.
    """
    buckets = len(keys) // _KEYS_A_BUCKET + 1
    place = ((keys & _LOW) * np.uint64(buckets) >> _32).astype(np.int64)
    order = np.argsort(place, kind="stable")
    keys, payloads = keys[order], payloads[order]
    sizes = np.bincount(place, minlength=buckets)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    fullest_first = np.argsort(-sizes, kind="stable")
    pilots = np.zeros(buckets, dtype=np.uint16)
    slots = int(len(keys) / _LOAD) + 1
    while not kernels.find_pilots(keys, starts, fullest_first, slots, pilots):
        if (distinct := len(np.unique(keys))) < len(keys):
            raise ValueError(f"keys must differ; got {len(keys)} of which {distinct} do")
        slots += slots // 20 + 1
    # A free slot's key, one that lies elsewhere or 0, is found there by nobody, or as unknown.
    table = np.empty((slots, 2), dtype=np.uint64)
    table[:, 0] = keys[0] if len(keys) else 0
    table[:, 1] = default.view(np.uint32)
    kernels.place_keys(keys, payloads.view(np.uint32), pilots, table)
    return {"table": table, "pilots": pilots}


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
