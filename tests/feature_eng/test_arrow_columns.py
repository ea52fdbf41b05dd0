from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from feature_eng.arrow_columns import arrow_strings, plan_columns
from feature_eng.inputs import NULL_INT, Input

INPUTS = (
    Input("user", "user", "int64"),
    Input("city", "user", "string"),
    Input("price", "item", "float32"),
    Input("history", "user", "int64", is_list=True),
    Input("tags", "item", "string", is_list=True),
)
HISTORY, TAGS = [[], [1, 2], [3], []], [["é"], [], ["", "b"], ["c"]]
TABLE = pa.table(
    {
        "user": pa.array([1, NULL_INT, 3, 4], pa.int64()),
        "city": ["", "Köln", "b", "c"],
        "price": pa.array([1.5, float("nan"), 0.0, -2.0], pa.float32()),
        "history": pa.array(HISTORY, pa.list_(pa.int64())),
        "tags": pa.array(TAGS, pa.list_(pa.string())),
    }
)


def check(table: pa.Table, rows: slice = slice(None)) -> None:
    found = plan_columns(table, INPUTS)
    assert list(found) == [
        "user",
        "city",
        "price",
        "history__values",
        "history__offsets",
        "tags__values",
        "tags__offsets",
    ]
    assert found["user"].tolist() == [1, NULL_INT, 3, 4][rows]
    assert found["user"].dtype == np.int64
    assert found["city"].tolist() == ["", "Köln", "b", "c"][rows]
    np.testing.assert_array_equal(found["price"], np.array([1.5, np.nan, 0, -2], np.float32)[rows])
    assert found["price"].dtype == np.float32
    for name, lists in (("history", HISTORY[rows]), ("tags", TAGS[rows])):
        offsets, values = found[f"{name}__offsets"], found[f"{name}__values"].tolist()
        assert offsets.dtype == np.int64
        assert offsets[0] == 0
        assert [values[a:b] for a, b in pairwise(offsets)] == lists


def test_columns_become_arrays_and_lists_become_values_and_offsets() -> None:
    check(TABLE)


def test_chunks_are_joined() -> None:
    check(pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1, 2), TABLE.slice(3)]))


def test_a_slice_gives_its_own_rows_alone() -> None:
    check(TABLE.slice(1, 2), slice(1, 3))
    check(TABLE.slice(0, 1), slice(0, 1))


def test_columns_of_nothing_but_empty_lists_have_no_values() -> None:
    empty = {"history": pa.array([[], []], pa.list_(pa.int64())), "tags": pa.array([[], []], pa.list_(pa.string()))}
    found = plan_columns(empty, INPUTS[3:])
    for name in ("history", "tags"):
        assert found[f"{name}__values"].tolist() == []
        assert found[f"{name}__offsets"].tolist() == [0, 0, 0]


def test_no_rows_become_empty_arrays() -> None:
    check(TABLE.slice(0, 0), slice(0, 0))
    check(TABLE.schema.empty_table(), slice(0, 0))


def test_nulls_become_what_the_input_has_for_them() -> None:
    numbers = pa.array([1, None], pa.uint8())
    assert plan_columns({"user": numbers}, INPUTS[:1])["user"].tolist() == [1, NULL_INT]
    np.testing.assert_array_equal(plan_columns({"price": numbers}, INPUTS[2:3])["price"], [1.0, np.nan])
    assert plan_columns({"city": pa.array(["a", None])}, INPUTS[1:2])["city"].tolist() == ["a", ""]
    found = plan_columns({"history": pa.array([[1], None, [2, None]])}, INPUTS[3:4])
    assert found["history__values"].tolist() == [1, 2, NULL_INT]
    assert found["history__offsets"].tolist() == [0, 1, 1, 3]


def test_a_column_that_an_input_cannot_hold_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="history must be lists; got int64"):
        plan_columns({"history": pa.array([1])}, INPUTS[3:4])
    with pytest.raises(ValueError, match=f"user must be at most {2**63 - 1}; got .*{2**64 - 1}"):
        plan_columns({"user": pa.array([2**64 - 1, None], pa.uint64())}, INPUTS[:1])


def test_strings_of_a_damaged_file_are_refused() -> None:
    sink, table = pa.BufferOutputStream(), pa.table({"city": ["aaaa", "bbbb"]})
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    offsets, wild = (np.array(places, np.int32).tobytes() for places in ([0, 4, 8], [0, 2**30, 8]))
    damaged = pa.ipc.open_stream(sink.getvalue().to_pybytes().replace(offsets, wild)).read_all()
    with pytest.raises(ValueError, match=f"starts and ends must rise within 8 bytes; got 0 and {2**30}"):
        arrow_strings(damaged["city"].combine_chunks())


@pytest.mark.parametrize("index", [pa.int8(), pa.int32()])
def test_strings_of_a_dictionary_are_those_of_its_codes(index: pa.DataType) -> None:
    words = pa.array(["unused", "é", None, "", "long enough for nine"])
    codes = pa.array([4, 1, None, 2, 3, 4, 1], index)
    texts = pa.DictionaryArray.from_arrays(codes, words)
    expected = ["long enough for nine", "é", "", "", "", "long enough for nine", "é"]
    assert plan_columns({"city": texts}, INPUTS[1:2])["city"].tolist() == expected
    assert plan_columns({"city": texts.slice(4)}, INPUTS[1:2])["city"].tolist() == expected[4:]
    lists = pa.ListArray.from_arrays(pa.array([0, 2, 2, 7]), texts)
    found = plan_columns({"tags": lists.slice(1)}, INPUTS[4:])
    assert found["tags__values"].tolist() == expected[2:]
    assert found["tags__offsets"].tolist() == [0, 0, 5]
