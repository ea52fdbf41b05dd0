"""Strings as bytes and places, as Arrow and Triton hold them: no Python object a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_eng import kernels

Int64Array = NDArray[np.int64]


@dataclass(frozen=True)
class Strings:
    """n UTF-8 strings, string i at `data[starts[i]:ends[i]]`.

    `data` is uint8 of any size, `starts` and `ends` are int64 (n,), all contiguous. Places are trusted to lie inside.

    Raises:
        ValueError: an array is of another dtype or not contiguous.
    """

    data: NDArray[np.uint8]
    starts: Int64Array
    ends: Int64Array

    def __post_init__(self) -> None:
        for name, array, dtype in (("data", self.data, "u1"), ("starts", self.starts, "i8"), ("ends", self.ends, "i8")):
            if array.dtype != dtype or not array.flags.c_contiguous:
                raise ValueError(f"{name} must be contiguous {np.dtype(dtype)}; got {array.dtype} {array.strides}")

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> bytes:
        """Return the bytes of one string."""
        return self.data[self.starts[index] : self.ends[index]].tobytes()

    def tolist(self) -> list[str]:
        """Return the strings as Python has them."""
        return [self[index].decode("utf-8", "replace") for index in range(len(self))]


def encoded(values: Sequence[Any] | NDArray[Any]) -> Strings:
    """Return `str` and UTF-8 `bytes` values (n,) as strings.

    Raises:
        UnicodeError: a `str` holds half of a surrogate pair.
    """
    pieces = [value if isinstance(value, bytes) else str(value).encode() for value in values]
    offsets = np.zeros(len(pieces) + 1, dtype=np.int64)
    np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
    return Strings(np.frombuffer(b"".join(pieces), dtype=np.uint8), offsets[:-1], offsets[1:])


def from_wire(name: str, wire: NDArray[np.uint8], count: int) -> Strings:
    """Return the strings of a Triton BYTES tensor, whose bytes stay where they are.

    Args:
        name: of the tensor.
        wire: its bytes: before each string its length, four bytes little-endian.
        count: number of strings.

    Raises:
        ValueError: the bytes hold another number of strings, or one that is not UTF-8.
    """
    places = np.empty((2, count), dtype=np.int64)
    starts, ends = places[0], places[1]
    found = kernels.split_wire(wire, starts, ends)
    if found == kernels.CUT:
        raise ValueError(f"{name} must hold {count} strings behind their lengths; got {len(wire)} bytes that do not")
    if found == kernels.NOT_UTF8:
        raise ValueError(f"{name} must be UTF-8; got other bytes")
    return Strings(wire, starts, ends)


def is_utf8(strings: Strings) -> bool:
    """Return whether every string is UTF-8."""
    return bool(kernels.first_invalid(strings.data, strings.starts, strings.ends) < 0)


def with_plain_words(strings: Strings) -> Strings:
    """Return strings in which lower-casing ASCII and splitting at ASCII spaces does what `lower` and `split` do."""
    if kernels.first_beyond_ascii(strings.data, strings.starts, strings.ends) < 0:
        return strings
    texts = [strings[index] for index in range(len(strings))]
    return encoded([t if t.isascii() else " ".join(t.decode("utf-8", "replace").lower().split()) for t in texts])
