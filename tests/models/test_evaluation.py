import json
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from models.blending import blend
from models.evaluation import Evaluation, Figure, evaluate
from models.metrics import auc, calibration_error, gauc, log_loss, normalized_entropy
from models.popularity import item_popularity
from models.ranking_metrics import ndcg_at_k, value_captured

NAMES, KINDS, WEIGHTS = ("click", "revenue"), ("binary", "value"), (1.0, 0.1)
REQUESTS = np.repeat([f"r{n:03d}" for n in np.random.default_rng(9).permutation(400)], 15).astype(object)
USERS = np.repeat(np.arange(400) % 90, 15)


def shop(seed: int, rows: int = 6000):
    """Return a log's items, what is true, what happened, and what a noisy ranker says of it."""
    taste, rng = np.random.default_rng(2), np.random.default_rng(seed)
    items = rng.integers(0, 200, rows)
    clicks = np.clip(taste.beta(1, 6, 200)[items] * rng.uniform(0.3, 1.7, rows), 0, 1)
    amounts = taste.lognormal(2, 0.5, 200)[items]
    truth = np.stack([clicks, clicks * amounts], axis=1)
    clicked = (rng.random(rows) < clicks).astype(np.float32)
    labels = np.stack([clicked, clicked * amounts], axis=1)
    predictions = np.clip(truth * rng.lognormal(0, 0.15, truth.shape), 1e-4, None)
    predictions[:, 0] = np.minimum(predictions[:, 0], 0.99)
    return items, truth, labels, predictions


ITEMS, TRUTH, LABELS, PREDICTIONS = shop(seed=1)
PAST_ITEMS, _, PAST_LABELS, _ = shop(seed=0)


def judged(**changes) -> Evaluation:
    given = {
        "names": NAMES,
        "kinds": KINDS,
        "requests": REQUESTS,
        "users": USERS,
        "weights": WEIGHTS,
        "truth": TRUTH,
        "baseline": item_popularity(PAST_ITEMS, PAST_LABELS).predict(ITEMS),
        "k": 3,
        "replicates": 40,
    }
    labels = changes.pop("labels", LABELS)
    return evaluate(PREDICTIONS, labels, **{**given, **changes})


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return judged()


def test_each_figure_of_an_objective_is_that_of_the_metric(evaluation):
    clicked, predicted = LABELS[:, 0], PREDICTIONS[:, 0]
    expected = {
        "AUC": auc(clicked, predicted),
        "GAUC by user": gauc(clicked, predicted, USERS),
        "GAUC by request": gauc(clicked, predicted, REQUESTS),
        "log loss": log_loss(clicked, predicted),
        "normalized entropy": normalized_entropy(clicked, predicted),
        "calibration error": calibration_error(clicked, predicted),
        "NDCG@3": ndcg_at_k(clicked, predicted, REQUESTS, 3),
        "captured@3": value_captured(clicked, predicted, REQUESTS, 3),
    }
    found = {f.metric: f.value for f in evaluation.figures if (f.objective, f.system) == ("click", "ranker")}
    share = found.pop("AUC−½ / Bayes")
    assert found == pytest.approx(expected)
    assert share == pytest.approx((expected["AUC"] - 0.5) / (roc_auc_score(clicked, TRUTH[:, 0]) - 0.5))
    assert evaluation.value("revenue", "predicted / observed") == pytest.approx(
        PREDICTIONS[:, 1].mean() / LABELS[:, 1].mean()
    )
    assert evaluation.value("revenue", "captured@3", "bayes") == pytest.approx(
        value_captured(LABELS[:, 1], TRUTH[:, 1], REQUESTS, 3)
    )


def test_the_score_is_judged_by_what_it_captures_of_each_objective(evaluation):
    score = blend(PREDICTIONS, np.array(WEIGHTS), "linear")
    for index, name in enumerate(NAMES):
        expected = value_captured(LABELS[:, index], score, REQUESTS, 3)
        assert evaluation.value("score", f"{name} captured@3") == pytest.approx(expected)
    geometric = judged(blend_kind="geometric", replicates=0)
    score = blend(PREDICTIONS, np.array(WEIGHTS), "geometric")
    expected = value_captured(LABELS[:, 1], score, REQUESTS, 3)
    assert geometric.value("score", "revenue captured@3") == pytest.approx(expected)


def test_the_truth_beats_the_ranker_which_beats_popularity(evaluation):
    for objective, metric in (("click", "AUC"), ("click", "NDCG@3"), ("score", "revenue captured@3")):
        worst, middle, best = (evaluation.value(objective, metric, s) for s in ("popularity", "ranker", "bayes"))
        assert worst < middle < best
    assert 0.5 < evaluation.value("click", "AUC−½ / Bayes") < 1


def test_every_figure_lies_in_its_interval_but_for_the_calibration_error(evaluation):
    for figure in evaluation.figures:
        assert figure.low < figure.high
        if figure.metric != "calibration error":  # an absolute value, which resampling's noise only adds to
            assert figure.low <= figure.value <= figure.high, figure


def test_no_replicates_leave_the_intervals_out():
    assert all(math.isnan(f.low) and math.isnan(f.high) for f in judged(replicates=0).figures)


def test_only_what_is_given_is_judged():
    alone = judged(truth=None, baseline=None, users=None, replicates=0)
    assert {f.system for f in alone.figures} == {"ranker"}
    assert not {"GAUC by user", "AUC−½ / Bayes"} & {f.metric for f in alone.figures}


def test_without_requests_nothing_is_ranked():
    found = judged(requests=None, replicates=0)
    assert {f.objective for f in found.figures} == {"click", "revenue"}
    assert not {"GAUC by request", "NDCG@3", "captured@3"} & {f.metric for f in found.figures}


def test_requests_of_one_row_do_not_count_where_requests_are_ranked():
    requests = REQUESTS.copy()
    requests[:3000] = [f"single {n}" for n in range(3000)]
    found = judged(requests=requests, replicates=0)
    several = slice(3000, None)
    expected = ndcg_at_k(LABELS[several, 0], PREDICTIONS[several, 0], REQUESTS[several], 3)
    assert found.value("click", "NDCG@3") == pytest.approx(expected)
    assert found.value("click", "AUC") == pytest.approx(auc(LABELS[:, 0], PREDICTIONS[:, 0]))


def test_rows_with_an_unknown_label_are_left_out_for_that_objective():
    labels = LABELS.copy()
    labels[::4, 0] = np.nan
    found, known = judged(labels=labels, replicates=0), np.isfinite(labels[:, 0])
    assert found.value("click", "AUC") == pytest.approx(auc(LABELS[known, 0], PREDICTIONS[known, 0]))
    expected = ndcg_at_k(LABELS[known, 0], PREDICTIONS[known, 0], REQUESTS[known], 3)
    assert found.value("click", "NDCG@3") == pytest.approx(expected)
    everything = judged(replicates=0)
    assert found.value("revenue", "NDCG@3") == everything.value("revenue", "NDCG@3")
    labels[:, 0] = np.nan
    assert {f.objective for f in judged(labels=labels, replicates=0).figures} == {"revenue", "score"}


def test_an_evaluation_survives_json(evaluation):
    again = Evaluation.from_json(json.loads(json.dumps(evaluation.to_json())))
    assert again == evaluation
    undefined = Evaluation(3, (Figure("click", "AUC", "ranker", math.nan),))
    text = json.dumps(undefined.to_json(), allow_nan=False)
    assert math.isnan(Evaluation.from_json(json.loads(text)).value("click", "AUC"))


def test_a_figure_that_is_not_there_is_named(evaluation):
    with pytest.raises(KeyError, match="evaluation must hold AUC of like for ranker; got none"):
        evaluation.value("like", "AUC")


@pytest.mark.parametrize("name", ["labels", "truth", "baseline"])
def test_arrays_must_be_shaped_like_the_predictions(name):
    with pytest.raises(
        ValueError, match=rf"{name} must have the shape of predictions; got \[6000, 1\] and \[6000, 2\]"
    ):
        judged(**{name: LABELS[:, :1]})
