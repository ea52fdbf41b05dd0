"""The arithmetic of features on plain arrays: what workflow operators and plan instructions both call.

Every function takes and returns arrays whose first dimension is the n rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_eng import kernels
from feature_eng.inputs import NULL_ID, NULL_INT, NULL_STRING, PADDING_ID, UNSEEN_ID
from feature_eng.keys import UInt64Array, int_keys, string_keys

Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]

_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000
HOURS, WEEKDAYS = 24, 7

NULL_INT_KEY = int_keys(np.array([NULL_INT]))[0]
NULL_STRING_KEY = string_keys([NULL_STRING])[0]


def vocabulary_ids(keys: UInt64Array, listed: UInt64Array, ids: Int32Array) -> Int32Array:
    """Return each key's entry of `ids` (V,), 2 where `listed` (V,), ascending, does not hold it, 1 for a null."""
    found = _find(keys, listed)
    result = np.where(found >= 0, ids[found], UNSEEN_ID) if len(listed) else np.full(len(keys), UNSEEN_ID)
    result[(keys == NULL_INT_KEY) | (keys == NULL_STRING_KEY)] = NULL_ID
    return result.astype(np.int32)


def looked_up(
    keys: UInt64Array, listed: UInt64Array, values: Float32Array, default: float | Float32Array
) -> Float32Array:
    """Return each key's entry of `values` (V,), or its `default` where `listed` (V,), ascending, does not hold it."""
    if not len(listed):
        return np.full(len(keys), default, dtype=np.float32)
    found = _find(keys, listed)
    return np.where(found >= 0, values[found], default).astype(np.float32)


def _find(keys: UInt64Array, listed: UInt64Array) -> NDArray[np.int64]:
    """Return each key's index in `listed`, or -1."""
    if not len(listed):
        return np.full(len(keys), -1)
    at = np.minimum(np.searchsorted(listed, keys), len(listed) - 1)
    return np.where(listed[at] == keys, at, -1)


def bucket_ids(keys: UInt64Array, buckets: int) -> Int32Array:
    """Return ids from 1 to `buckets`."""
    return (keys % np.uint64(buckets)).astype(np.int32) + np.int32(1)


def padded(ids: Int32Array, offsets: NDArray[np.int64], width: int, *, keep_last: bool) -> Int32Array:
    """Return the lists' ids as (n, width), 0 where a list has ended; a longer list keeps its last or first `width`."""
    lengths = np.diff(offsets)
    kept = np.minimum(lengths, width)
    first = offsets[1:] - kept if keep_last else offsets[:-1]
    cells = np.arange(width)
    inside = cells < kept[:, None]
    result = np.full((len(lengths), width), PADDING_ID, dtype=np.int32)
    result[inside] = ids[(first[:, None] + cells)[inside]]
    return result


def word_ids(texts: Any, buckets: int, width: int) -> Int32Array:
    """Return ids (n, width), 1 to `buckets`, of the first lower-cased words of texts (n,), `str` or UTF-8 `bytes`."""
    split = [(t.decode("utf-8", "replace") if isinstance(t, bytes) else str(t)).lower().split() for t in texts]
    offsets = np.zeros(len(split) + 1, dtype=np.int64)
    np.cumsum([len(words) for words in split], out=offsets[1:])
    ids = bucket_ids(string_keys([word for words in split for word in words]), buckets)
    return padded(ids, offsets, width, keep_last=False)


def hour_ids(moments_ms: NDArray[np.int64]) -> Int32Array:
    """Return 1 + the hour in UTC (1 to 24) of moments in milliseconds since 1970, or 25 for a null."""
    hours = moments_ms // _HOUR_MS % HOURS + 1
    return np.where(moments_ms == NULL_INT, HOURS + 1, hours).astype(np.int32)


def weekday_ids(moments_ms: NDArray[np.int64]) -> Int32Array:
    """Return 1 for Monday to 7 for Sunday in UTC, or 8 for a null."""
    days = (moments_ms // _DAY_MS + 3) % WEEKDAYS + 1
    return np.where(moments_ms == NULL_INT, WEEKDAYS + 1, days).astype(np.int32)


def logged(values: Float32Array) -> Float32Array:
    """Return log(1 + x) of each number (n,)."""
    logs = np.array(values, dtype=np.float32)
    kernels.run_steps(logs, np.array([kernels.LOG]), np.ones((1, 2), dtype=np.float32))
    return logs


def age_days(later_ms: NDArray[np.int64], earlier_ms: NDArray[np.int64]) -> Float32Array:
    """Return the days from one moment to another, NaN where either is null."""
    days = (later_ms.astype(np.float64) - earlier_ms) / _DAY_MS
    return np.where((later_ms == NULL_INT) | (earlier_ms == NULL_INT), np.nan, days).astype(np.float32)
