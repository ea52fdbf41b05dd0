"""Canonical Arrow columns as the plain arrays that a plan runs on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_eng.inputs import Input


def plan_columns(columns: Mapping[str, Any], inputs: Iterable[Input]) -> dict[str, NDArray[Any]]:
    """Return each input's arrays by name, a list's as values and offsets.

    Args:
        columns: canonical columns, such as a cleaned log's table; arrays or chunked arrays of one length.
        inputs: the plan's inputs.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for given in inputs:
        array = _whole(columns[given.name])
        if given.is_list:
            values, offsets = given.tensors
            arrays[values] = array.flatten().to_numpy(zero_copy_only=False)
            arrays[offsets] = np.concatenate([[0], np.cumsum(array.value_lengths().to_numpy(zero_copy_only=False))])
        else:
            arrays[given.name] = array.to_numpy(zero_copy_only=False)
    return arrays


def _whole(column: Any) -> pa.Array:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
