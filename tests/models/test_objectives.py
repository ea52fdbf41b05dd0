import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.objectives import ObjectiveChain, check_objectives, constant_logits, gamma_loss

KINDS = ("binary", "binary", "value", "binary")
PARENTS = (-1, 0, 1, -1)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_predictions_are_products_along_the_chain() -> None:
    predictions = ObjectiveChain(KINDS, PARENTS)(torch.tensor([[0.3, -1.2, 2.5, 0.7]]))
    click, purchase = sigmoid(0.3), sigmoid(0.3) * sigmoid(-1.2)
    expected = torch.tensor([[click, purchase, purchase * math.exp(2.5), sigmoid(0.7)]])
    torch.testing.assert_close(predictions, expected)


def test_a_parent_may_come_after_its_child() -> None:
    logits = torch.randn(5, 3)
    forward = ObjectiveChain(("binary", "binary", "value"), (-1, 0, 1))
    backward = ObjectiveChain(("value", "binary", "binary"), (1, 2, -1))
    torch.testing.assert_close(forward(logits), backward(logits.flip(1)).flip(1))
    labels = torch.tensor([[1.0, 1.0, 7.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(
        forward.loss_sums(logits, labels)[0], backward.loss_sums(logits.flip(1), labels.flip(1))[0].flip(0)
    )


def test_a_value_without_a_parent_is_its_own_expectation() -> None:
    predictions = ObjectiveChain(("value",), (-1,))(torch.tensor([[math.log(12.5)]]))
    assert predictions.item() == pytest.approx(12.5)


def test_extreme_logits_give_finite_predictions_and_gradients() -> None:
    chain = ObjectiveChain(KINDS, PARENTS)
    logits = torch.tensor([[1e4] * 4, [-1e4] * 4, [1e4, -1e4, 1e4, 0.0]], requires_grad=True)
    assert torch.isfinite(chain(logits)).all()
    labels = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 5.0, 1.0], [1.0, 1.0, 5.0, 1.0]])
    sums, _ = chain.loss_sums(logits, labels)
    sums.sum().backward()
    assert torch.isfinite(sums).all()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_a_root_is_trained_by_plain_cross_entropy() -> None:
    logits, labels = torch.randn(50, 1), (torch.rand(50, 1) < 0.3).float()
    sums, counts = ObjectiveChain(("binary",), (-1,)).loss_sums(logits, labels)
    expected = F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    torch.testing.assert_close(sums[0], expected)
    assert counts.tolist() == [50]


def test_a_chained_objective_is_trained_on_its_product_over_every_row() -> None:
    logits = torch.randn(200, 2, dtype=torch.float64)
    labels = (torch.rand(200, 2) < 0.4).double()
    sums, counts = ObjectiveChain(("binary", "binary"), (-1, 0)).loss_sums(logits, labels)
    p = 1 / (1 + np.exp(-logits.numpy()))
    joint, y = p[:, 0] * p[:, 1], labels.numpy()[:, 1]
    expected = -(y * np.log(joint) + (1 - y) * np.log(1 - joint)).sum()
    assert sums[1].item() == pytest.approx(expected, rel=1e-5)
    assert counts.tolist() == [200, 200]


def test_a_value_is_trained_where_its_parent_happened() -> None:
    logits = torch.tensor([[0.0, 1.5], [0.0, -2.0], [0.0, 0.5]])
    labels = torch.tensor([[1.0, 4.0], [0.0, 9.0], [1.0, 0.0]])
    sums, counts = ObjectiveChain(("binary", "value"), (-1, 0)).loss_sums(logits, labels)
    assert sums[1].item() == pytest.approx(4 * math.exp(-1.5) + 1.5 + 0.5)
    assert counts.tolist() == [3, 2]


def test_unknown_labels_do_not_count() -> None:
    chain = ObjectiveChain(KINDS, PARENTS)
    logits = torch.randn(6, 4)
    labels = torch.tensor([[1.0, 1.0, 3.0, 1.0]]).repeat(6, 1)
    unknown = labels.clone()
    unknown[3:, 1:] = float("nan")
    sums, counts = chain.loss_sums(logits, unknown)
    assert counts.tolist() == [6, 3, 3, 3]
    torch.testing.assert_close(sums[1:], chain.loss_sums(logits[:3], labels[:3])[0][1:])
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


def test_constant_logits_predict_the_base_rates() -> None:
    logits = constant_logits(("binary", "binary", "value"), (0.2, 0.05, 40.0))
    predictions = ObjectiveChain(("binary", "binary", "value"), (-1, 0, 1))(logits[None])
    torch.testing.assert_close(predictions, torch.tensor([[0.2, 0.01, 0.4]]))
    assert torch.isfinite(constant_logits(("binary", "value"), (1.0, 0.0))).all()


@pytest.mark.parametrize(
    ("kinds", "parents", "message"),
    [
        (("binary",), (-1, 0), "parents must name one parent per objective; got 2 for 1 kinds"),
        ((), (), "parents must name one parent per objective; got 0 for 0 kinds"),
        (("ordinal",), (-1,), "objective_kinds must be binary or value; got 'ordinal'"),
        (("binary", "binary"), (-1, 2), "parents must be -1 or an objective's index; got 2"),
        (("value", "binary"), (-1, 0), "parents must be binary objectives; got objective 0, a value"),
        (("binary", "binary"), (1, 0), r"parents must form no cycle; got \[1, 0\]"),
        (("binary", "binary", "binary"), (1, 2, 1), r"parents must form no cycle; got \[1, 2, 1\]"),
    ],
)
def test_objectives_that_make_no_chain_are_refused(
    kinds: tuple[str, ...], parents: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_objectives(kinds, parents)
