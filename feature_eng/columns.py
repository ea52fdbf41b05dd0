"""A request's columns, held against the inputs that they are meant to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_eng.inputs import Input

Array = NDArray[Any]

_LARGEST = 2**63 - 1


def checked_columns(inputs: Sequence[Input], columns: Mapping[str, Any], rows: int) -> dict[str, Array]:
    """Return a request's columns as arrays of their inputs' dtypes.

    Raises:
        ValueError: naming the column and the rule it breaks.
    """
    if rows < 1:
        raise ValueError(f"rows must be at least 1; got {rows}")
    wanted = [name for i in inputs for name in i.tensors]
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise ValueError(f"columns must hold {', '.join(missing)}; got {', '.join(columns) or 'none'}")
    checked = {}
    for column in inputs:
        if column.is_list:
            values, offsets = (np.asarray(columns[name]) for name in column.tensors)
            checked[column.tensors[0]] = _typed(column.tensors[0], column.dtype, values)
            checked[column.tensors[1]] = _checked_offsets(column.tensors[1], offsets, len(values), rows)
        else:
            values = _typed(column.name, column.dtype, np.asarray(columns[column.name]))
            if len(values) not in (1, rows):
                raise ValueError(f"{column.name} must have {rows} values, one a candidate, or 1; got {len(values)}")
            checked[column.name] = values
    return checked


def _typed(name: str, dtype: str, values: Array) -> Array:
    """Return the values (n,) as int64, float32 or UTF-8 strings."""
    if values.ndim != 1:
        raise ValueError(f"{name} must have one dimension; got shape {list(values.shape)}")
    kinds = {"int64": "iub", "float32": "fiu", "string": "OUS"}[dtype]
    if values.dtype.kind not in kinds and len(values):
        raise ValueError(f"{name} must be {dtype}; got {values.dtype}")
    if dtype == "string":
        _check_text(name, values)
        return values
    if values.dtype == np.uint64 and dtype == "int64" and (values > _LARGEST).any():
        raise ValueError(f"{name} must be at most {_LARGEST}; got {values.max()}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which counts as missing
        return values.astype(np.float32 if dtype == "float32" else np.int64, copy=False)


def _check_text(name: str, values: Array) -> None:
    others = {kind.__name__ for kind in set(map(type, values)) if not issubclass(kind, (str, bytes))}
    if others:
        raise ValueError(f"{name} must be string; got {', '.join(sorted(others))}")
    try:
        b"\n".join(value for value in values if isinstance(value, bytes)).decode()
        "\n".join(value for value in values if isinstance(value, str)).encode()
    except UnicodeError:
        raise ValueError(f"{name} must be UTF-8; got other bytes") from None


def _checked_offsets(name: str, offsets: Array, values: int, rows: int) -> NDArray[np.int64]:
    if offsets.ndim != 1 or offsets.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers of one dimension; got {offsets.dtype} {list(offsets.shape)}")
    if len(offsets) not in (2, rows + 1):
        raise ValueError(f"{name} must have {rows + 1} entries, one more than the candidates, or 2; got {len(offsets)}")
    offsets = offsets.astype(np.int64, copy=False)  # differences of unsigned integers would wrap around
    if offsets[0] != 0 or offsets[-1] != values or (np.diff(offsets) < 0).any():
        raise ValueError(f"{name} must rise from 0 to the {values} values; got {offsets[0]} to {offsets[-1]}")
    return offsets


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
    counted = {i.tensors[-1]: len(columns[i.tensors[-1]]) - i.is_list for i in inputs if i.role == "item"}
    first, rows = next(iter(counted.items()), ("the request", 1))
    for name, count in counted.items():
        if count != rows:
            raise ValueError(f"{name} must be of {rows} candidates, as {first} is; got {count}")
    if not 1 <= rows <= most:
        raise ValueError(f"{first} must be of 1 to {most} candidates; got {rows}")
    for one in (i for i in inputs if i.role != "item"):
        count = len(columns[one.tensors[-1]]) - one.is_list
        if count != 1:
            raise ValueError(f"{one.tensors[-1]} must be of one row, since it is a {one.role} column; got {count}")
    return rows
