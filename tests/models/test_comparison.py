import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from models.bootstrap import draw_groups
from models.comparison import compare, compare_scores


def rows(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, a good and a slightly worse ranker's predictions, and requests of very different difficulty."""
    rng = np.random.default_rng(seed)
    requests = np.repeat(np.arange(300), 10)
    difficulty = np.repeat(rng.normal(scale=1.5, size=300), 10)
    signal = rng.normal(size=3000)
    labels = (rng.random(3000) < 1 / (1 + np.exp(1 - signal - difficulty))).astype(float)
    good = 1 / (1 + np.exp(1 - signal))
    worse = 1 / (1 + np.exp(1 - signal - rng.normal(scale=0.7, size=3000)))
    return labels[:, None], good[:, None], worse[:, None], requests


def test_the_difference_is_that_of_the_two_metrics() -> None:
    labels, good, worse, requests = rows()
    found = {each.metric: each for each in compare(good, worse, labels, names=["click"], kinds=["binary"])}
    auc = [roc_auc_score(labels, p) for p in (good, worse)]
    assert (found["AUC"].new, found["AUC"].old) == pytest.approx(auc)
    assert found["AUC"].difference == pytest.approx(auc[0] - auc[1])
    loss = log_loss(labels[:, 0], good[:, 0]) - log_loss(labels[:, 0], worse[:, 0])
    assert found["log loss"].difference == pytest.approx(loss)
    assert set(found) == {"AUC", "log loss", "calibration error"}
    ranked = compare(good, worse, labels, names=["click"], kinds=["binary"], requests=requests, k=3)
    assert {"NDCG@3", "captured@3"} <= {each.metric for each in ranked}


def test_the_interval_is_that_of_differences_on_the_same_drawn_requests() -> None:
    labels, good, worse, requests = rows()
    counts = draw_groups(requests, 20, seed=0).counts
    gaps = []
    for draw in range(1, 21):
        weights = counts[requests, draw]
        one, other = (roc_auc_score(labels, p, sample_weight=weights) for p in (good, worse))
        gaps.append(one - other)
    (found, *_) = compare(good, worse, labels, names=["click"], kinds=["binary"], requests=requests, replicates=20)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(gaps, [0.025, 0.975])))


def test_a_paired_interval_is_narrower_than_that_of_two_rankers_apart() -> None:
    labels, good, worse, requests = rows()
    of_good, of_worse, chance = good, worse, np.full_like(good, 0.5)
    told = {"names": ["click"], "kinds": ["binary"], "requests": requests}
    paired, one, other = (
        next(iter(compare(new, old, labels, **told)))  # type: ignore[arg-type]
        for new, old in ((of_good, of_worse), (of_good, chance), (of_worse, chance))
    )
    apart = np.hypot(one.high - one.low, other.high - other.low)
    assert paired.low > 0  # the good one is better beyond chance
    assert paired.high - paired.low < 0.6 * apart


def test_a_ranker_differs_from_itself_by_nothing() -> None:
    labels, good, _, requests = rows()
    for each in compare(good, good, labels, names=["click"], kinds=["binary"], requests=requests):
        assert (each.difference, each.low, each.high) == (0, 0, 0)


def test_values_are_compared_by_their_sums_where_they_are_known() -> None:
    labels = np.array([[2.0], [np.nan], [2.0]])
    (found,) = compare(
        np.full((3, 1), 2.0), np.full((3, 1), 1.0), labels, names=["revenue"], kinds=["value"], replicates=0
    )
    assert (found.metric, found.new, found.old, found.difference) == ("predicted / observed", 1.0, 0.5, 0.5)


def test_rankings_are_compared_by_the_worth_that_they_collect() -> None:
    # of two requests the new ranking finds both prizes, 3 and 1, the old one that of 1; the last row's is unknown
    worth = np.array([3.0, 0.0, 1.0, 0.0, np.nan])
    requests = np.array(["a", "a", "b", "b", "b"])
    new, old = np.array([2.0, 1.0, 2.0, 1.0, 9.0]), np.array([1.0, 2.0, 2.0, 1.0, 9.0])
    found = compare_scores(new, old, worth, requests, k=1, replicates=0)
    assert found is not None
    assert (found.new, found.old, found.difference) == (1.0, 0.25, 0.75)
    assert compare_scores(new[:1], old[:1], worth[:1], requests[:1]) is None


def test_predictions_must_be_shaped_like_labels() -> None:
    with pytest.raises(ValueError, match=r"old must have the shape of labels; got \[3, 2\] and \[3, 1\]"):
        compare(np.ones((3, 1)), np.ones((3, 2)), np.ones((3, 1)), names=["click"], kinds=["binary"])
