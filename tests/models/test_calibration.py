from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from models.calibration import choose_method, fit_calibration, fit_map, fit_scale
from models.calibration_maps import METHODS, CalibratedRanker, Calibration, CalibrationMap
from models.export import export_ranker
from models.ranker import Ranker

ROWS = 20_000


def outcomes(distort, seed: int = 0, rows: int = ROWS):
    """Return predictions, and labels drawn from what `distort` makes of the predictions."""
    rng = np.random.default_rng(seed)
    predictions = rng.beta(1.5, 6, rows)
    return predictions, (rng.random(rows) < distort(predictions)).astype(np.float64)


class Table(nn.Module):
    """A ranker that reads its predictions from its features."""

    def forward(self, categorical: Tensor, continuous: Tensor) -> Tensor:
        return continuous


def test_platt_finds_what_logistic_regression_finds():
    predictions, labels = outcomes(lambda p: expit(0.6 * logit(p) - 0.4))
    own = fit_map(labels, predictions, "platt").coefficients
    other = LogisticRegression(C=np.inf, tol=1e-10).fit(logit(predictions)[:, None], labels)
    assert own == pytest.approx((other.coef_[0, 0], other.coef_[0, 0], other.intercept_[0]), abs=2e-4)


def test_temperature_has_no_bias_and_finds_the_distortion():
    predictions, labels = outcomes(lambda p: expit(0.5 * logit(p)))
    a, b, c = fit_map(labels, predictions, "temperature").coefficients
    assert a == b == pytest.approx(0.5, abs=0.03)
    assert c == 0


def test_beta_finds_what_logistic_regression_on_both_logs_finds():
    predictions, labels = outcomes(lambda p: expit(0.5 * np.log(p) - 2.0 * np.log1p(-p) + 0.3))
    a, b, c = fit_map(labels, predictions, "beta").coefficients
    features = np.stack([np.log(predictions), -np.log1p(-predictions)], 1)
    other = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(features, labels)
    assert (a, b, c) == pytest.approx((*other.coef_[0], other.intercept_[0]), abs=2e-3)


def test_isotonic_meets_the_blocks_of_isotonic_regression_at_their_centres():
    predictions, labels = outcomes(lambda p: p**2, rows=2_000)
    fitted = fit_map(labels, predictions, "isotonic")
    blocks = IsotonicRegression().fit_transform(predictions, labels)
    for height in np.unique(blocks)[1:-1]:
        assert fitted(predictions[blocks == height].mean()) == pytest.approx(height)


def test_isotonic_of_four_groups_that_are_out_of_order_pools_two():
    predictions = np.repeat([0.1, 0.3, 0.5, 0.8], 100)
    labels = np.concatenate([np.arange(100) < positives for positives in (10, 40, 20, 90)]).astype(float)
    expected = ((0, 0), (0.1, 0.1), (0.4, 0.3), (0.8, 0.9), (1, 1))  # 40 and 20 of 100 are 60 of 200
    np.testing.assert_allclose(fit_map(labels, predictions, "isotonic").knots, expected)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_order_even_where_predictions_were_upside_down(method):
    predictions, labels = outcomes(lambda p: 1 - p)
    mapped = fit_map(labels, predictions, method)(np.linspace(0, 1, 1001))
    assert (np.diff(mapped) >= 0).all()
    assert 0 <= mapped[0] <= mapped[-1] <= 1


def test_few_rows_of_a_class_pass_through_and_say_so():
    predictions = np.linspace(0.1, 0.9, 500)
    for positives in (0, 19, 481, 500):
        labels = (np.arange(500) < positives).astype(float)
        fitted = fit_map(labels, predictions, "platt")
        assert fitted.note == f"passed through: fewer than 20 rows of a class, {positives} of 500 rows are positive"
        np.testing.assert_array_equal(fitted(predictions), predictions)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method must be one of temperature, platt, beta, isotonic; got 'spline'"):
        fit_map(np.ones(3), np.ones(3), "spline")
    with pytest.raises(ValueError, match=r"calibration must be one of none, temperature, .*, auto; got 'spline'"):
        fit_calibration(np.ones((3, 1)), np.ones((3, 1)), names="a", kinds=["binary"], parents=[-1], method="spline")


def test_segments_must_name_groups_that_have_maps():
    with pytest.raises(ValueError, match=r"segment_groups must name groups below 1; got \[0, 1\]"):
        Calibration([[CalibrationMap()]], [-1], segment_column=0, segment_groups=[0, 1])


def test_a_value_is_multiplied_so_that_its_sum_is_the_observed_one():
    predictions = np.linspace(1, 3, 400)
    assert fit_scale(predictions * 1.5, predictions).coefficients[0] == pytest.approx(1.5)
    assert fit_scale(np.zeros(400), predictions).note == "passed through: fewer than 20 values above 0, there are 0"
    noise = np.random.default_rng(0).normal(1, 0.5, 400)
    assert fit_scale(predictions * noise, predictions, errors=3.0).method == "none"


def test_auto_picks_the_method_that_made_the_distortion_and_none_without_one():
    rng = np.random.default_rng(3)
    folds = rng.integers(0, 5, ROWS)
    true = {
        "none": lambda p: p,
        "temperature": lambda p: expit(0.4 * logit(p)),
        "platt": lambda p: expit(logit(p) + 1),
        "beta": lambda p: expit(0.3 * np.log(p) - 4.0 * np.log1p(-p) - 0.5),
        "isotonic": lambda p: np.interp(p, [0, 0.1, 0.15, 0.3, 0.35, 1], [0.01, 0.02, 0.4, 0.42, 0.9, 0.95]),
    }
    for method, distort in true.items():
        predictions, labels = outcomes(distort, seed=5)
        assert choose_method(labels, predictions, folds) == method


def chained(rows: int = ROWS):
    """Return predictions and labels of a click, a purchase given it, and its value; by two segments that differ."""
    rng = np.random.default_rng(1)
    segment = rng.integers(4, 6, rows)
    click = rng.beta(2, 6, rows)
    purchase = click * rng.beta(2, 4, rows)
    truly_click = expit(logit(click) + np.where(segment == 4, 1.0, -0.5))
    clicked = rng.random(rows) < truly_click
    bought = clicked & (rng.random(rows) < purchase / click)
    amount = bought * rng.lognormal(1, 0.3, rows)
    predictions = np.stack([click, purchase, purchase * 5.0], 1).astype(np.float32)
    return predictions, np.stack([clicked, bought, amount], 1).astype(np.float32), segment


@pytest.mark.parametrize("method", [*METHODS, "auto"])
@pytest.mark.parametrize("segmented", [False, True])
def test_the_exported_calibration_gives_the_fitted_maps_numbers_and_bounds_children(
    method: str, segmented: bool, tmp_path: Path
) -> None:
    predictions, labels, segment = chained()
    calibration, found = fit_calibration(
        predictions,
        labels,
        names=("click", "purchase", "revenue"),
        kinds=("binary", "binary", "value"),
        parents=(-1, 0, 1),
        method=method,
        requests=np.arange(ROWS) // 10,
        segments=segment if segmented else None,
        cardinality=8,
        segment_column=1,
        replicates=10,
    )
    assert calibration is not None
    judged = found[:2] if method == "auto" else found  # auto maps a value by itself only where it is clearly off
    assert {each.segments for each in judged} == {2 if segmented else 0}
    assert found[0].after < found[0].before
    export_ranker(CalibratedRanker(Table(), calibration), tmp_path / "ranker.pt")
    exported = torch.jit.load(tmp_path / "ranker.pt")
    ids = torch.from_numpy(np.stack([np.zeros(ROWS), segment], 1).astype(np.int32))
    given = torch.from_numpy(predictions)
    for _ in range(3):
        calibrated = exported(ids, given)
    torch.testing.assert_close(calibrated, calibration(given, ids), rtol=1e-5, atol=1e-6)
    assert (calibrated[:, 1] <= calibrated[:, 0]).all()
    for each in np.unique(segment) if segmented else [None]:
        rows = np.full(ROWS, True) if each is None else segment == each
        known, clicks = labels[rows], predictions[rows, 0]
        chosen = found[0].method
        expected = fit_map(known[:, 0], clicks, chosen)(clicks)
        np.testing.assert_allclose(calibrated[rows, 0], expected, rtol=2e-4, atol=2e-6)
        order = np.argsort(clicks)
        assert (np.diff(calibrated[rows, 0].numpy()[order]) >= -1e-7).all()
        if method != "auto":
            assert calibrated[rows, 2].sum().item() == pytest.approx(known[:, 2].sum(), rel=1e-3)


def test_a_child_is_cut_to_its_parent_through_the_whole_chain():
    lift = CalibrationMap("platt", (1.0, 1.0, 3.0))
    calibration = Calibration([[CalibrationMap(), CalibrationMap(), lift]], [-1, 0, 1])
    found = calibration(torch.tensor([[0.3, 0.2, 0.1], [0.9, 0.8, 0.001]]), torch.zeros(2, 0))
    mapped = float(expit(logit(0.001) + 3))
    torch.testing.assert_close(found, torch.tensor([[0.3, 0.2, 0.2], [0.9, 0.8, mapped]]))


def test_what_passes_through_leaves_the_ranker_alone():
    predictions, labels, _ = chained(300)
    calibration, found = fit_calibration(
        predictions[:, :1], labels[:, :1] * 0, names=["click"], kinds=["binary"], parents=[-1], replicates=0
    )
    assert calibration is None
    assert found[0].note.startswith("passed through")
    assert found[0].to_json()["before_interval"] == [None, None]


def test_unknown_labels_are_left_out():
    predictions, labels, _ = chained()
    unknown = np.concatenate([labels[:, :1], np.full((ROWS, 1), np.nan, np.float32)])
    doubled = np.concatenate([predictions[:, :1], predictions[::-1, :1]])
    given = {"names": ["click"], "kinds": ["binary"], "parents": [-1], "method": "platt", "replicates": 0}
    alone, _ = fit_calibration(predictions[:, :1], labels[:, :1], **given)
    other, _ = fit_calibration(doubled, unknown, **given)
    torch.testing.assert_close(alone.coefficients, other.coefficients)


def test_a_ranker_of_its_own_is_calibrated_under_its_contract(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ranker = Ranker([9], [1], 2, ["binary", "binary"], [-1, 0]).eval()
    calibration = Calibration([[CalibrationMap("platt", (2.0, 2.0, 0.5)), CalibrationMap()]], [-1, 0])
    export_ranker(CalibratedRanker(ranker, calibration), tmp_path / "ranker.pt")
    ids, numbers = torch.randint(0, 9, (64, 1), dtype=torch.int32), torch.randn(64, 2)
    with torch.no_grad():
        plain = ranker(ids, numbers)
        found = torch.jit.load(tmp_path / "ranker.pt")(ids, numbers)
    torch.testing.assert_close(
        found[:, 0], torch.special.expit(2 * torch.logit(plain[:, 0]) + 0.5), rtol=1e-5, atol=1e-6
    )
