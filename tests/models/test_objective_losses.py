import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.binary_losses import binary_loss
from models.objective_losses import ObjectiveLoss, unsampled_rates
from models.training_towers import PositionTower
from models.value_losses import gamma_loss, quantile_loss, squared_log_loss, ziln_loss

KINDS = ("binary", "binary", "value", "binary")
PARENTS = (-1, 0, 1, -1)
TWO: Any = (("binary", "binary"), (-1, 0))


def both(loss: ObjectiveLoss, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sums and counts in training, which validation must share for a loss with no options."""
    trained, validated = loss(logits, labels), loss.validation_sums(logits, labels)
    torch.testing.assert_close(trained, validated)
    return trained


def test_a_root_is_trained_by_plain_cross_entropy() -> None:
    logits, labels = torch.randn(50, 1), (torch.rand(50, 1) < 0.3).float()
    sums, counts = both(ObjectiveLoss(("binary",), (-1,)), logits, labels)
    expected = F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    torch.testing.assert_close(sums[0], expected)
    assert counts.tolist() == [50]


def test_a_chained_objective_is_trained_on_its_product_over_every_row() -> None:
    logits = torch.randn(200, 2, dtype=torch.float64)
    labels = (torch.rand(200, 2) < 0.4).double()
    sums, counts = both(ObjectiveLoss(("binary", "binary"), (-1, 0)), logits, labels)
    p = 1 / (1 + np.exp(-logits.numpy()))
    joint, y = p[:, 0] * p[:, 1], labels.numpy()[:, 1]
    expected = -(y * np.log(joint) + (1 - y) * np.log(1 - joint)).sum()
    assert sums[1].item() == pytest.approx(expected, rel=1e-5)
    assert counts.tolist() == [200, 200]


def test_a_value_is_trained_where_its_parent_happened() -> None:
    logits = torch.tensor([[0.0, 1.5], [0.0, -2.0], [0.0, 0.5]])
    labels = torch.tensor([[1.0, 4.0], [0.0, 9.0], [1.0, 0.0]])
    sums, counts = both(ObjectiveLoss(("binary", "value"), (-1, 0)), logits, labels)
    assert sums[1].item() == pytest.approx(4 * math.exp(-1.5) + 1.5 + 0.5)
    assert counts.tolist() == [3, 2]


def test_unknown_labels_do_not_count() -> None:
    loss = ObjectiveLoss(KINDS, PARENTS)
    logits = torch.randn(6, 4)
    labels = torch.tensor([[1.0, 1.0, 3.0, 1.0]]).repeat(6, 1)
    unknown = labels.clone()
    unknown[3:, 1:] = float("nan")
    sums, counts = both(loss, logits, unknown)
    assert counts.tolist() == [6, 3, 3, 3]
    torch.testing.assert_close(sums[1:], both(loss, logits[:3], labels[:3])[0][1:])
    assert torch.isfinite(sums).all()


def test_the_gamma_loss_finds_the_mean_of_a_heavy_tail() -> None:
    rng = np.random.default_rng(0)
    values = torch.from_numpy(np.where(rng.random(50_000) < 0.2, 0, rng.lognormal(2, 1.5, 50_000)))
    log_mean = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_mean], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = gamma_loss(log_mean, values).mean()
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
    assert math.exp(log_mean.item()) == pytest.approx(values.mean().item(), rel=1e-4)


def test_a_parent_s_loss_may_come_after_its_child_s() -> None:
    logits = torch.randn(5, 3)
    forward = ObjectiveLoss(("binary", "binary", "value"), (-1, 0, 1))
    backward = ObjectiveLoss(("value", "binary", "binary"), (1, 2, -1))
    labels = torch.tensor([[1.0, 1.0, 7.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(
        both(forward, logits, labels)[0], both(backward, logits.flip(1), labels.flip(1))[0].flip(0)
    )


@pytest.mark.parametrize(
    ("estimator", "value_loss"),
    list(product(("esmm", "ipw", "dr", "entire_space"), ("gamma", "ziln", "squared_log", "quantile"))),
)
def test_extreme_logits_give_finite_losses_and_gradients(estimator: str, value_loss: str) -> None:
    estimators = ["esmm", estimator, "esmm", "esmm"]
    loss = ObjectiveLoss(
        KINDS, PARENTS, estimators=estimators, value_losses=[value_loss] * 4, focusings=[2.0] * 4, hidden=3
    )
    extreme = torch.tensor([[1e4] * 4, [-1e4] * 4, [1e4, -1e4, 1e4, 0.0]])
    logits = torch.cat([extreme, torch.zeros(3, loss.chain.logits - 4)], 1).requires_grad_()
    labels = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 5.0, 1.0], [1.0, 1.0, 5.0, 1.0]])
    sums, _ = loss(logits, labels, torch.ones(4, 3, 3))
    sums.sum().backward()
    assert torch.isfinite(sums).all()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert torch.isfinite(loss.chain(logits)).all()


def test_binary_losses_are_those_of_the_papers() -> None:
    p, y = np.array([0.9, 0.3, 0.2]), np.array([1.0, 1.0, 0.0])
    log_p, log_not, label = (torch.from_numpy(x) for x in (np.log(p), np.log(1 - p), y))
    weighed = -(3 * y * np.log(p) + (1 - y) * np.log(1 - p))
    np.testing.assert_allclose(binary_loss(log_p, log_not, label, positive_weight=3.0), weighed)
    soft = np.array([0.95, 0.95, 0.05])
    smoothed = -(soft * np.log(p) + (1 - soft) * np.log(1 - p))
    np.testing.assert_allclose(binary_loss(log_p, log_not, label, smoothing=0.1), smoothed)
    right = np.array([0.9, 0.3, 0.8])  # the probability of what happened
    np.testing.assert_allclose(binary_loss(log_p, log_not, label, focusing=2.0), -((1 - right) ** 2) * np.log(right))


def test_negatives_left_out_leave_predictions_calibrated() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, 200_000)
    clicked = rng.random(len(x)) < np.array([0.02, 0.1, 0.4])[x]
    kept = clicked | (rng.random(len(x)) < 0.1)
    loss = ObjectiveLoss(("binary",), (-1,), negatives=[0.1])
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    rows, labels = torch.from_numpy(x[kept]), torch.from_numpy(clicked[kept]).double()
    fit(lambda: loss(logits[rows][:, None], labels[:, None])[0].sum() / len(rows), [logits])
    everyone = [clicked[x == k].mean() for k in range(3)]
    np.testing.assert_allclose(logits.detach().sigmoid(), everyone, rtol=0.06)
    assert unsampled_rates([clicked[kept].mean(), 0.3], [0.1, 1.0]) == pytest.approx([clicked.mean(), 0.3], rel=0.02)


def fit(objective: Any, parameters: list[torch.Tensor]) -> None:
    optimizer = torch.optim.LBFGS(parameters, max_iter=100, line_search_fn="strong_wolfe", tolerance_change=1e-12)

    def closure() -> float:
        optimizer.zero_grad()
        loss = objective()
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)


def test_inverse_propensities_weigh_the_conditional_loss_of_clicked_rows() -> None:
    rng = np.random.default_rng(1)
    logits = torch.from_numpy(rng.normal(size=(300, 2)))
    clicked = rng.random(300) < 0.4
    bought = clicked & (rng.random(300) < 0.5)
    labels = torch.from_numpy(np.column_stack([clicked, bought]).astype(float))
    flat: Any = {"estimators": ["esmm", "ipw"], "propensity_floors": [0.3] * 2, "entire_space_weights": [0.25] * 2}
    sums, counts = ObjectiveLoss(*TWO, **flat)(logits, labels)
    p, q = 1 / (1 + np.exp(-logits.numpy().T))
    conditional = np.where(bought, -np.log(q), -np.log(1 - q))
    joint = np.where(bought, -np.log(p * q), -np.log(1 - p * q))
    weights = 1 / np.maximum(p[clicked], 0.3)
    expected = (conditional[clicked] * weights / weights.mean()).sum() + 0.25 * joint.sum()
    assert sums[1].item() == pytest.approx(expected, rel=1e-5)
    assert counts.tolist() == [300, 300]


def test_propensities_get_no_gradient_from_what_they_weigh() -> None:
    logits = torch.randn(50, 2, requires_grad=True)
    labels = torch.ones(50, 2)
    ObjectiveLoss(*TWO, estimators=["esmm", "ipw"], entire_space_weights=[0, 0])(logits, labels)[0][1].backward()
    assert logits.grad is not None
    assert logits.grad[:, 0].abs().max() == 0
    assert logits.grad[:, 1].abs().min() > 0


def test_the_doubly_robust_loss_adds_what_is_imputed_and_corrects_it_where_clicked() -> None:
    rng = np.random.default_rng(2)
    logits, hidden = torch.from_numpy(rng.normal(size=(200, 2))), torch.from_numpy(rng.normal(size=(2, 200, 3)))
    clicked = rng.random(200) < 0.4
    bought = clicked & (rng.random(200) < 0.5)
    labels = torch.from_numpy(np.column_stack([clicked, bought]).astype(float))
    loss = ObjectiveLoss(*TWO, estimators=["esmm", "dr"], entire_space_weights=[0, 0], hidden=3, base_rates=[0.5, 0.2])
    assert loss.imputation is not None
    with torch.no_grad():
        loss.imputation.weights.copy_(torch.tensor([[0.5, -0.2, 0.1]]))
    total = loss(logits, labels, hidden)[0][1].item()
    p, q = 1 / (1 + np.exp(-logits.numpy().T))
    imputed = 1 / (1 + np.exp(-(hidden[1].numpy() @ [0.5, -0.2, 0.1] + math.log(0.2 / 0.8))))
    cross_entropy = -(imputed * np.log(q) + (1 - imputed) * np.log(1 - q))
    error = np.where(bought, -np.log(q), -np.log(1 - q)) - cross_entropy
    weights = clicked / np.maximum(p, 0.05)
    fit_of_tower = np.where(bought, -np.log(imputed), -np.log(1 - imputed))
    assert total == pytest.approx(
        (cross_entropy + weights * (error + fit_of_tower)).sum() * clicked.sum() / weights.sum(), rel=1e-5
    )


def test_a_doubly_robust_loss_is_right_where_propensities_are_wrong_and_imputations_right() -> None:
    # click and conversion both depend on x; the model has one logit for all x and must find the mean conversion
    rng = np.random.default_rng(3)
    x = rng.random(100_000) < 0.5
    clicked = rng.random(len(x)) < np.where(x, 0.8, 0.2)
    bought = clicked & (rng.random(len(x)) < np.where(x, 0.1, 0.6))
    labels = torch.from_numpy(np.column_stack([clicked, bought]).astype(np.float32))
    found = {}
    for estimator in ("ipw", "dr"):
        for propensity in ("right", "wrong"):
            own = np.where(x, 0.8, 0.2) if propensity == "right" else np.full(len(x), 0.5)
            click = torch.logit(torch.from_numpy(own.astype(np.float32)))
            loss = ObjectiveLoss(
                *TWO, estimators=["esmm", estimator], entire_space_weights=[0, 0], base_rates=[0.5, 0.6]
            )
            if loss.imputation is not None:
                with torch.no_grad():  # logit 0.6 where x is 0, logit 0.1 where it is 1
                    loss.imputation.weights.fill_(math.log(0.1 / 0.9) - math.log(0.6 / 0.4))
                loss.requires_grad_(False)
            hidden = torch.from_numpy(x.astype(np.float32)).view(1, -1, 1).expand(2, -1, 1)
            # the logit does not descend the loss of the imputation: its gradient is followed, not the value
            low, high = -3.0, 3.0
            for _ in range(12):
                logit = torch.tensor((low + high) / 2, requires_grad=True)
                loss(torch.stack([click, logit.expand(len(click))], 1), labels, hidden)[0][1].backward()
                assert logit.grad is not None
                low, high = (low, logit.item()) if logit.grad > 0 else (logit.item(), high)
            found[estimator, propensity] = logit.sigmoid().item()
    assert found["ipw", "right"] == pytest.approx(0.35, abs=0.01)
    assert found["ipw", "wrong"] == pytest.approx(0.2, abs=0.01)  # the rate among clicks: (.4 · .1 + .1 · .6) / .5
    assert found["dr", "right"] == pytest.approx(0.35, abs=0.01)
    assert found["dr", "wrong"] == pytest.approx(0.35, abs=0.01)


def test_an_entire_space_objective_pays_for_being_likelier_than_its_parent() -> None:
    logits, labels = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    loss = ObjectiveLoss(*TWO, estimators=["esmm", "entire_space"], entire_space_weights=[0, 2])
    p, q = 1 / (1 + np.exp(-logits.numpy().T.astype(float)))
    expected = -np.log(1 - q[0]) - np.log(q[1]) + 2 * (q[0] - p[0])
    assert loss(logits, labels)[0][1].item() == pytest.approx(expected, rel=1e-5)


def test_the_zero_inflated_lognormal_finds_share_mean_and_deviation() -> None:
    rng = np.random.default_rng(4)
    values = torch.from_numpy(np.where(rng.random(50_000) < 0.3, 0, rng.lognormal(2, 0.7, 50_000)))
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    fit(lambda: ziln_loss(logits[0].expand(len(values)), logits[1], logits[2], values).mean(), [logits])
    logs = values[values > 0].log()
    found = [logits[0].sigmoid().item(), logits[1].item(), F.softplus(logits[2]).item()]
    assert found == pytest.approx([len(logs) / len(values), logs.mean().item(), logs.std().item()], rel=1e-3)
    normal = torch.distributions.LogNormal(2.0, math.log1p(math.e))
    one = ziln_loss(*(torch.tensor([x]) for x in (0.4, 2.0, 1.0)), torch.tensor([5.0]))
    assert one.item() == pytest.approx(math.log1p(math.exp(-0.4)) - normal.log_prob(torch.tensor(5.0)).item(), rel=1e-5)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_the_quantile_loss_finds_the_quantile_of_the_value(quantile: float) -> None:
    values = torch.from_numpy(np.random.default_rng(5).lognormal(2, 1, 20_001))
    grid = torch.linspace(-1, 6, 3_501, dtype=torch.float64)
    losses = [quantile_loss(m, values, quantile).mean().item() for m in grid]
    found = grid[int(np.argmin(losses))].exp().item()
    assert found == pytest.approx(np.quantile(values, quantile), rel=0.01)


def test_the_squared_log_loss_is_that_of_logs_of_one_more() -> None:
    losses = squared_log_loss(torch.tensor([math.log(3.0), -50.0]), torch.tensor([7.0, 0.0]))
    torch.testing.assert_close(losses, torch.tensor([math.log(2) ** 2, 0.0]))


def test_values_have_the_loss_that_they_name() -> None:
    values = [0.0, 4.0]
    labels = torch.tensor(values)[:, None]
    m = 0.8
    found = {
        name: ObjectiveLoss(("value",), (-1,), value_losses=[name], quantiles=[0.9])(
            torch.tensor([[m, 1.0, 0.2][: 3 if name == "ziln" else 1]] * 2), labels
        )[0].item()
        for name in ("gamma", "squared_log", "quantile", "ziln")
    }
    above = [math.log1p(v) - math.log1p(math.exp(m)) for v in values]
    deviation = math.log1p(math.exp(0.2))
    normal = 0.5 * ((math.log(4) - 1) / deviation) ** 2 + math.log(4 * deviation * math.sqrt(2 * math.pi))
    expected = {
        "gamma": sum(v * math.exp(-m) + m for v in values),
        "squared_log": sum(a**2 for a in above),
        "quantile": sum(max(0.9 * a, -0.1 * a) for a in above),
        "ziln": math.log1p(math.exp(m)) + math.log1p(math.exp(-m)) + normal,
    }
    assert found == pytest.approx(expected, rel=1e-5)


def test_positions_add_to_the_logits_of_what_is_seen_first_and_sum_to_nothing() -> None:
    tower = PositionTower(1, positions=3)
    with torch.no_grad():
        tower.logits.copy_(torch.tensor([[0.9], [0.3], [-0.6]]))
    added = tower(torch.tensor([1.0, 2.0, 3.0, 7.0, float("nan")]))
    torch.testing.assert_close(added[:, 0], torch.tensor([0.9, 0.3, -0.6, -0.6, 0.0]))
    assert tower(torch.tensor([1.0, 1.0, 2.0]))[:, 0].tolist() == pytest.approx([0.2, 0.2, -0.4])


def test_a_position_tower_finds_what_positions_cost() -> None:
    # the better half is shown first: without positions its advantage looks larger than it is
    rng = np.random.default_rng(6)
    good = rng.random(200_000) < 0.5
    position = np.where(rng.random(len(good)) < 0.8, np.where(good, 1, 2), np.where(good, 2, 1))
    odds = -1.0 + 0.5 * good - 1.0 * (position == 2)
    labels = torch.from_numpy((rng.random(len(good)) < 1 / (1 + np.exp(-odds))).astype(np.float32))[:, None]
    rows, places = torch.from_numpy(good.astype(int)), torch.from_numpy(position.astype(np.float32))
    found = {}
    for positions in (False, True):
        loss = ObjectiveLoss(("binary",), (-1,), positions=positions)
        logits = torch.zeros(2, requires_grad=True)

        def objective(loss: Any = loss, logits: torch.Tensor = logits) -> torch.Tensor:
            total: torch.Tensor = loss(logits[rows][:, None], labels, None, places)[0][0] / len(labels)
            return total

        fit(objective, [logits, *loss.parameters()])
        found[positions] = (logits[1] - logits[0]).item()
    assert found[True] == pytest.approx(0.5, abs=0.04)
    assert found[False] > 0.9


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"positive_weights": [0.0]}, r"positive_weights must be above 0; got 0\.0"),
        ({"smoothings": [1.5]}, r"smoothings must be at least 0 and at most 1; got 1\.5"),
        ({"focusings": [-1.0]}, r"focusings must be at least 0; got -1\.0"),
        ({"focusings": [float("inf")]}, "focusings must be at least 0; got inf"),
        ({"negatives": [0.0]}, r"negatives must be above 0 and at most 1; got 0\.0"),
        ({"quantiles": [float("nan")]}, "quantiles must be above 0 and at most 1; got nan"),
        ({"propensity_floors": [2.0]}, r"propensity_floors must be above 0 and at most 1; got 2\.0"),
        ({"entire_space_weights": [1.0, 1.0]}, "entire_space_weights must have one number per objective; got 2 for 1"),
    ],
)
def test_numbers_out_of_their_range_are_refused(told: dict[str, list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ObjectiveLoss(("binary",), (-1,), **told)  # type: ignore[arg-type]
