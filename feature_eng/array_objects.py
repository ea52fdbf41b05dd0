"""NumPy's array objects, read from memory: all of a request's columns in the time that Python takes to ask one.

Source: NumPy's C-API, PyArrayObject: data, number of dimensions, shape, strides, base and dtype follow one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_eng import kernels

Array = NDArray[Any]
Int64Array = NDArray[np.int64]


@dataclass(frozen=True)
class Expected:
    """What n arrays must be to be taken as they are.

    `dtypes` are the dtype objects' addresses, int64 (n,); `sizes` the bytes of an element, int64 (n,); `inputs` what
    each array's length is, as `kernels.read_arrays` says, int64 (n,).
    """

    dtypes: Int64Array
    sizes: Int64Array
    inputs: Int64Array


def expected(dtypes: Sequence[np.dtype[Any]], inputs: Sequence[int]) -> Expected:
    """Return what arrays of these dtypes must be; NumPy has one object for each dtype of its own."""
    return Expected(
        np.array([id(dtype) for dtype in dtypes], dtype=np.int64),
        np.array([dtype.itemsize for dtype in dtypes], dtype=np.int64),
        np.array(inputs, dtype=np.int64),
    )


def recognised(arrays: Sequence[Any], wanted: Expected, rows: int, once: NDArray[np.bool_]) -> Int64Array | None:
    """Return where arrays' data lie, int64 (n,), or None if one is not as it must be.

    Args:
        arrays: n objects of any type.
        wanted: of each.
        rows: B, at least 0.
        once: whether an input has one row for all, written.
    """
    offset = _data_offset()
    if offset is None:
        return None
    addresses = np.array([id(array) for array in arrays], dtype=np.int64)
    kind, about = id(np.ndarray), (wanted.dtypes, wanted.sizes, wanted.inputs)
    return addresses if kernels.read_arrays(addresses, offset, kind, *about, rows, once) else None


def data_addresses(arrays: Sequence[Array]) -> Int64Array:
    """Return where arrays' data lie, int64 (n,)."""
    offset = _data_offset()
    if offset is None:
        return np.array([array.ctypes.data for array in arrays], dtype=np.int64)
    addresses = np.empty(len(arrays), dtype=np.int64)
    kernels.words_at(np.array([id(array) + offset for array in arrays], dtype=np.int64), addresses)
    return addresses


@lru_cache(maxsize=1)
def _data_offset() -> int | None:
    """Return how many bytes behind its start an array object keeps its data's address; None if not as documented."""
    probe = np.empty(3)
    words = np.empty(9, dtype=np.int64)
    kernels.words_at(id(probe) + 8 * np.arange(9), words)
    kind, data, dimensions, dtype = words[1], words[2], words[3] & 0xFFFFFFFF, words[7]
    found = (kind, data, dimensions, dtype)
    return 16 if found == (id(np.ndarray), probe.ctypes.data, 1, id(probe.dtype)) else None
