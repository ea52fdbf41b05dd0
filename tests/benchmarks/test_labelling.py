import numpy as np
import pytest

from benchmarks.labelling import summary


def test_gains_are_of_pairs_with_an_interval_of_their_mean() -> None:
    first = [np.array([0.80, 0.5]), np.array([0.70, 0.4])]
    found = summary([np.array([0.82, 0.4]), np.array([0.74, 0.2])], first)
    assert found["auc"] == pytest.approx(0.78)
    assert found["logloss"] == pytest.approx(0.3)
    assert found["auc_gain"] == pytest.approx(0.03)
    assert found["gain_high"] == pytest.approx(
        0.03 + 1.96 * 0.01
    )  # gains of .02 and .04: their mean's deviation is .01


def test_the_first_system_gains_nothing_on_itself() -> None:
    first = [np.array([0.80, 0.5]), np.array([0.70, 0.4])]
    assert summary(first, first)["auc_gain"] is None
