import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from models.bootstrap import Draws
from models.ranking_metrics import ndcg_at_k, ndcg_at_k_draws, value_captured, value_captured_draws

ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(-2, 2), st.integers(0, 2)), min_size=1, max_size=30)


def arrays(rows):
    gains, scores, groups = zip(*rows, strict=True)
    return np.array(gains, np.float64), np.array(scores, np.float64), np.array(groups)


def collected(gains, scores, k: int, discounts) -> float:
    """Average what the top k collect over all orders that the scores allow."""
    orders = [o for o in itertools.permutations(range(len(gains))) if list(scores[list(o)]) == sorted(scores)[::-1]]
    return np.mean([sum(gains[row] * discounts[place] for place, row in enumerate(o[:k])) for o in orders])


def test_ndcg_discounts_by_place():
    gains, scores, groups = np.array([3.0, 0.0, 2.0]), np.array([1.0, 3.0, 2.0]), np.zeros(3, dtype=int)
    reached, best = 2 / math.log2(3) + 3 / math.log2(4), 3 + 2 / math.log2(3)
    assert ndcg_at_k(gains, scores, groups, 3) == pytest.approx(reached / best)
    assert ndcg_at_k(gains, scores, groups, 1) == 0


def test_ndcg_equals_that_of_scikit_learn_ties_included():
    rng = np.random.default_rng(4)
    gains, scores = rng.integers(0, 4, (50, 12)) + 0.5, rng.integers(0, 5, (50, 12)).astype(float)
    groups = np.repeat(np.arange(50), 12)
    for k in (1, 5, 12, 30):
        assert ndcg_at_k(gains.ravel(), scores.ravel(), groups, k) == pytest.approx(ndcg_score(gains, scores, k=k))


def test_groups_without_a_gain_do_not_count_in_ndcg():
    gains, scores, groups = np.array([0, 1, 0, 0]), np.array([1, 2, 3, 4]), np.array([7, 7, 9, 9])
    assert ndcg_at_k(gains, scores, groups, 2) == 1
    assert math.isnan(ndcg_at_k(np.zeros(4), scores, groups, 2))
    assert math.isnan(value_captured(np.zeros(4), scores, groups, 2))


def test_value_captured_is_a_ratio_of_sums_over_groups():
    values = np.array([10.0, 1.0, 5.0, 0.0, 2.0])
    scores = np.array([1.0, 2.0, 0.0, 5.0, 4.0])
    groups = np.array([0, 0, 0, 1, 1])
    assert value_captured(values, scores, groups, 1) == (1 + 0) / (10 + 2)
    assert value_captured(values, scores, groups, 2) == (11 + 2) / (15 + 2)
    assert value_captured(values, scores, groups, 3) == 1


@pytest.mark.parametrize("k", [1, 2, 3, 9])
def test_ties_count_as_the_mean_over_their_orders(k):
    gains, scores = np.array([5.0, 0.0, 1.0, 2.0, 4.0]), np.array([1.0, 1.0, 0.0, 1.0, 0.0])
    groups, flat, log = np.zeros(5, dtype=int), np.ones(9), 1 / np.log2(np.arange(9) + 2)
    best = sorted(gains)[::-1][:k]
    expected = collected(gains, scores, k, flat) / sum(best)
    assert value_captured(gains, scores, groups, k) == pytest.approx(expected)
    expected = collected(gains, scores, k, log) / (best @ log[: len(best)])
    assert ndcg_at_k(gains, scores, groups, k) == pytest.approx(expected)


@given(ROWS, st.integers(1, 6), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_figures_lie_between_0_and_1_and_ignore_the_order_of_rows(rows, k, random):
    gains, scores, groups = arrays(rows)
    shuffled = arrays(random.sample(rows, len(rows)))
    for metric in (ndcg_at_k, value_captured):
        figure = metric(gains, scores, groups, k)
        assert math.isnan(figure) == (not gains.any())
        assert not figure < 0
        assert not figure > 1 + 1e-12
        assert metric(*shuffled, k) == pytest.approx(figure, nan_ok=True)


@given(ROWS.filter(lambda rows: any(gain for gain, _, _ in rows)), st.integers(1, 6))
@settings(deadline=None)
def test_a_perfect_ranking_reaches_1(rows, k):
    gains, _, groups = arrays(rows)
    assert ndcg_at_k(gains, gains * 2 - 1, groups, k) == pytest.approx(1)
    assert value_captured(gains, gains * 2 - 1, groups, k) == pytest.approx(1)


def test_each_draw_repeats_whole_groups():
    rng = np.random.default_rng(8)
    groups = np.repeat(np.arange(20), 6)
    gains, scores = rng.integers(0, 3, 120).astype(float), rng.random(120)
    counts = rng.integers(0, 4, (20, 3)).astype(np.uint8)
    for metric, drawn in ((ndcg_at_k, ndcg_at_k_draws), (value_captured, value_captured_draws)):
        expected = []
        for draw in range(3):
            copies = [(g, copy) for g in range(20) for copy in range(counts[g, draw])]
            rows = np.concatenate([np.flatnonzero(groups == g) for g, _ in copies])
            names = np.repeat(np.arange(len(copies)), 6)
            expected.append(metric(gains[rows], scores[rows], names, 2))
            weighted = metric(gains, scores, groups, 2, counts[groups, draw])
            assert weighted == pytest.approx(expected[-1])
        np.testing.assert_allclose(drawn(gains, scores, groups, 2, Draws(groups, counts)), expected)


@pytest.mark.parametrize("metric", [ndcg_at_k, value_captured])
def test_a_ranking_metric_refuses_what_it_cannot_measure(metric):
    ones, groups = np.ones(2), np.zeros(2, dtype=int)
    with pytest.raises(ValueError, match=r"k must be at least 1; got 0"):
        metric(ones, ones, groups, 0)
    with pytest.raises(ValueError, match=r"gains must be at least 0; got -2.0"):
        metric(np.array([1.0, -2.0]), ones, groups, 1)
    with pytest.raises(ValueError, match=r"scores must be finite; got nan"):
        metric(ones, np.array([np.nan, 1]), groups, 1)
    with pytest.raises(ValueError, match=r"groups must have shape \[2\], one a row; got \[1\]"):
        metric(ones, ones, np.zeros(1, dtype=int), 1)
