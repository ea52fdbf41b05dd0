"""Canonical Arrow columns as the plain arrays that a plan runs on, where Arrow allows it without a copy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_eng import kernels
from feature_eng.inputs import NULL_INT, Input
from feature_eng.strings import Strings


def plan_columns(columns: Mapping[str, Any], inputs: Iterable[Input]) -> dict[str, NDArray[Any] | Strings]:
    """Return each input's arrays by name, a list's as values and offsets; a null list is empty.

    Args:
        columns: canonical columns, such as a cleaned log's table; arrays or chunked arrays of one length.
        inputs: the plan's inputs.

    Raises:
        ValueError: a list input's column holds no lists, or a column with nulls an integer above int64's.
    """
    arrays: dict[str, NDArray[Any] | Strings] = {}
    for given in inputs:
        column = columns[given.name]
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if given.is_list:
            if not hasattr(array, "value_lengths"):
                raise ValueError(f"{given.name} must be lists; got {array.type}")
            values, offsets = given.tensors
            lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
            arrays[values] = _values(given, array.flatten())
            arrays[offsets] = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        else:
            arrays[given.name] = _values(given, array)
    return arrays


def _values(given: Input, array: pa.Array) -> NDArray[Any] | Strings:
    """Return an input's values (n,), its nulls as a plan has them: an integer's written out, a float's NaN."""
    if pa.types.is_dictionary(array.type) and given.dtype == "string":
        return _coded_strings(array)
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        return arrow_strings(array)
    if given.dtype == "int64" and pa.types.is_integer(array.type) and array.null_count:
        try:
            array = array.cast(pa.int64()).fill_null(NULL_INT)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{given.name} must be at most {2**63 - 1}; got {error}") from None
    numbers: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return numbers


def arrow_strings(array: pa.Array) -> Strings:
    """Return an Arrow string array (n,) as strings over its own bytes; a null is empty.

    Raises:
        ValueError: the array is damaged: its offsets fall or lie outside its bytes.
    """
    if array.null_count:
        array = array.fill_null("")
    _, offsets, data = array.buffers()
    dtype = np.int64 if pa.types.is_large_string(array.type) else np.int32
    places = np.zeros(1, np.int64)
    if len(array):
        places = np.frombuffer(offsets, dtype)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    text = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    return Strings(text, places[:-1], places[1:])


def _coded_strings(array: pa.DictionaryArray) -> Strings:
    """Return a dictionary array of strings (n,) as strings over the dictionary's bytes; a null is empty."""
    words = arrow_strings(array.dictionary)
    codes = array.indices.fill_null(-1).to_numpy()
    starts, ends = np.empty((2, len(codes)), np.int64)
    kernels.gather_places(codes, words.starts, words.ends, starts, ends)
    return Strings(words.data, starts, ends)
