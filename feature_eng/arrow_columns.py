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
        column = columns[given.name]
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if given.is_list:
            values, offsets = given.tensors
            arrays[values] = array.flatten().to_numpy(zero_copy_only=False)
            arrays[offsets] = np.concatenate([[0], np.cumsum(array.value_lengths().to_numpy(zero_copy_only=False))])
        else:
            arrays[given.name] = array.to_numpy(zero_copy_only=False)
    return arrays
