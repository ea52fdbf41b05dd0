from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from models.balancing import (
    BALANCINGS,
    SURGERIES,
    Balance,
    cosines,
    dynamic_weights,
    gradnorm_weights,
    gramian,
    scale_gradient,
    uncertainty_loss,
)
from models.learner import Learner
from models.objective_losses import ObjectiveLoss
from models.ranker import Ranker
from tests.models.test_training import fit, same_weights, write_shop

GRADIENTS = torch.tensor([[1.0, 0.0, 0.0], [-0.5, 1.0, 0.0], [0.2, -0.1, 3.0]])
GRAMIAN = GRADIENTS @ GRADIENTS.T
STILL: dict[str, Any] = {"dropout": 0.0, "embedding_dropout": 0.0}


class NoRows:
    """What a learner needs of its source to take a step by hand."""

    def batches(self, batch_rows: int) -> int:
        return 1


def learner_of(ranker: Ranker, loss: ObjectiveLoss, **changes: Any) -> Learner:
    flat: dict[str, Any] = {"epochs": 1, "batch_rows": 8, "lr": 1e-3, "warmup": 0.0, "weight_decay": 0.0}
    flat |= {"embedding_decay": 0.0, "loss_weights": [1.0] * len(loss.kinds), "mask_rates": [0.0], "seed": 0}
    module = Learner(ranker, loss, NoRows(), None, **(flat | changes))  # type: ignore[arg-type]
    module._trainer = SimpleNamespace(world_size=1, global_rank=0)  # type: ignore[assignment]
    return module


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def weights_of(balancing: str, gramian: Tensor = GRAMIAN) -> Tensor:
    balance = Balance(balancing, len(gramian))
    torch.manual_seed(0)
    balance.read_gradients(gramian, None)
    return balance.weights


def test_fixed_weights_leave_the_sum_of_the_losses() -> None:
    assert Balance("fixed", 3).total(torch.tensor([1.0, 2.0, 4.0])).item() == 7


def test_uncertainty_is_least_where_the_variance_is_twice_the_loss() -> None:
    losses, s = torch.tensor([0.5, 2.0]), torch.zeros(2, requires_grad=True)
    assert uncertainty_loss(losses, s.detach()).item() == 2.5
    optimizer = torch.optim.SGD([s], lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        uncertainty_loss(losses, s).backward()
        optimizer.step()
    np.testing.assert_allclose(s.exp().detach(), 2 * losses, rtol=1e-4)  # d/ds (e^-s L + s/2) = 0


def test_the_dynamic_average_follows_how_slowly_each_loss_falls() -> None:
    weights = dynamic_weights(torch.tensor([1.0, 1.0]), torch.tensor([0.5, 1.0]), temperature=2.0)
    ratios = np.exp(np.array([0.25, 0.5]))
    np.testing.assert_allclose(weights, 2 * ratios / ratios.sum(), rtol=1e-6)


def test_the_dynamic_average_begins_with_equal_weights_in_the_third_epoch() -> None:
    balance = Balance("dwa", 2)
    for levels, expected in (([1.0, 1.0], [1.0, 1.0]), ([0.5, 1.0], np.exp([0.25, 0.5]) / np.exp([0.25, 0.5]).mean())):
        balance.end_epoch(torch.tensor(levels))
        np.testing.assert_allclose(balance.weights, expected, rtol=1e-6)


def test_gradnorm_makes_gradients_of_equal_progress_equally_long() -> None:
    weights, norms = torch.ones(3), torch.tensor([1.0, 2.0, 4.0])
    for _ in range(2_000):
        weights = gradnorm_weights(weights, norms, torch.ones(3), rate=0.002)
    products = weights * norms
    np.testing.assert_allclose(products / products.mean(), [1, 1, 1], atol=0.03)
    assert weights.sum().item() == pytest.approx(3)


def test_gradnorm_gives_what_learns_slowly_longer_gradients() -> None:
    weights, levels = torch.ones(2), torch.tensor([0.5, 1.0])
    for _ in range(2_000):
        weights = gradnorm_weights(weights, torch.ones(2), levels, strength=1.0, rate=0.002)
    np.testing.assert_allclose(weights, [2 / 3, 4 / 3], atol=0.02)  # as 0.5 to 1


def test_gradnorm_takes_an_objective_without_rows_for_an_average_one() -> None:
    known = gradnorm_weights(torch.ones(2), torch.tensor([1.0, 2.0]), torch.tensor([0.8, 0.8]))
    unknown = gradnorm_weights(torch.ones(2), torch.tensor([1.0, 2.0]), torch.tensor([0.8, torch.nan]))
    torch.testing.assert_close(known, unknown)


def test_pcgrad_takes_away_what_another_gradient_undoes() -> None:
    pair = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    step = weights_of("pcgrad", pair @ pair.T) @ pair
    first = pair[0] - (pair[0] @ pair[1]) / (pair[1] @ pair[1]) * pair[1]
    second = pair[1] - (pair[1] @ pair[0]) / (pair[0] @ pair[0]) * pair[0]
    torch.testing.assert_close(step, first + second)


def test_mgda_finds_the_shortest_of_the_convex_combinations() -> None:
    step = weights_of("mgda") @ GRADIENTS
    found = minimize(
        lambda w: float(((w @ GRADIENTS.numpy()) ** 2).sum()),
        np.full(3, 1 / 3),
        bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
    )
    assert step.square().sum().item() == pytest.approx(found.fun, rel=1e-2)


def test_cagrad_maximises_the_least_improvement_near_the_mean() -> None:
    step, mean = (weights_of("cagrad") @ GRADIENTS).numpy().astype(float), GRADIENTS.mean(0).numpy().astype(float)
    radius = 0.5 * np.linalg.norm(mean)
    assert np.linalg.norm(step - mean) <= radius * 1.001
    rng = np.random.default_rng(0)
    others = rng.normal(size=(20_000, 3))
    others = mean + radius * others / np.linalg.norm(others, axis=1, keepdims=True)
    best = (others @ GRADIENTS.numpy().T).min(1).max()
    assert (GRADIENTS.numpy() @ step).min() >= best - 1e-3


def test_the_bargain_of_nash_improves_each_by_the_inverse_of_its_weight() -> None:
    weights = weights_of("nash")
    products = weights * (GRAMIAN @ weights)
    np.testing.assert_allclose(products / products.mean(), [1, 1, 1], rtol=1e-2)


def test_aligned_gradients_are_orthogonal_and_equally_long() -> None:
    weights = weights_of("aligned")
    left, singular, right = np.linalg.svd(GRADIENTS.numpy())
    aligned = singular.min() * left @ right  # nearest to the gradients, with one singular value
    np.testing.assert_allclose(weights @ GRADIENTS, aligned.mean(0), rtol=1e-3)


@pytest.mark.parametrize("balancing", ["pcgrad", "mgda", "cagrad", "aligned"])
def test_an_objective_without_a_gradient_leaves_the_others_as_they_are(balancing: str) -> None:
    padded = torch.zeros(4, 4)
    padded[:3, :3] = GRAMIAN
    np.testing.assert_allclose(weights_of(balancing, padded)[:3], weights_of(balancing), rtol=1e-5)
    assert weights_of(balancing, torch.zeros(3, 3)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("balancing", ["mgda", "cagrad", "aligned", "pcgrad"])
def test_weights_do_not_depend_on_how_long_all_gradients_are(balancing: str) -> None:
    np.testing.assert_allclose(weights_of(balancing, GRAMIAN * 1e-8), weights_of(balancing), rtol=1e-3)


def test_an_unknown_balancing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"balancing must be one of fixed, uncertainty, dwa.*; got 'luck'"):
        Balance("luck", 2)


def test_a_balancing_of_gradients_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchjd", None)
    with pytest.raises(ImportError, match=r"balancing must have torchjd installed for mgda; got none: .*\[balancing\]"):
        Balance("mgda", 2)


@pytest.mark.parametrize("sparse", [False, True])
def test_the_gramian_has_the_inner_products_of_the_gradients(sparse: bool) -> None:
    torch.manual_seed(0)
    table, layer, unused = nn.Embedding(5, 3, sparse=sparse), nn.Linear(3, 2), nn.Parameter(torch.ones(1))
    y = layer(table(torch.tensor([1, 4, 1])))
    losses = [y[:, 0].square().sum(), y[:, 1].sum(), layer.bias.sum()]
    parameters = [table.weight, *layer.parameters(), unused]
    found = gramian(losses, parameters)
    rows = []
    for loss in losses:
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        dense = [torch.zeros_like(p) if g is None else g.to_dense() for p, g in zip(parameters, gradients, strict=True)]
        rows.append(torch.cat([g.flatten() for g in dense]))
    torch.testing.assert_close(found, torch.stack(rows) @ torch.stack(rows).T)


def test_cosines_are_those_of_the_angles() -> None:
    pair = torch.tensor([[2.0, 0.0], [3.0, 3.0], [0.0, 0.0]])
    found = cosines(pair @ pair.T)
    assert found[0, 1].item() == pytest.approx(0.5**0.5)
    assert found[:, 2].isnan().all()


def test_a_scaled_gradient_leaves_the_value() -> None:
    x = torch.tensor([3.0], requires_grad=True)
    y = scale_gradient(x, torch.tensor(0.25))
    (5 * y).backward()
    assert y.item() == 3
    assert x.grad is not None
    assert x.grad.item() == 1.25


@pytest.mark.parametrize("balancing", SURGERIES)
def test_shared_layers_take_the_weighed_step_and_towers_their_own(balancing: str) -> None:
    torch.manual_seed(0)
    kinds, parents = ["binary", "binary"], [-1, -1]
    ranker = Ranker([9, 9], [1, 1], 1, kinds, parents, tower_widths=[4], base_rates=[0.5, 0.5], **STILL)
    module = learner_of(ranker, ObjectiveLoss(kinds, parents), balancing=balancing, mask_rates=[0.0, 0.0])
    ids, numbers = torch.randint(4, 9, (32, 2)), torch.randn(32, 1)
    labels = torch.randint(0, 2, (32, 1)).float()
    labels = torch.cat([labels, 1 - labels], 1)
    with torch.no_grad():
        for parameter in (*ranker.towers.parameters(), *ranker.heads.parameters()):
            parameter[1] = parameter[0]  # so that opposite labels conflict
            parameter.add_(0.1)
    losses = module.loss(ranker.logits(ids, numbers), labels)[0] / 32
    named = dict(ranker.named_parameters())
    gradients = [torch.autograd.grad(loss, list(named.values()), retain_graph=True) for loss in losses]
    torch.manual_seed(0)
    total, _ = module.step_loss(ids, numbers, labels, None, 32)
    total.backward()  # type: ignore[no-untyped-call]
    weights = module.balance.weights
    assert (weights != 1).any()
    for (name, parameter), first, second in zip(named.items(), *gradients, strict=True):
        own = name.startswith(("towers.", "heads."))
        expected = first + second if own else weights[0] * first + weights[1] * second
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("balancing", BALANCINGS[1:])
def test_a_balanced_training_learns_and_resumes_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, balancing: str
) -> None:
    write_shop(tmp_path / "train", 2_000, seed=1)
    write_shop(tmp_path / "validation", 1_000, seed=2)
    changes: dict[str, Any] = {"balancing": balancing, "epochs": 4, "lr": 2e-2}
    undisturbed = fit(tmp_path, tmp_path / "undisturbed", **changes)
    assert undisturbed.history[-1]["val_0"] < 0.97
    step, steps = Learner.training_step, []

    def fail_in_the_fourth_epoch(self: Learner, batch: Any, batch_idx: int) -> None:
        steps.append(batch_idx)
        if len(steps) == 28:
            raise InterruptedError
        step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "training_step", fail_in_the_fourth_epoch)
        with pytest.raises(InterruptedError):
            fit(tmp_path, tmp_path / "cut", **changes)
    resumed = fit(tmp_path, tmp_path / "cut", resume=True, **changes)
    assert resumed.history == undisturbed.history
    assert same_weights(resumed.ranker, undisturbed.ranker)


def test_the_history_tells_how_much_objectives_agree(tmp_path: Path) -> None:
    for side in ("train", "validation"):
        write_shop(tmp_path / side, 2_000, seed=1)
    trained = fit(tmp_path, tmp_path / "out", epochs=2, names=("click", "purchase", "revenue"))
    for epoch in trained.history:
        assert set(epoch["gradient_cosines"]) == {"click|purchase", "click|revenue", "purchase|revenue"}
        assert epoch["gradient_cosines"]["click|purchase"] > 0  # a purchase is a click


def test_telling_how_much_they_agree_does_not_disturb_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for side in ("train", "validation"):
        write_shop(tmp_path / side, 1_000, seed=1)
    told = fit(tmp_path, tmp_path / "told", epochs=1)
    monkeypatch.setattr(Learner, "_gradient_cosines", lambda *_: {})
    assert same_weights(told.ranker, fit(tmp_path, tmp_path / "untold", epochs=1).ranker)


def test_equal_objectives_agree_and_opposite_ones_conflict() -> None:
    kinds, parents = ["binary"] * 3, [-1] * 3
    ranker = Ranker([9], [1], 0, kinds, parents, base_rates=[0.5] * 3, **STILL)
    with torch.no_grad():
        ranker.heads.weight[1:] = ranker.heads.weight[:1]
        ranker.heads.bias.zero_()
    module = learner_of(ranker, ObjectiveLoss(kinds, parents), names=["click", "again", "not"])
    clicks = torch.tensor([1.0, 0.0, 1.0, 1.0]).unsqueeze(1)
    labels = torch.cat([clicks, clicks, 1 - clicks], 1)
    found = module._gradient_cosines(torch.tensor([[4], [5], [4], [6]]), torch.zeros(4, 0), labels, None)
    assert found["click|again"] == pytest.approx(1.0)
    assert found["click|not"] < -0.9
    assert found["again|not"] == pytest.approx(found["click|not"])
