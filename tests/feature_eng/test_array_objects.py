from typing import Any

import numpy as np
import pytest

from feature_eng import array_objects, kernels
from feature_eng.array_objects import data_addresses, expected, recognised

INT64, FLOAT32 = np.dtype(np.int64), np.dtype(np.float32)
WANTED = expected([INT64, FLOAT32], [0, 1])


def found(*arrays: Any, rows: int = 3) -> tuple[list[int] | None, list[bool]]:
    once = np.zeros(2, dtype=np.bool_)
    addresses = recognised(arrays, WANTED, rows, once)
    return None if addresses is None else addresses.tolist(), once.tolist()


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_arrays_as_they_must_be_are_found_where_their_data_lie(rows: int) -> None:
    ids, numbers = np.arange(rows), np.ones(rows, np.float32)
    assert found(ids, numbers, rows=rows) == ([ids.ctypes.data, numbers.ctypes.data], [rows == 1] * 2)
    numbers.flags.writeable = False
    assert found(ids[:1], numbers, rows=rows)[0] is not None or rows == 0
    assert data_addresses([ids, numbers]).tolist() == [ids.ctypes.data, numbers.ctypes.data]


def test_an_array_of_one_value_is_one_for_all_rows() -> None:
    assert found(np.array([7]), np.ones(3, np.float32))[1] == [True, False]


class Other(np.ndarray):
    pass


@pytest.mark.parametrize(
    "ids",
    [
        None,
        7,
        [1, 2, 3],
        (1, 2, 3),
        np.int64(7),
        np.array(7),
        np.arange(2),
        np.arange(4),
        np.arange(6)[::2],
        np.arange(3)[::-1],
        np.zeros((3, 1), np.int64),
        np.arange(3, dtype=np.int32),
        np.arange(3, dtype=np.uint64),
        np.arange(3, dtype=">i8"),
        np.arange(3).astype("M8[ms]"),
        np.arange(3).view(Other),
        np.broadcast_to(np.int64(1), 3),
    ],
)
def test_whatever_is_not_as_it_must_be_is_not_recognised(ids: Any) -> None:
    assert found(ids, np.ones(3, np.float32))[0] is None
    assert found(np.arange(3), ids)[0] is None


def listed(values: Any, offsets: Any, rows: int = 2) -> bool | None:
    """Return whether a list is one for all rows, None where its arrays are not recognised."""
    once = np.zeros(1, dtype=np.bool_)
    wanted = expected([FLOAT32, INT64], [kernels.ANY_LENGTH, kernels.OFFSETS])
    found = recognised((values, offsets), wanted, rows, once)
    return None if found is None else bool(once[0])


@pytest.mark.parametrize(
    ("offsets", "one"),
    [
        ([0, 3], True),
        ([0, 1, 3], False),
        ([0, 0, 3], False),
        ([0, 3, 3], False),
        ([1, 3], None),
        ([0, 2], None),
        ([0, 4, 3], None),
        ([0, -1, 3], None),
        ([0, 1, 2], None),
        ([0, 1, 2, 3], None),
        ([3], None),
        ([], None),
        ([0, -(2**63), 3], None),
    ],
)
def test_offsets_rise_from_0_to_the_number_of_values(offsets: list[int], one: bool | None) -> None:
    assert listed(np.ones(3, np.float32), np.array(offsets, np.int64)) is one


def test_an_empty_list_has_offsets_of_nothing() -> None:
    assert listed(np.empty(0, np.float32), np.zeros(3, np.int64)) is False
    assert listed(np.empty(0, np.float32), np.zeros(2, np.int64)) is True
    assert listed(np.empty(0, np.float32), np.zeros(3, np.int32)) is None


def test_a_numpy_that_lays_its_arrays_out_otherwise_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_objects, "_data_offset", lambda: None)
    ids, numbers = np.arange(3), np.ones(3, np.float32)
    assert found(ids, numbers)[0] is None
    assert data_addresses([ids, numbers]).tolist() == [ids.ctypes.data, numbers.ctypes.data]
