"""Strings as bytes and places, as Arrow and Triton hold them: no Python object a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_eng import kernels

Int64Array = NDArray[np.int64]

_BYTE, _PLACE = np.dtype(np.uint8), np.dtype(np.int64)


@dataclass(frozen=True)
class Strings:
    """n UTF-8 strings, string i at `data[starts[i]:ends[i]]`.

    `data` is uint8 of any size, `starts` and `ends` are int64 (n,), all contiguous.

    Raises:
        ValueError: an array is of another dtype or shape or not contiguous, or a string lies outside the data.
    """

    data: NDArray[np.uint8]
    starts: Int64Array
    ends: Int64Array

    def __post_init__(self) -> None:
        data, starts, ends = self.data, self.starts, self.ends
        for name, array, dtype in (("data", data, _BYTE), ("starts", starts, _PLACE), ("ends", ends, _PLACE)):
            if array.dtype != dtype or array.ndim != 1 or not array.flags.c_contiguous:
                found = f"{array.dtype} {list(array.shape)} in strides {array.strides}"
                raise ValueError(f"{name} must be contiguous {dtype} of one dimension; got {found}")
        if len(starts) != len(ends):
            raise ValueError(f"ends must be as many as starts, {len(starts)}; got {len(ends)}")
        if (i := kernels.first_outside(starts, ends, len(data))) >= 0:
            raise ValueError(f"starts and ends must rise within {len(data)} bytes; got {starts[i]} and {ends[i]}")

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> bytes:
        """Return the bytes of one string."""
        return self.data[self.starts[index] : self.ends[index]].tobytes()

    def tolist(self) -> list[str]:
        """Return the strings as Python has them."""
        return [self[index].decode("utf-8", "replace") for index in range(len(self))]


class _Placed(Strings):
    """Strings whose arrays were made here, so that they fit."""

    def __post_init__(self) -> None:
        """Spare a request the checks."""


def encoded(values: Sequence[Any] | NDArray[Any]) -> Strings:
    """Return `str` and UTF-8 `bytes` values (n,) as strings.

    Raises:
        UnicodeError: a `str` holds half of a surrogate pair.
    """
    pieces = [value if isinstance(value, bytes) else str(value).encode() for value in values]
    offsets = np.zeros(len(pieces) + 1, dtype=np.int64)
    np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
    return _Placed(np.frombuffer(b"".join(pieces), dtype=np.uint8), offsets[:-1], offsets[1:])


def from_wire(name: str, wire: NDArray[np.uint8], count: int) -> Strings:
    """Return the strings of a Triton BYTES tensor, whose bytes stay where they are.

    Args:
        name: of the tensor.
        wire: its bytes: before each string its length, four bytes little-endian.
        count: number of strings.

    Raises:
        ValueError: the bytes hold another number of strings, or one that is not UTF-8.
    """
    wire = np.ascontiguousarray(wire, dtype=np.uint8)
    places = np.empty((2, count), dtype=np.int64)
    starts, ends = places[0], places[1]
    found = kernels.split_wire(wire, starts, ends)
    if found == kernels.CUT:
        raise ValueError(f"{name} must hold {count} strings behind their lengths; got {len(wire)} bytes that do not")
    if found == kernels.NOT_UTF8:
        raise ValueError(f"{name} must be UTF-8; got other bytes")
    return _Placed(wire, starts, ends)


def is_utf8(strings: Strings) -> bool:
    """Return whether every string is UTF-8."""
    return bool(kernels.first_invalid(strings.data, strings.starts, strings.ends) < 0)


def with_plain_words(strings: Strings) -> Strings:
    """Return strings in which lower-casing ASCII and splitting at ASCII spaces does what `lower` and `split` do."""
    if kernels.first_beyond_ascii(strings.data, strings.starts, strings.ends) < 0:
        return strings
    texts = [strings[index] for index in range(len(strings))]
    return encoded([t if t.isascii() else " ".join(t.decode("utf-8", "replace").lower().split()) for t in texts])
