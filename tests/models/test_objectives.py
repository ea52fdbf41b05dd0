import math

import pytest
import torch

from models.objectives import ObjectiveChain, check_objectives, constant_logits

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


def test_a_value_without_a_parent_is_its_own_expectation() -> None:
    predictions = ObjectiveChain(("value",), (-1,))(torch.tensor([[math.log(12.5)]]))
    assert predictions.item() == pytest.approx(12.5)


def test_extreme_logits_give_finite_predictions_and_gradients() -> None:
    chain = ObjectiveChain(KINDS, PARENTS)
    logits = torch.tensor([[1e4] * 4, [-1e4] * 4, [1e4, -1e4, 1e4, 0.0]], requires_grad=True)
    assert torch.isfinite(chain(logits)).all()
    chain(logits).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_constant_logits_predict_the_base_rates() -> None:
    logits = constant_logits(("binary", "binary", "value"), (0.2, 0.05, 40.0))
    predictions = ObjectiveChain(("binary", "binary", "value"), (-1, 0, 1))(logits[None])
    torch.testing.assert_close(predictions, torch.tensor([[0.2, 0.01, 0.4]]))
    assert torch.isfinite(constant_logits(("binary", "value"), (1.0, 0.0))).all()


def test_an_objective_on_the_entire_space_begins_a_chain_of_its_own() -> None:
    chain = ObjectiveChain(("binary", "binary", "value"), (-1, 0, 1), ("esmm", "entire_space", "esmm"))
    predictions = chain(torch.tensor([[0.3, -1.2, 2.5]]))
    expected = [[sigmoid(0.3), sigmoid(-1.2), sigmoid(-1.2) * math.exp(2.5)]]
    torch.testing.assert_close(predictions, torch.tensor(expected))


def test_a_zero_inflated_lognormal_value_is_predicted_from_three_logits() -> None:
    chain = ObjectiveChain(("value", "binary", "value"), (1, -1, -1), None, ("gamma", "gamma", "ziln"))
    assert chain.logits == 5
    assert chain.owners.tolist() == [0, 1, 2, 2, 2]
    predictions = chain(torch.tensor([[1.5, 0.3, -0.4, 2.0, 0.7]]))
    deviation = math.log1p(math.exp(0.7))
    mean = sigmoid(-0.4) * math.exp(2.0 + deviation**2 / 2)
    torch.testing.assert_close(predictions, torch.tensor([[sigmoid(0.3) * math.exp(1.5), sigmoid(0.3), mean]]))
    constant = constant_logits(("value", "binary", "value"), (3.0, 0.2, 40.0), ("gamma", "gamma", "ziln"))
    torch.testing.assert_close(chain(constant[None]), torch.tensor([[0.6, 0.2, 40.0]]))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            {"estimators": ("ips",)},
            r"estimators must name one of esmm, ipw, dr, entire_space per objective; got \['ips'\]",
        ),
        ({"value_losses": ("gamma", "mse")}, "value_losses must name one of gamma, ziln, squared_log, quantile per"),
    ],
)
def test_unknown_ways_to_learn_are_refused(choice: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ObjectiveChain(("binary",), (-1,), **choice)


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
