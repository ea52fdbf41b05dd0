"""A request's columns, held against the inputs that they are meant to be."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_eng.inputs import Input
from feature_eng.strings import Strings, encoded, is_utf8, with_plain_words

Array = NDArray[Any]

_LARGEST = 2**63 - 1


def bound_columns(
    inputs: Sequence[Input], columns: Mapping[str, Any], rows: int, words: Container[str] = ()
) -> tuple[list[Array], list[bool]]:
    """Return the contiguous arrays that carry a request's inputs, and which inputs have one row for all.

    Args:
        inputs: the plan's.
        columns: the request's arrays by tensor name.
        rows: B; a column has as many values, or 1.
        words: the string inputs that are split into words.

    Returns:
        For each input in turn its values, or its strings' data, starts and ends, then the same three of its plain words
        if it is split, then a list's offsets; and whether each input has one row.

    Raises:
        ValueError: naming the column and the rule it breaks.
    """
    if rows < 0:
        raise ValueError(f"rows must be at least 0; got {rows}")
    arrays: list[Array] = []
    once: list[bool] = []
    try:
        for given in inputs:
            offsets = columns[given.tensors[1]] if given.is_list else None
            carried, one = _carried(given, columns[given.tensors[0]], offsets, rows, given.name in words)
            arrays += carried
            once.append(one)
    except KeyError:
        missing = [name for i in inputs for name in i.tensors if name not in columns]
        raise ValueError(f"columns must hold {', '.join(missing)}; got {', '.join(columns) or 'none'}") from None
    return arrays, once


def _carried(given: Input, values: Any, offsets: Any, rows: int, words: bool) -> tuple[tuple[Array, ...], bool]:
    """Return the arrays that carry one input, and whether it has one row."""
    values = _typed(given.tensors[0], given.dtype, values)
    count = len(values)
    if isinstance(values, Strings):
        carried: tuple[Array, ...] = (values.data, values.starts, values.ends)
        if words:
            plain = with_plain_words(values)
            carried += (plain.data, plain.starts, plain.ends)
    else:
        carried = (values,)
    if given.is_list:
        places = _checked_offsets(given.tensors[1], offsets, count, rows)
        return (*carried, places), len(places) == 2
    if count != rows and count != 1:
        raise ValueError(f"{given.name} must have {rows} values, one a candidate, or 1; got {count}")
    return carried, count == 1


_KINDS = {"int64": "iub", "float32": "fiu", "float64": "fiu"}


def _typed(name: str, dtype: str, values: Any) -> Any:
    """Return the values (n,) as int64, float32 or float64, or as UTF-8 strings."""
    if dtype == "string":
        return values if isinstance(values, Strings) else _text(name, _vector(name, values))
    values = _vector(name, values)
    if values.dtype.kind not in _KINDS[dtype]:
        if not len(values):
            return np.empty(0, dtype=dtype)
        raise ValueError(f"{name} must be {dtype}; got {values.dtype}")
    if values.dtype == np.uint64 and dtype == "int64" and (values > _LARGEST).any():
        raise ValueError(f"{name} must be at most {_LARGEST}; got {values.max()}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which counts as missing
        return np.ascontiguousarray(values, dtype=dtype)


def _vector(name: str, values: Any) -> Array:
    """Return values as an array of one dimension."""
    if type(values) is np.ndarray and values.ndim == 1:
        return values
    if isinstance(values, np.ma.MaskedArray):
        raise ValueError(f"{name} must have its nulls written out; got a masked array")
    try:
        array = np.asarray(values)
    except ValueError:  # which numpy raises without the column's name
        raise ValueError(f"{name} must have one dimension; got rows of different lengths") from None
    if array.ndim != 1:
        raise ValueError(f"{name} must have one dimension; got shape {list(array.shape)}")
    return array


def _text(name: str, values: Array) -> Strings:
    if values.dtype.kind not in "OUS" and len(values):
        raise ValueError(f"{name} must be string; got {values.dtype}")
    others = {kind.__name__ for kind in set(map(type, values)) if not issubclass(kind, (str, bytes))}
    if others and len(values):
        raise ValueError(f"{name} must be string; got {', '.join(sorted(others))}")
    try:
        strings = encoded(values)
    except UnicodeError:
        raise ValueError(f"{name} must be UTF-8; got other bytes") from None
    if not is_utf8(strings):
        raise ValueError(f"{name} must be UTF-8; got other bytes")
    return strings


def _checked_offsets(name: str, offsets: Any, values: int, rows: int) -> NDArray[np.int64]:
    """Return where each row's values begin, and where the last one's end, int64 (B + 1,) or (2,)."""
    given = _vector(name, offsets)
    if given.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers; got {given.dtype}")
    if len(given) not in (2, rows + 1):
        raise ValueError(f"{name} must have {rows + 1} entries, one more than the candidates, or 2; got {len(given)}")
    places: NDArray[np.int64] = np.ascontiguousarray(given, dtype=np.int64)
    if places[0] != 0 or places[-1] != values:
        raise ValueError(f"{name} must rise from 0 to the {values} values; got {places[0]} to {places[-1]}")
    if len(places) > 2 and (falls := places[1:] < places[:-1]).any():  # differences could wrap around
        before, after = places[falls.argmax() :][:2]
        raise ValueError(f"{name} must rise from 0 to the {values} values; got {before} before {after}")
    return places


def candidate_count(inputs: Sequence[Input], columns: Mapping[str, Any], most: int) -> int:
    """Return N, the number of candidates that a request's item columns agree on.

    Args:
        inputs: the plan's.
        columns: the request's arrays by tensor name.
        most: the largest N that is served.

    Raises:
        ValueError: naming the tensor: two item columns differ in length, N is 0 or above `most`, or a user or context
            column is not for one row.
    """
    first, rows = None, 1
    for given in inputs:
        name = given.tensors[-1]
        count = len(columns[name]) - given.is_list
        if given.role != "item":
            if count != 1:
                raise ValueError(f"{name} must be of one row, since it is a {given.role} column; got {count}")
        elif first is None:
            first, rows = name, count
        elif count != rows:
            raise ValueError(f"{name} must be of {rows} candidates, as {first} is; got {count}")
    if first is not None and not 1 <= rows <= most:
        raise ValueError(f"{first} must be of 1 to {most} candidates; got {rows}")
    return rows
