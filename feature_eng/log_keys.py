"""64-bit keys of canonical columns: what duplicates, folds, splits and distinct counts go by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_eng.arrow_columns import arrow_strings
from feature_eng.keys import combined_keys, int_keys, string_keys

Keys = npt.NDArray[np.uint64]


def array_keys(values: pa.Array) -> Keys:
    """Return the keys (n,) of a canonical column without lists (n,)."""
    if pa.types.is_string(values.type):
        return string_keys(arrow_strings(values))
    numbers = values.to_numpy()
    return int_keys(numbers.view(np.int32) if numbers.dtype == np.float32 else numbers)


def row_keys(columns: list[pa.Array]) -> Keys:
    """Return the keys (n,) of rows, from columns (n,)."""
    return combined_keys(*(array_keys(values) for values in columns))


def position_keys(piece: int, rows: int) -> Keys:
    """Return the keys (rows,) of a piece's rows that nothing else names."""
    return int_keys(np.arange(rows, dtype=np.int64) + (np.int64(piece) << 32))


def duplicate_rows(pieces: Sequence[Keys]) -> Iterator[npt.NDArray[np.int64]]:
    """Find, piece by piece, the rows whose key an earlier row has had.

    Args:
        pieces: the keys of each piece's rows, in the log's order; twice their 8 bytes a row are held.
    """
    everything = np.concatenate(pieces) if pieces else np.empty(0, np.uint64)
    everything.sort()
    repeated = np.unique(everything[1:][everything[1:] == everything[:-1]])
    del everything
    seen = np.zeros(len(repeated), bool)
    for keys in pieces:
        rows, places = _found_in(repeated, keys)
        present, firsts = np.unique(places, return_index=True)
        later = np.ones(len(rows), bool)
        later[firsts[~seen[present]]] = False
        seen[present] = True
        yield rows[later]


def _found_in(ordered: Keys, keys: Keys) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return which keys are in an ordered array, and where."""
    if not len(ordered):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    places = np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)
    rows = np.flatnonzero(ordered[places] == keys)
    return rows, places[rows]
