import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from models.bootstrap import Draws
from models.metrics import auc, auc_draws, bias, calibration_error, gauc, log_loss, normalized_entropy

FEW_SCORES = st.integers(-3, 3)  # so that ties are common
ROWS = st.lists(st.tuples(st.booleans(), FEW_SCORES, st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=40)


def arrays(rows):
    labels, scores, groups, weights = zip(*rows, strict=True)
    return np.array(labels, np.float32), np.array(scores, np.float64), np.array(groups), np.array(weights, np.float64)


def area_by_pairs(labels, scores, weights) -> float:
    """Compare every positive with every negative."""
    positives = [(s, w) for y, s, w in zip(labels, scores, weights, strict=True) if y and w]
    negatives = [(s, w) for y, s, w in zip(labels, scores, weights, strict=True) if not y and w]
    pairs = sum(w * v for _, w in positives for _, v in negatives)
    wins = sum(w * v * ((s > t) + (s == t) / 2) for s, w in positives for t, v in negatives)
    return wins / pairs if pairs else math.nan


def logged(rows: int):
    rng = np.random.default_rng(5)
    probabilities = rng.beta(1, 4, rows)
    labels = (rng.random(rows) < probabilities).astype(np.float32)
    return labels, np.round(probabilities, 2), rng.integers(0, rows // 10, rows)


def test_auc_is_the_share_of_pairs_in_the_right_order():
    assert auc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])) == 0.75
    assert auc(np.array([0, 1]), np.array([0.5, 0.5])) == 0.5
    assert auc(np.array([1, 0, 0]), np.array([9.0, 1.0, 2.0])) == 1.0


def test_auc_equals_that_of_scikit_learn_with_ties_and_weights():
    labels, scores, _ = logged(5000)
    weights = np.random.default_rng(1).integers(0, 4, 5000)
    assert auc(labels, scores) == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores), abs=1e-12)
    expected = sklearn_metrics.roc_auc_score(labels, scores, sample_weight=weights)
    assert auc(labels, scores, weights) == pytest.approx(expected, abs=1e-12)


@given(ROWS)
@settings(deadline=None)
def test_gauc_is_the_mean_area_of_groups_that_hold_both_classes(rows):
    labels, scores, groups, weights = arrays(rows)
    areas, sizes = [], []
    for group in set(groups):
        own = groups == group
        area = area_by_pairs(labels[own], scores[own], weights[own])
        if not math.isnan(area):
            areas.append(area)
            sizes.append(weights[own].sum())
    expected = np.average(areas, weights=sizes) if areas else math.nan
    assert gauc(labels, scores, groups, weights) == pytest.approx(expected, nan_ok=True)


@given(ROWS, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_monotone_scores_and_the_order_of_rows_leave_the_area_alone(rows, random):
    shuffled = random.sample(rows, len(rows))
    labels, scores, groups, weights = arrays(rows)
    expected = gauc(labels, scores, groups, weights)
    labels, scores, groups, weights = arrays(shuffled)
    bent = np.exp(scores) * 3 + 1
    assert gauc(labels, bent, groups + 7, weights) == pytest.approx(expected, nan_ok=True)
    assert gauc(labels, -scores, groups, weights) == pytest.approx(1 - expected, nan_ok=True)


def test_groups_may_have_names():
    labels, scores = np.array([0, 1, 0, 1]), np.array([1.0, 2.0, 4.0, 3.0])
    names = np.array(["ann", "ann", "bob", "bob"], dtype=object)
    assert gauc(labels, scores, names) == 0.5


def test_one_class_has_no_area_and_no_entropy():
    ones, scores = np.ones(3), np.array([0.1, 0.2, 0.3])
    assert math.isnan(auc(ones, scores))
    assert math.isnan(auc(1 - ones, scores))
    assert math.isnan(gauc(np.array([1, 1, 0]), scores, np.array([0, 0, 1])))
    assert math.isnan(normalized_entropy(ones, scores))


def test_each_draw_has_the_area_of_its_own_rows():
    labels, scores, groups = logged(400)
    counts = np.random.default_rng(3).integers(0, 3, (groups.max() + 1, 5)).astype(np.uint8)
    expected = [sklearn_metrics.roc_auc_score(labels, scores, sample_weight=counts[groups, draw]) for draw in range(5)]
    np.testing.assert_allclose(auc_draws(labels, scores, Draws(groups, counts)), expected, rtol=1e-12)


def test_log_loss_equals_that_of_scikit_learn():
    labels, predictions, _ = logged(2000)
    predictions = np.clip(predictions, 0.01, 0.99)
    weights = np.random.default_rng(2).random(2000)
    assert log_loss(labels, predictions) == pytest.approx(sklearn_metrics.log_loss(labels, predictions))
    expected = sklearn_metrics.log_loss(labels, predictions, sample_weight=weights)
    assert log_loss(labels, predictions, weights) == pytest.approx(expected)


def test_log_loss_of_a_certain_error_is_finite():
    assert log_loss(np.array([1, 0]), np.array([0.0, 1.0])) == pytest.approx(-math.log(1e-7))


def test_normalized_entropy_is_one_for_the_base_rate_and_its_loss_over_the_entropy_otherwise():
    labels = np.array([1, 0, 0, 0])
    assert normalized_entropy(labels, np.full(4, 0.25)) == pytest.approx(1)
    loss = -(math.log(0.5) + 3 * math.log(0.9)) / 4
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert normalized_entropy(labels, np.array([0.5, 0.1, 0.1, 0.1])) == pytest.approx(loss / entropy)


def test_calibration_error_is_the_gap_of_means_bin_by_bin():
    labels = np.array([0, 1, 1, 1, 0, 0])
    predictions = np.array([0.2, 0.4, 0.6, 0.9, 0.1, 0.3])
    gap_low = abs((0.1 + 0.2 + 0.3) / 3 - 0)  # rows 4, 0, 5
    gap_high = abs((0.4 + 0.6 + 0.9) / 3 - 1)  # rows 1, 2, 3
    assert calibration_error(labels, predictions, bins=2) == pytest.approx((gap_low + gap_high) / 2)
    assert calibration_error(labels, predictions, bins=1) == pytest.approx(abs(2.5 / 6 - 0.5))


def test_calibration_error_equals_a_loop_over_bins():
    labels, _, _ = logged(1000)
    predictions = np.random.default_rng(0).permutation(1000) / 1000
    bins = np.array_split(np.argsort(predictions), 20)
    expected = sum(len(b) * abs(predictions[b].mean() - labels[b].mean()) for b in bins) / 1000
    assert calibration_error(labels, predictions) == pytest.approx(expected)


def test_equal_predictions_share_a_bin_whatever_the_order_of_rows():
    labels = np.array([0, 0, 0, 1])
    assert calibration_error(labels, np.full(4, 0.25)) == pytest.approx(0)
    assert calibration_error(labels, np.array([0.1, 0.1, 0.1, 0.7]), bins=2) == pytest.approx(0.15)


def test_bias_is_the_predicted_over_the_observed_sum():
    assert bias(np.array([0.0, 4.0]), np.array([1.0, 5.0])) == 1.5
    assert bias(np.array([0.0, 4.0]), np.array([1.0, 5.0]), np.array([2.0, 1.0])) == 1.75
    assert math.isnan(bias(np.zeros(2), np.ones(2)))


@pytest.mark.parametrize("metric", [auc, log_loss, normalized_entropy, calibration_error, bias])
def test_a_metric_refuses_what_it_cannot_measure(metric):
    with pytest.raises(ValueError, match=r"scores must be finite; got nan"):
        metric(np.array([0, 1]), np.array([0.5, np.nan]))
    with pytest.raises(ValueError, match=r"labels must be finite; got nan"):
        metric(np.array([np.nan, 1]), np.array([0.5, 0.5]))
    with pytest.raises(ValueError, match=r"must have one shape \[B\], with B at least 1; got \[2\] and \[3\]"):
        metric(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match=r"got \[0\] and \[0\]"):
        metric(np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match=r"weights must have shape \[2\], one a row; got \[3\]"):
        metric(np.zeros(2), np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match=r"weights must be at least 0; got -1.0"):
        metric(np.zeros(2), np.zeros(2), np.array([1.0, -1.0]))


def test_groups_must_be_as_long_as_the_rows():
    with pytest.raises(ValueError, match=r"groups must have shape \[2\], one a row; got \[3\]"):
        gauc(np.array([0, 1]), np.array([0.1, 0.2]), np.zeros(3, dtype=int))
