import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_eng.strings import Strings, encoded, from_wire, is_utf8, with_plain_words


def wire_of(*texts: bytes) -> np.ndarray:
    return np.frombuffer(b"".join(struct.pack("<I", len(text)) + text for text in texts), dtype=np.uint8)


@settings(deadline=None)
@given(st.lists(st.text(max_size=9), max_size=9))
def test_strings_keep_their_texts(texts: list[str]) -> None:
    data = [text.encode() for text in texts]
    assert (
        encoded(texts).tolist() == encoded(data).tolist() == from_wire("x", wire_of(*data), len(data)).tolist() == texts
    )


@pytest.mark.parametrize(
    ("wire", "count"),
    [
        (wire_of(b"a"), 2),
        (wire_of(b"a", b"b"), 1),
        (wire_of(b"ab")[:-1], 1),
        (wire_of(b"ab")[:3], 1),
        (np.full(4, 255, np.uint8), 1),
        (wire_of(), 1),
    ],
)
def test_a_wire_that_is_cut_or_too_long_is_refused(wire: np.ndarray, count: int) -> None:
    message = f"item must hold {count} strings behind their lengths; got {len(wire)} bytes that do not"
    with pytest.raises(ValueError, match=message):
        from_wire("item", wire, count)


def test_a_wire_that_is_not_contiguous_is_copied() -> None:
    strings = from_wire("item", np.repeat(wire_of(b"ab", b"c"), 2)[::2], 2)
    assert strings.data.flags.c_contiguous
    assert strings.tolist() == ["ab", "c"]


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=6), st.text(max_size=3).map(str.encode)))
def test_utf_8_is_what_python_takes_for_it(data: bytes) -> None:
    try:
        data.decode()
        valid = True
    except UnicodeDecodeError:
        valid = False
    assert is_utf8(encoded([b"a", data, "é".encode()])) == valid
    if not valid:
        with pytest.raises(ValueError, match="item must be UTF-8; got other bytes"):
            from_wire("item", wire_of(b"a", data), 2)


EDGES = [0x7F, 0x80, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xA0, 0xED, 0x9F, 0xEF, 0xF0, 0x8F, 0x90, 0xF4, 0xF5, 0xFF]


@settings(deadline=None)
@given(st.lists(st.sampled_from(EDGES), min_size=1, max_size=5).map(bytes))
def test_utf_8_ends_where_python_ends_it(data: bytes) -> None:
    test_utf_8_is_what_python_takes_for_it.hypothesis.inner_test(data)


def test_words_beyond_ascii_are_made_plain_and_ascii_is_left() -> None:
    ascii_only = encoded(["Red  SHOE", ""])
    assert with_plain_words(ascii_only) is ascii_only
    assert with_plain_words(encoded(["Red  SHOE", "İ\u2028ſ Größe"])).tolist() == ["Red  SHOE", "i̇ ſ größe"]


def test_places_must_be_contiguous_int64() -> None:
    data, places = np.zeros(4, np.uint8), np.zeros(2, np.int64)
    with pytest.raises(ValueError, match=r"starts must be contiguous int64 of one dimension; got int32 \[2\]"):
        Strings(data, places.astype(np.int32), places)
    with pytest.raises(ValueError, match=r"data must be contiguous uint8 of one dimension; got uint8 \[2\] .*2"):
        Strings(data[::2], places, places)
    with pytest.raises(ValueError, match=r"ends must be contiguous int64 of one dimension; got int64 \[2, 1\]"):
        Strings(data, places, places[:, None])
    with pytest.raises(ValueError, match="ends must be as many as starts, 2; got 1"):
        Strings(data, places, places[:1])


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (3, 2), (0, 5), (2**62, 2**62), (-(2**63), 2**63 - 1)])
def test_strings_must_lie_in_their_data(start: int, end: int) -> None:
    with pytest.raises(ValueError, match=f"starts and ends must rise within 4 bytes; got {start} and {end}"):
        Strings(np.zeros(4, np.uint8), np.array([0, start]), np.array([4, end]))
