import warnings
from typing import Any

import numpy as np
import pytest

from feature_eng.columns import bound_columns, candidate_count
from feature_eng.inputs import Input
from feature_eng.strings import encoded

INPUTS = (
    Input("user", "user", "int64"),
    Input("history", "user", "int64", is_list=True),
    Input("item", "item", "string"),
    Input("price", "item", "float32"),
    Input("tags", "item", "string", is_list=True),
)


def request(**changes: Any) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "user": np.array([1]),
        "history__values": np.array([5, 6]),
        "history__offsets": np.array([0, 2]),
        "item": np.array(["a", "b", "c"], dtype=object),
        "price": np.array([1.0, 2.0, 3.0], dtype=np.float32),
        "tags__values": np.array([b"x"], dtype=object),
        "tags__offsets": np.array([0, 1, 1, 1]),
    }
    return columns | changes


# Where bound_columns puts each tensor.
USER, HISTORY, HISTORY_OFFSETS, ITEM, PRICE, TAGS_OFFSETS = 0, 1, 2, 3, 6, 10


def test_a_good_request_is_bound_in_its_dtypes() -> None:
    given = request(price=np.array([1, 2, 3]), user=np.array([7], dtype=np.int16))
    arrays, once = bound_columns(INPUTS, given, 3)
    assert [array.dtype.name for array in arrays] == [
        *("int64", "int64", "int64"),
        *("uint8", "int64", "int64"),
        "float32",
        *("uint8", "int64", "int64", "int64"),
    ]
    assert once == [True, True, False, False, False]
    assert arrays[ITEM].tobytes() == b"abc"
    assert arrays[ITEM + 2].tolist() == [1, 2, 3]
    assert candidate_count(INPUTS, request(), 3) == 3


def test_arrays_that_are_as_they_should_be_are_not_copied() -> None:
    given = request()
    arrays, _ = bound_columns(INPUTS, given, 3)
    assert arrays[USER] is given["user"]
    assert arrays[PRICE] is given["price"]
    apart = np.arange(6, dtype=np.float32)[::2]
    arrays, _ = bound_columns(INPUTS, request(price=apart), 3)
    assert arrays[PRICE].flags.c_contiguous
    assert arrays[PRICE].tolist() == [0, 2, 4]


def test_strings_by_their_places_are_taken_as_they_are() -> None:
    strings = encoded(["a", "größe", ""])
    arrays, _ = bound_columns(INPUTS, request(item=strings), 3)
    assert arrays[ITEM] is strings.data
    assert arrays[ITEM + 1] is strings.starts


def test_words_beyond_ascii_are_lowered_before_they_are_split() -> None:
    texts = np.array(["Red  SHOE", "GRÖSSE\u2003m", ""], dtype=object)
    arrays, _ = bound_columns(INPUTS, request(item=texts), 3, words={"item"})
    assert arrays[ITEM].tobytes().decode() == "Red  SHOEGRÖSSE\u2003m"
    assert arrays[ITEM + 3].tobytes().decode() == "Red  SHOEgrösse m"


def test_small_integers_booleans_and_empty_arrays_of_any_dtype_are_taken() -> None:
    nothing: dict[str, Any] = {
        "history__values": np.array([], dtype="i4,i4"),
        "history__offsets": np.array([0, 0], dtype=np.uint8),
    }
    arrays, _ = bound_columns(INPUTS, request(user=np.array([True]), **nothing), 3)
    assert arrays[USER].tolist() == [1]
    assert arrays[HISTORY].dtype == arrays[HISTORY_OFFSETS].dtype == np.int64


def test_a_number_that_float32_cannot_hold_is_infinite_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arrays, _ = bound_columns(INPUTS, request(price=np.array([1e300, -1e300, 1.0])), 3)
    assert np.isinf(arrays[PRICE][:2]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"price": np.array([1.0, 2.0])}, "price must have 3 values, one a candidate, or 1; got 2"),
        ({"price": np.ones((3, 1))}, r"price must have one dimension; got shape \[3, 1\]"),
        ({"price": np.array(["1", "2", "3"])}, "price must be float32; got <U1"),
        ({"user": np.array([1.5])}, "user must be int64; got float64"),
        ({"item": np.array([1, 2, 3])}, "item must be string; got int64"),
        ({"item": np.array([b"\xff", b"a", b"b"], dtype=object)}, "item must be UTF-8; got other bytes"),
        ({"item": np.array(["\ud800", "a", "b"], dtype=object)}, "item must be UTF-8; got other bytes"),
        ({"item": np.array([None, "a", 3], dtype=object)}, "item must be string; got NoneType, int"),
        ({"tags__values": np.array([np.nan], dtype=object)}, "tags__values must be string; got float"),
        ({"user": np.array([2**63], dtype=np.uint64)}, f"user must be at most {2**63 - 1}; got {2**63}"),
        ({"tags__offsets": np.array([0, 2, 1, 1], dtype=np.uint64)}, "tags__offsets must rise .*got 2 before 1"),
        (
            {"price": np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0])},
            "price must have its nulls written out; got a masked",
        ),
        ({"price": [[1.0], [2.0, 3.0], []]}, "price must have one dimension; got rows of different lengths"),
        ({"item": [["a"], ["b", "c"], []]}, "item must have one dimension; got rows of different lengths"),
        ({"tags__offsets": [[0], [1, 1]]}, "tags__offsets must have one dimension; got rows of different lengths"),
        ({"tags__offsets": np.array([[0, 1]])}, r"tags__offsets must have one dimension; got shape \[1, 2\]"),
        ({"tags__offsets": np.array([0, 1])[:1]}, "tags__offsets must have 4 entries, .*got 1"),
        ({"tags__offsets": np.array([0.0, 1, 1, 1])}, "tags__offsets must be integers; got float64"),
        ({"tags__offsets": np.array([0, 1, 0, 1])}, "tags__offsets must rise from 0 to the 1 values; got 1 before 0"),
        ({"tags__offsets": np.array([1, 1, 1, 1])}, "tags__offsets must rise from 0 to the 1 values; got 1 to 1"),
        ({"tags__offsets": np.array([0, 1, 1, 2])}, "tags__offsets must rise from 0 to the 1 values; got 0 to 2"),
        ({"tags__offsets": np.array([0, 2**63 - 1, -2, 1])}, f"tags__offsets must rise .*got {2**63 - 1} before -2"),
    ],
)
def test_a_column_is_refused_by_name_and_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bound_columns(INPUTS, request(**changes), 3)


def test_missing_columns_are_all_named() -> None:
    columns = {name: array for name, array in request().items() if name not in ("price", "tags__values")}
    with pytest.raises(ValueError, match="columns must hold price, tags__values; got user, history__values"):
        bound_columns(INPUTS, columns, 3)


def test_there_cannot_be_less_than_no_rows() -> None:
    with pytest.raises(ValueError, match="rows must be at least 0; got -1"):
        bound_columns(INPUTS, request(), -1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"price": np.ones(1, np.float32)}, "price must be of 3 candidates, as item is; got 1"),
        ({"tags__offsets": np.array([0, 1])}, "tags__offsets must be of 3 candidates, as item is; got 1"),
        ({"user": np.array([1, 2])}, "user must be of one row, since it is a user column; got 2"),
        ({"history__offsets": np.array([0, 1, 2])}, "history__offsets must be of one row, .*got 2"),
    ],
)
def test_a_request_is_one_user_and_its_candidates(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        candidate_count(INPUTS, request(**changes), 10)


def test_a_request_has_at_least_one_candidate_and_at_most_the_limit() -> None:
    with pytest.raises(ValueError, match="item must be of 1 to 2 candidates; got 3"):
        candidate_count(INPUTS, request(), 2)
    nothing = request(item=np.array([], dtype=object), price=np.array([]), tags__offsets=np.array([0]))
    with pytest.raises(ValueError, match="item must be of 1 to 2 candidates; got 0"):
        candidate_count(INPUTS, nothing, 2)
