import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_eng.inputs import NULL_INT, Input
from feature_eng.kernels import FAR_SLOTS
from feature_eng.keys import int_keys
from feature_eng.layout import Layout, Slot
from feature_eng.plan import Plan
from feature_eng.program import Instruction
from feature_eng.tables import dense_table, hash_table

UNSEEN = np.int32(2)


def looked_up(listed: np.ndarray, ids: np.ndarray, asked: np.ndarray) -> list[int]:
    arrays = hash_table(int_keys(listed), ids.astype(np.int32), UNSEEN)
    steps = (
        Instruction("int_keys", ("item",), "keys"),
        Instruction("vocabulary", ("keys",), "ids", arrays={"table": "table", "pilots": "pilots"}),
    )
    layout = Layout((Slot("item", 2**31 - 1),), ())
    plan = Plan("", (Input("item", "item", "int64"),), steps, layout, ("ids",), (), arrays)
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


@pytest.mark.parametrize("size", [FAR_SLOTS // 2, 2 * FAR_SLOTS])
def test_tables_near_and_far_are_alike(size: int) -> None:
    listed = np.arange(size, dtype=np.int64) * 7_919
    asked = np.concatenate([listed[::-1], listed + 1])
    found = looked_up(listed, np.arange(size) + 4, asked)
    assert found == [*range(size + 3, 3, -1), *[2] * size]


def test_most_slots_of_a_table_are_in_use() -> None:
    arrays = hash_table(int_keys(np.arange(90_000)), np.zeros(90_000, np.int32), UNSEEN)
    assert len(arrays["table"]) <= 105_000
    assert len(arrays["pilots"]) <= 22_501


def test_keys_that_are_equal_are_refused() -> None:
    with pytest.raises(ValueError, match="keys must differ; got 3 of which 2 do"):
        hash_table(int_keys(np.array([1, 2, 1])), np.zeros(3, np.int32), UNSEEN)


def test_integers_without_many_gaps_index_a_table() -> None:
    dense = dense_table(np.array([7, 5, 9]), np.array([10, 11, 12], np.int32), UNSEEN)
    assert dense is not None
    assert (dense[0].tolist(), dense[1]) == ([11, 2, 10, 2, 12], 5)


@pytest.mark.parametrize("values", [[], [0, 10**6], [-(2**63) + 1, 2**63 - 1]])
def test_integers_with_many_gaps_do_not(values: list[int]) -> None:
    assert dense_table(np.array(values, dtype=np.int64), np.zeros(len(values), np.int32), UNSEEN) is None
