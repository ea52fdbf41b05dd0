import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.blending import SMALLEST, blend, check_weights, weights_from

NAMES = ("click", "purchase", "revenue")
PREDICTIONS = np.array([[0.5, 0.1, 2.0], [0.2, 0.2, 8.0]], dtype=np.float32)


def test_a_linear_score_is_the_weighted_sum():
    scores = blend(PREDICTIONS, np.array([1.0, 10.0, 0.5]), "linear")
    np.testing.assert_allclose(scores, [0.5 + 1 + 1, 0.2 + 2 + 4], rtol=1e-6)
    assert scores.dtype == np.float32


def test_a_geometric_score_is_the_product_of_powers():
    weights = np.array([1.0, 2.0, 0.5])
    expected = np.exp((weights * np.log(PREDICTIONS.astype(np.float64))).sum(axis=1))
    scores = blend(PREDICTIONS, weights, "geometric")
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    np.testing.assert_allclose(scores, [0.5 * 0.01 * 2**0.5, 0.2 * 0.04 * 8**0.5], rtol=1e-5)
    assert scores.dtype == np.float32


def test_a_negative_weight_is_a_cost():
    weights = np.array([0.0, 0.0, -1.0])
    np.testing.assert_allclose(blend(PREDICTIONS, weights, "linear"), [-2, -8])
    np.testing.assert_allclose(blend(PREDICTIONS, weights, "geometric"), [1 / 2, 1 / 8], rtol=1e-6)


def test_each_row_may_have_its_own_weights():
    weights = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=np.float32)
    for kind in ("linear", "geometric"):
        np.testing.assert_allclose(blend(PREDICTIONS, weights, kind), [0.5, 8], rtol=1e-6)


@given(
    arrays(np.float32, (5, 3), elements=st.floats(0, 100, width=32)),
    arrays(np.float32, 3, elements=st.floats(-50, 50, width=32)),
    st.sampled_from(["linear", "geometric"]),
)
def test_weights_for_all_rows_score_as_the_same_weights_on_each_row(predictions, weights, kind):
    shared = blend(predictions, weights, kind)
    assert np.isfinite(shared).all()
    np.testing.assert_array_equal(shared, blend(predictions, np.tile(weights, (5, 1)), kind))


def test_an_impossible_objective_weighs_on_a_geometric_score_without_hiding_the_others():
    predictions = np.array([[0.0, 0.5], [0.0, 0.7]], dtype=np.float32)
    scores = blend(predictions, np.ones(2), "geometric")
    np.testing.assert_allclose(scores, [0.5 * SMALLEST, 0.7 * SMALLEST], rtol=1e-4)


def test_no_rows_have_no_scores():
    assert blend(np.zeros((0, 3), np.float32), np.ones(3), "linear").shape == (0,)
    assert blend(np.zeros((0, 3), np.float32), np.ones((0, 3)), "geometric").shape == (0,)


def test_a_blend_refuses_other_shapes_and_kinds():
    with pytest.raises(ValueError, match=r"weights must have shape \[K\] or \[B, K\].*; got \[2\] for \[2, 3\]"):
        blend(PREDICTIONS, np.ones(2), "linear")
    with pytest.raises(ValueError, match=r"weights must have shape .* got \[1, 3\] for \[2, 3\]"):
        blend(PREDICTIONS, np.ones((1, 3)), "linear")
    with pytest.raises(ValueError, match=r"kind must be linear or geometric; got cubic"):
        blend(PREDICTIONS, np.ones(3), "cubic")  # type: ignore[arg-type]


def test_weights_come_back_as_float32():
    weights = check_weights(np.array([1.0, -2.0, 0.5]), NAMES)
    np.testing.assert_array_equal(weights, [1, -2, 0.5])
    assert weights.dtype == np.float32


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf"), (1e39, "inf")])
def test_weights_must_be_finite(value, shown):
    with pytest.raises(ValueError, match=rf"objective_weights must be finite; got {shown} for purchase"):
        check_weights(np.array([1.0, value, 1.0]), NAMES)
    with pytest.raises(ValueError, match=rf"objective_weights must be finite; got {shown} for purchase"):
        weights_from(NAMES, {"purchase": value})


@pytest.mark.parametrize("dtype", ["S1", "O", "c16", "?"])
def test_weights_must_be_numbers(dtype):
    with pytest.raises(ValueError, match="objective_weights must be numbers; got "):
        check_weights(np.ones(3).astype(dtype), NAMES)


@pytest.mark.parametrize("shape", [(2,), (4,), (1, 3), ()])
def test_weights_must_be_one_an_objective(shape):
    with pytest.raises(ValueError, match=r"must have one value each for click, purchase, revenue; got shape \["):
        check_weights(np.ones(shape), NAMES)


def test_weights_by_name_leave_the_others_at_zero():
    np.testing.assert_array_equal(weights_from(NAMES, {"revenue": 0.5, "click": 2}), [2, 0, 0.5])


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"\(click, purchase, revenue\); got purchas \(did you mean purchase\?\)"):
        weights_from(NAMES, {"purchas": 1.0})
    with pytest.raises(ValueError, match=r"got xyz$"):
        weights_from(NAMES, {"xyz": 1.0})


def test_the_blend_loads_fast_and_without_torch():
    program = "\n".join(
        (
            "import sys, time, numpy",
            "started_s = time.perf_counter()",
            "import models.blending",
            "print(time.perf_counter() - started_s, 'torch' in sys.modules)",
        )
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert float(answer[0]) < 0.3
    assert answer[1] == "False"
