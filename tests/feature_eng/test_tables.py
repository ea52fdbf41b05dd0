import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_eng.inputs import NULL_INT, Input
from feature_eng.kernels import AHEAD, LINE_KEYS, MOST_REACH
from feature_eng.keys import int_keys
from feature_eng.layout import Layout, Slot
from feature_eng.plan import Plan
from feature_eng.program import Instruction
from feature_eng.tables import dense_table, hash_table, slots_of

UNSEEN = np.int32(2)


def looked_up(listed: np.ndarray, ids: np.ndarray, asked: np.ndarray) -> list[int]:
    table = hash_table(int_keys(listed), ids.astype(np.int32), UNSEEN)
    steps = (
        Instruction("int_keys", ("item",), "keys"),
        Instruction("vocabulary", ("keys",), "ids", arrays={"table": "table"}),
    )
    layout = Layout((Slot("item", 2**31 - 1),), ())
    plan = Plan("", (Input("item", "item", "int64"),), steps, layout, ("ids",), (), {"table": table})
    ids_found: list[int] = plan.run({"item": asked}, len(asked))[0][:, 0].tolist()
    return ids_found


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=200), st.lists(st.integers(-(2**63), 2**63 - 1))
)
def test_a_hash_table_knows_what_it_lists_and_nothing_else(listed: list[int], others: list[int]) -> None:
    expected = {value: index + 4 for index, value in enumerate(listed)}
    asked = [*listed, *others, 0, NULL_INT, -1]
    ids = np.arange(4, len(listed) + 4)
    found = looked_up(np.array(listed, dtype=np.int64), ids, np.array(asked, dtype=np.int64))
    assert found == [expected.get(value, 2) for value in asked]


@pytest.mark.parametrize("size", [1, AHEAD - 1, AHEAD, AHEAD + 1, 200_000])
def test_a_hash_table_of_any_size_is_looked_up_in_any_order(size: int) -> None:
    listed = np.arange(size, dtype=np.int64) * 7_919
    asked = np.concatenate([listed[::-1], listed + 1])
    found = looked_up(listed, np.arange(size) + 4, asked)
    assert found == [*range(size + 3, 3, -1), *[2] * size]


def test_most_places_of_a_table_are_in_use() -> None:
    table = hash_table(int_keys(np.arange(90_000)), np.zeros(90_000, np.int32), UNSEEN)
    assert table.shape == (30_001, 8)


def crowded(count: int) -> np.ndarray:
    """Return distinct keys (count,) that all belong to the first line."""
    return np.arange(1, count + 1, dtype=np.uint64)


@pytest.mark.parametrize("count", [LINE_KEYS, LINE_KEYS + 1, LINE_KEYS * (MOST_REACH + 1)])
def test_keys_that_have_no_room_in_their_line_lie_in_the_next(count: int) -> None:
    table = hash_table(crowded(count), np.arange(count, dtype=np.int32), UNSEEN)
    assert slots_of(crowded(count), table).tolist() == list(range(count))
    reaches = table.view(np.uint32)[:, 15]
    assert (reaches[0], reaches[1:].any()) == ((count - 1) // LINE_KEYS, False)
    assert slots_of(crowded(count + 1)[-1:], table).tolist() == [-1]


def test_after_the_last_line_comes_the_first() -> None:
    keys = ~crowded(7)
    table = hash_table(keys, np.arange(7, dtype=np.int32), UNSEEN)
    assert (len(table), slots_of(keys, table).tolist()) == (3, [10, 11, 12, 13, 14, 0, 1])


def test_keys_that_have_no_room_near_their_line_are_refused() -> None:
    count = LINE_KEYS * (MOST_REACH + 1) + 1
    with pytest.raises(ValueError, match=f"keys must differ in their upper 32 bits; got {count} that do not"):
        hash_table(crowded(count), np.zeros(count, np.int32), UNSEEN)


@pytest.mark.parametrize("values", [[1, 2, 1], [*range(9), 8], [*range(1_000), 500]])
def test_keys_that_are_equal_are_refused(values: list[int]) -> None:
    with pytest.raises(ValueError, match=f"keys must differ; got {len(values)} of which {len(values) - 1} do"):
        hash_table(int_keys(np.array(values)), np.zeros(len(values), np.int32), UNSEEN)


@pytest.mark.parametrize("keys", [[], [0], [0, 1, 2**64 - 1]])
def test_a_free_place_is_found_by_nobody(keys: list[int]) -> None:
    table = hash_table(np.array(keys, np.uint64), np.arange(4, 4 + len(keys), dtype=np.int32), UNSEEN)
    asked = np.array([*keys, 0, 3, 2**63], np.uint64)
    found = slots_of(asked, table)
    payloads = table.view(np.int32)[found // LINE_KEYS, 10 + found % LINE_KEYS]
    listed = dict(zip(keys, range(4, 4 + len(keys)), strict=True))
    assert np.where(found < 0, 2, payloads).tolist() == [listed.get(int(key), 2) for key in asked]


def test_integers_without_many_gaps_index_a_table() -> None:
    dense = dense_table(np.array([7, 5, 9]), np.array([10, 11, 12], np.int32), UNSEEN)
    assert dense is not None
    assert (dense[0].tolist(), dense[1]) == ([11, 2, 10, 2, 12], 5)


@pytest.mark.parametrize("values", [[], [0, 10**6], [-(2**63) + 1, 2**63 - 1]])
def test_integers_with_many_gaps_do_not(values: list[int]) -> None:
    assert dense_table(np.array(values, dtype=np.int64), np.zeros(len(values), np.int32), UNSEEN) is None
