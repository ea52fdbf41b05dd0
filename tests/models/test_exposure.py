import numpy as np
import pytest

from models.exposure import calibration_by_group, exposure_by_group, exposures


def test_exposure_falls_with_the_logarithm_of_the_place_and_ties_share_it() -> None:
    scores, requests = np.array([0.9, 0.5, 0.5, 0.2]), np.array(["a", "a", "a", "b"])
    second, third = 1 / np.log2(3), 1 / np.log2(4)
    assert exposures(scores, requests) == pytest.approx([1.0, (second + third) / 2, (second + third) / 2, 1.0])


def test_exposure_by_group_is_what_a_hand_would_work_out() -> None:
    # request 0 ranks x before y, request 1 ranks y before x before y
    scores, requests = np.array([2.0, 1.0, 3.0, 2.0, 1.0]), np.array([0, 0, 1, 1, 1])
    groups, merit = np.array(["x", "y", "y", "x", "y"]), np.array([1.0, 0.0, 0.0, np.nan, 3.0])
    x, y = exposure_by_group(scores, requests, groups, merit, replicates=0)
    second, third = 1 / np.log2(3), 0.5
    whole = 2 + 2 * second + third
    assert (x.group, x.rows, x.row_share) == ("x", 2, 0.4)
    assert x.exposure_share == pytest.approx((1 + second) / whole)
    assert x.parity == pytest.approx((1 + second) / whole / 0.4)
    assert x.merit_parity == pytest.approx((1 + second) / whole / 0.25)
    assert y.exposure_share == pytest.approx(1 - x.exposure_share)
    assert y.merit_parity == pytest.approx(y.exposure_share / 0.75)


def test_a_random_order_s_parity_interval_holds_one() -> None:
    rng = np.random.default_rng(0)
    requests = np.repeat(np.arange(400), 5)
    groups = rng.choice(["x", "y"], 2000, p=[0.3, 0.7])
    for found in exposure_by_group(rng.random(2000), requests, groups, np.zeros(2000)):
        low, high = found.parity_interval
        assert low < 1 < high
        assert np.isnan(found.merit_parity)


def test_calibration_by_group_is_each_group_s_sums() -> None:
    labels = np.array([1.0, 0.0, 1.0, np.nan, 0.0])
    predictions = np.array([0.5, 0.25, 0.5, 0.9, 0.5])
    groups = np.array([1, 1, 2, 2, 3])
    found = calibration_by_group(labels, predictions, np.arange(5), groups, replicates=0)
    assert [(each.group, each.rows) for each in found] == [("1", 2), ("2", 1), ("3", 1)]
    assert [each.ratio for each in found[:2]] == [0.75, 0.5]
    assert np.isnan(found[2].ratio)
    assert calibration_by_group(np.full(2, np.nan), np.ones(2), np.arange(2), np.arange(2)) == ()
