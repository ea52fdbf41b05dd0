"""Splits: known cuts, whole requests, folds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from feature_eng.keys import int_keys
from feature_eng.splitting import (
    SKETCH_SIZE,
    check_split,
    folds,
    key_cut,
    key_ranks,
    rank_cut,
    sketch,
    spans,
    straddling,
    validates,
)


def keys(*values: int) -> np.ndarray:
    return int_keys(np.array(values, np.int64))


def test_the_cut_leaves_the_last_fraction_of_the_moments() -> None:
    moments = np.array([50, 10, 40, 20, 30, 60, 100, 80, 70, 90])
    assert rank_cut([sketch(moments[:4]), sketch(moments[4:])], 0.3) == 80


def test_the_cut_keeps_one_row_for_a_tiny_fraction() -> None:
    assert rank_cut([sketch(np.arange(10))], 1e-9) == 9


def test_the_cut_of_a_large_piece_is_within_a_fiftieth_of_a_percent() -> None:
    rows = 40 * SKETCH_SIZE
    shuffled = np.random.default_rng(0).permutation(rows)
    cut = rank_cut([sketch(shuffled[: rows // 3]), sketch(shuffled[rows // 3 :])], 0.1)
    assert abs(cut / rows - 0.9) < 2e-4


def test_pieces_weigh_by_their_rows() -> None:
    early, late = np.arange(3 * SKETCH_SIZE), np.arange(10 * SKETCH_SIZE, 11 * SKETCH_SIZE)
    cut = rank_cut([sketch(early), sketch(late)], 0.25)
    assert abs(cut - 10 * SKETCH_SIZE) <= 3


def test_a_span_is_the_first_and_the_last_rank_of_a_request() -> None:
    found = spans(keys(1, 2, 1, 3, 1), np.array([5, 9, 2, 4, 7]))
    by_request = dict(zip(found.requests.tolist(), zip(found.lowest, found.highest, strict=True), strict=True))
    one, two, three = keys(1, 2, 3).tolist()
    assert by_request == {one: (2, 7), two: (9, 9), three: (4, 4)}


def test_a_piece_without_rows_has_no_spans() -> None:
    assert len(spans(keys(), np.array([], np.int64)).requests) == 0


def test_a_request_on_both_sides_of_the_cut_trains_whole_even_across_pieces() -> None:
    first, second = (keys(1, 1, 2), np.array([1, 2, 3])), (keys(2, 3, 3), np.array([10, 11, 12]))
    straddlers = straddling([spans(*first), spans(*second)], cut=10)
    assert straddlers.tolist() == keys(2).tolist()
    assert validates(*first, 10, straddlers).tolist() == [False, False, False]
    assert validates(*second, 10, straddlers).tolist() == [False, True, True]


def test_nothing_straddles_without_spans() -> None:
    assert len(straddling([], 3)) == 0


@given(arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 12)), st.data(), st.integers(0, 30))
def test_no_request_is_ever_on_two_sides(requests: np.ndarray, data: st.DataObject, cut: int) -> None:
    ranks = data.draw(arrays(np.int64, len(requests), elements=st.integers(0, 30)))
    hashed = int_keys(requests)
    late = validates(hashed, ranks, cut, straddling([spans(hashed, ranks)], cut))
    assert not set(requests[late]) & set(requests[~late])
    assert (ranks[late] >= cut).all()


def test_a_split_by_key_takes_its_fraction_of_the_keys() -> None:
    ranks = key_ranks(int_keys(np.arange(100_000)))
    assert abs((ranks >= key_cut(0.2)).mean() - 0.2) < 0.005


def test_folds_are_even_and_independent_of_the_split() -> None:
    hashed = int_keys(np.arange(100_000))
    late = key_ranks(hashed) >= key_cut(0.5)
    for part in (folds(hashed), folds(hashed[late])):
        assert part.dtype == np.int8
        assert np.abs(np.bincount(part, minlength=5) / len(part) - 0.2).max() < 0.006


def test_a_fold_is_the_same_in_every_run() -> None:
    assert folds(keys(1, 2, 3, 4, 5, 1)).tolist() == folds(keys(1, 2, 3, 4, 5)).tolist() + folds(keys(1)).tolist()


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split must be time, request or user; got item"):
        check_split("item", 0.1)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_outside_its_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"fraction must be at least 0 and below 1; got {fraction}"):
        check_split("time", fraction)
