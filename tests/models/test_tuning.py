import numpy as np
import pytest

from models.ranking_metrics import value_captured
from models.tuning import (
    captured_by_objective,
    hypervolume,
    non_dominated,
    random_capture,
    reachable,
    reachable_hypervolume,
    simplex_lattice,
    top_shares,
    worth,
    worth_captured,
)


def test_the_hypervolume_of_one_point_is_its_box() -> None:
    assert hypervolume(np.array([[0.5, 0.4, 2.0]]), np.array([0.1, 0.2, 1.0])) == pytest.approx(0.4 * 0.2 * 1.0)


def test_the_hypervolume_of_steps_counts_what_they_share_once() -> None:
    points = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [1.0, 1.0]])
    assert hypervolume(points, np.zeros(2)) == pytest.approx(3 + 2 + 1)


def test_the_hypervolume_of_three_dimensions_is_the_share_of_random_points_below_the_front() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((25, 3))
    drawn = rng.random((200_000, 3))
    dominated = (points[None, :, :] >= drawn[:, None, :]).all(axis=2).any(axis=1).mean()
    assert hypervolume(points, np.zeros(3)) == pytest.approx(dominated, abs=0.004)


def test_a_point_below_the_reference_counts_for_nothing() -> None:
    assert hypervolume(np.array([[2.0, 0.5], [0.9, 9.0]]), np.array([1.0, 0.0])) == pytest.approx(0.5)
    assert hypervolume(np.zeros((0, 2)), np.zeros(2)) == 0


def test_hypervolume_needs_finite_points() -> None:
    with pytest.raises(ValueError, match="points must be finite; got nan"):
        hypervolume(np.array([[0.5, np.nan]]), np.zeros(2))


def test_of_equal_points_on_the_front_the_first_stays() -> None:
    points = np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [1.0, 1.0]])
    assert non_dominated(points).tolist() == [True, True, False, False]


def test_the_lattice_has_every_weighting_by_halves() -> None:
    found = {tuple(weights) for weights in simplex_lattice(3, 2)}
    assert found == {(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)}
    assert simplex_lattice(1, 1).tolist() == [[1.0]]


def test_rows_that_tie_share_the_last_place() -> None:
    shares = top_shares(np.array([3.0, 1.0, 1.0, 5.0]), np.array([7, 7, 7, 8]), 2)
    assert shares.tolist() == [1.0, 0.5, 0.5, 1.0]
    with pytest.raises(ValueError, match="k must be at least 1; got 0"):
        top_shares(np.ones(2), np.zeros(2), 0)


def test_what_is_captured_of_each_objective_is_value_captured_on_its_known_rows() -> None:
    rng = np.random.default_rng(1)
    requests = rng.integers(0, 40, 500)
    scores = rng.integers(0, 6, 500).astype(float)
    labels = np.stack([(rng.random(500) < 0.2).astype(float), rng.exponential(size=500), np.zeros(500)], axis=1)
    labels[:100, 1] = np.nan
    found = captured_by_objective(scores, labels, requests, 3)
    assert found[0] == pytest.approx(value_captured(labels[:, 0], scores, requests, 3))
    assert found[1] == pytest.approx(value_captured(labels[100:, 1], scores[100:], requests[100:], 3))
    assert np.isnan(found[2])


def test_the_worth_captured_is_of_the_blend_s_weights() -> None:
    # one request, one place: a click weighs 1 and a sale of 4 weighs 2; the score picks the click
    labels, predictions = np.array([[1.0, 0.0], [0.0, 4.0]]), np.array([[0.9, 0.1], [0.1, 0.2]])
    found = worth_captured(predictions, labels, np.zeros(2), weights=[1.0, 2.0], k=1)
    assert found == pytest.approx(1.0 / 8.0)
    other = worth_captured(predictions, labels, np.zeros(2), weights=[0.0, 2.0], k=1)
    assert other == 1.0


def test_a_row_without_a_label_that_weighs_something_is_left_out() -> None:
    labels = np.array([[1.0, np.nan], [0.0, 1.0], [1.0, 0.0]])
    predictions = np.array([[0.9, 0.9], [0.5, 0.1], [0.4, 0.1]])
    assert worth_captured(predictions, labels, np.zeros(3), weights=[1.0, 1.0], k=1) == 1.0
    assert worth_captured(predictions, labels, np.zeros(3), weights=[1.0, 0.0], k=1) == 1.0
    assert worth_captured(predictions[1:], labels[1:], np.zeros(2), weights=[1.0, 0.0], k=1) == 0.0


def test_a_row_is_worth_what_its_labels_weigh_and_nothing_where_that_is_negative() -> None:
    labels = np.array([[1.0, 2.0], [1.0, 0.0], [np.nan, 1.0]])
    assert worth(labels, [-1.0, 3.0])[:2].tolist() == [5.0, 0.0]
    assert np.isnan(worth(labels, [-1.0, 3.0])[2])
    assert worth(labels, [0.0, 3.0])[2] == 3.0


def test_chance_captures_a_place_s_share_of_a_request() -> None:
    labels = np.array([[1.0], [0.0], [0.0], [0.0]])
    assert random_capture(labels, np.zeros(4), 1)[0] == pytest.approx(0.25)


def test_a_ranker_that_knows_all_of_one_thing_reaches_all_and_one_that_guesses_nothing() -> None:
    rng = np.random.default_rng(2)
    requests = np.repeat(np.arange(300), 8)
    label = (rng.random(2400) < 0.2).astype(float)
    labels = np.stack([label, 3 * label], axis=1)
    assert reachable_hypervolume(labels + 0.01, labels, requests, 2) == pytest.approx(1.0)
    assert reachable_hypervolume(np.full((2400, 2), 0.3), labels, requests, 2) == pytest.approx(0.0, abs=1e-9)


def test_weights_reach_from_one_objective_s_best_to_the_other_s() -> None:
    rng = np.random.default_rng(3)
    requests = np.repeat(np.arange(200), 6)
    labels = (rng.random((1200, 2)) < 0.3).astype(float)
    found = reachable(labels + 0.01, labels, requests, 1)
    assert found.max(axis=0) == pytest.approx([1.0, 1.0])
    assert len(found) == 21
    assert (found.min(axis=0) < 0.9).all()


def test_where_chance_captures_all_there_is_no_hypervolume() -> None:
    with pytest.raises(ValueError, match="k must leave every objective something to rank; got 5"):
        reachable_hypervolume(np.ones((4, 1)), np.ones((4, 1)), np.zeros(4), 5)
