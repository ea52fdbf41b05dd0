import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_eng.keys import combined_keys, int_keys, key_ints, string_keys
from feature_eng.strings import Strings

M, MASK = 0xC6A4A7935BD1E995, 2**64 - 1


def murmur(data: bytes) -> int:
    """MurmurHash64A with seed 0, a byte at a time, from its published description."""
    state = len(data) * M & MASK
    for start in range(0, len(data) // 8 * 8, 8):
        block = int.from_bytes(data[start : start + 8], "little") * M & MASK
        block ^= block >> 47
        state = (state ^ block * M & MASK) * M & MASK
    if tail := data[len(data) // 8 * 8 :]:
        state = (state ^ int.from_bytes(tail, "little")) * M & MASK
    state = (state ^ state >> 47) * M & MASK
    return state ^ state >> 47


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=20))
def test_a_string_has_the_murmur_hash_of_its_utf_8(texts: list[str]) -> None:
    expected = [murmur(text.encode()) for text in texts]
    assert string_keys(texts).tolist() == expected
    assert string_keys([text.encode() for text in texts]).tolist() == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_an_integer_has_the_murmur_hash_of_its_eight_bytes(values: list[int]) -> None:
    expected = [murmur(value.to_bytes(8, "little", signed=True)) for value in values]
    assert int_keys(np.array(values)).tolist() == expected


def test_the_key_of_hello_is_the_one_that_other_implementations_give() -> None:
    assert string_keys(["hello"]).tolist() == [0x1E68D17C457BF117]


def test_a_long_string_beside_short_ones_keeps_its_key() -> None:
    texts = ["a", "b" * 1_000_000, "", "é\0é"]
    assert string_keys(texts).tolist() == [murmur(text.encode()) for text in texts]


@pytest.mark.parametrize("length", [7, 8, 9, 1023, 1024, 1025, 1031, 1032, 1033, 2048])
def test_a_string_of_any_length_has_its_murmur_hash(length: int) -> None:
    text = "".join(chr(97 + i % 26) for i in range(length))
    assert string_keys(["x", text, text[1:]]).tolist() == [murmur(t.encode()) for t in ("x", text, text[1:])]


def test_arrays_of_every_kind_of_string_have_the_same_keys() -> None:
    texts = ["a", "größe", ""]
    arrays = [np.array(texts), np.array(texts, dtype=object), np.array([text.encode() for text in texts])]
    for array in arrays:
        assert string_keys(array).tolist() == string_keys(texts).tolist()


@settings(max_examples=100, deadline=None)
@given(st.integers(-(2**63), 2**63 - 1))
def test_the_key_of_an_integer_leads_back_to_it(value: int) -> None:
    assert key_ints(int_keys(np.array([value]))).tolist() == [value]


def test_different_integers_have_different_keys() -> None:
    values = np.concatenate([np.arange(-50_000, 50_000), 2 ** np.arange(63)[20:], [np.iinfo(np.int64).min]])
    assert len(np.unique(int_keys(np.unique(values)))) == len(np.unique(values))


def test_the_key_of_a_tuple_depends_on_its_order() -> None:
    a, b = int_keys(np.array([1, 2])), string_keys(["x", "y"])
    assert combined_keys(a, b).tolist() == [
        murmur(int(p).to_bytes(8, "little") + int(q).to_bytes(8, "little")) for p, q in zip(a, b, strict=True)
    ]
    assert (combined_keys(a, b) != combined_keys(b, a)).all()
    assert (combined_keys(a) == a).all()


def test_one_row_of_a_tuple_s_part_holds_for_all_rows() -> None:
    a, b = int_keys(np.array([7])), int_keys(np.arange(3))
    assert (combined_keys(a, b) == combined_keys(np.repeat(a, 3), b)).all()


def test_strings_in_a_buffer_may_begin_behind_its_start() -> None:
    data, places = np.frombuffer(b"skipped one two", dtype=np.uint8), np.array([8, 11, 12, 15])
    assert (string_keys(Strings(data, places[:-1], places[1:])) == string_keys(["one", " ", "two"])).all()
