import math
import time

import numpy as np
import pytest

from models.bootstrap import Draws, draw_groups, interval, one_draw
from models.metrics import auc_draws, ratio


def mean_draws(values: np.ndarray, draws: Draws) -> np.ndarray:
    return ratio(draws.totals(values), draws.totals(np.ones(len(values))))


def test_the_first_draw_takes_every_row_once_and_the_others_take_as_many_groups():
    group = np.array([0, 0, 1, 2, 2, 2])
    draws = draw_groups(group, replicates=50, seed=1)
    assert draws.counts.shape == (3, 51)
    assert (draws.counts[:, 0] == 1).all()
    assert (draws.counts.sum(axis=0) == 3).all()
    assert len(np.unique(draws.counts, axis=1).T) > 5


def test_equal_seeds_draw_equally():
    group = np.arange(100)
    first, again, other = (draw_groups(group, 3, seed).counts for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_totals_count_a_row_as_often_as_its_group_was_drawn():
    draws = Draws(np.array([1, 0, 1]), np.array([[1, 2, 0], [1, 0, 3]], dtype=np.uint8))
    np.testing.assert_array_equal(draws.totals(np.array([1.0, 10.0, 100.0])), [111, 20, 303])
    np.testing.assert_array_equal(draws.rows(np.array([True, True, False])).totals(np.array([1.0, 10.0])), [11, 20, 3])
    np.testing.assert_array_equal(one_draw(3, np.array([0.5, 1, 2])).totals(np.ones(3)), [3.5])


def test_an_interval_spans_percentiles_and_skips_undefined_replicates():
    assert interval([*range(101), math.nan]) == pytest.approx((2.5, 97.5))
    assert interval(np.arange(101), confidence=0.5) == (25, 75)
    assert all(math.isnan(end) for end in interval([math.nan]))
    assert all(math.isnan(end) for end in interval([]))


def test_intervals_are_as_wide_as_the_spread_between_requests_says():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(400), 25)
    effects = rng.normal(0, 1, 400)[group]  # rows of one request share it, so that 10,000 rows tell no more than 400
    low, high = interval(mean_draws(effects, draw_groups(group, 1000, 0))[1:])
    assert high - low == pytest.approx(2 * 1.96 / math.sqrt(400), rel=0.15)


def test_nine_or_more_of_ten_intervals_cover_the_truth():
    rng = np.random.default_rng(7)
    group = np.repeat(np.arange(60), 4)
    covered = 0
    for trial in range(100):
        clicks = rng.random(240) < rng.beta(2, 2, 60)[group]
        low, high = interval(mean_draws(clicks.astype(float), draw_groups(group, 200, trial))[1:])
        covered += low <= 0.5 <= high
    assert 88 <= covered <= 99


def test_two_hundred_replicates_cost_little_more_than_one_figure():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(25_000), 20)
    scores, labels = rng.random(500_000), rng.integers(0, 2, 500_000)
    draws = draw_groups(group, 200, 0)
    auc_draws(labels[:20], scores[:20], draws.rows(np.arange(20)))  # compiles
    started_s = time.perf_counter()
    figures = auc_draws(labels, scores, draws)
    assert time.perf_counter() - started_s < 5
    assert figures[0] == pytest.approx(0.5, abs=0.005)
