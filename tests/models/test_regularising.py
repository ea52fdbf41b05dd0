import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.layers import FusedEmbedding
from models.learner import Learner
from models.objective_losses import ObjectiveLoss
from models.ranker import Ranker
from models.regularising import adversary, changed_vectors, drop_slots, mask_values, squared_length
from tests.models.test_balancing import learner_of
from tests.models.test_training import fit, write_shop


def test_only_values_of_vocabularies_are_masked_each_column_at_its_rate() -> None:
    ids = torch.tensor([[0, 5, 6], [1, 5, 6], [2, 5, 6], [3, 5, 6], [4, 5, 6], [8, 5, 6]]).repeat(2_000, 1)
    shown = mask_values(ids, torch.tensor([0.5, 0.0, 0.1]))
    changed = shown != ids
    assert (ids[changed] >= 4).all()
    assert (shown[changed] == 2).all()
    assert not changed[:, 1].any()
    assert changed[ids[:, 0] >= 4, 0].float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert changed[:, 2].float().mean().item() == pytest.approx(0.1, abs=0.02)


def test_a_slot_is_dropped_whole_and_the_mean_stays() -> None:
    torch.manual_seed(0)
    vectors = torch.ones(20_000, 5)
    dropped = drop_slots(vectors, [2, 3], 0.25)
    np.testing.assert_allclose(dropped.unique(), [0, 4 / 3], rtol=1e-6)
    assert torch.equal(dropped[:, 0], dropped[:, 1])
    assert torch.equal(dropped[:, 2], dropped[:, 4])
    assert not torch.equal(dropped[:, 0], dropped[:, 2])
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)


def test_the_adversary_changes_a_row_by_its_length_along_the_gradient() -> None:
    vectors, gradient = torch.tensor([[3.0, 4.0], [0.6, 0.8]]), torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    change = adversary(vectors, gradient, 0.1)
    np.testing.assert_allclose(change, [[0.0, 0.5], [0.1, 0.0]], rtol=1e-6)


def test_no_gradient_gives_no_change() -> None:
    assert adversary(torch.ones(2, 3), torch.zeros(2, 3), 1.0).abs().sum() == 0


def test_the_squared_length_teaches_only_the_rows_of_a_batch() -> None:
    embedding = FusedEmbedding([5, 4], [1, 1], [2, 2])
    squared_length(embedding(torch.tensor([[1, 0], [3, 0]]))).backward()
    weight = embedding.tables[0].weight
    expected = torch.zeros_like(weight)
    for row, times in ((1, 1), (3, 1), (5, 2)):  # slot 1 begins at row 5
        expected[row] = times * weight[row].detach() / 2  # the mean over two rows
    torch.testing.assert_close(weight.grad, expected)


def test_vectors_are_changed_only_as_long_as_the_context_lasts() -> None:
    layer = nn.Identity()
    with changed_vectors(layer, lambda x: x + 1):
        assert layer(torch.zeros(1)).item() == 1
    assert layer(torch.zeros(1)).item() == 0


def test_an_adversarial_step_descends_the_loss_and_that_of_changed_vectors() -> None:
    """One objective, logit w·v + b: the loss at v + ε |v| g / |g| is known in closed form."""
    torch.manual_seed(1)
    module = one_objective(adversarial=0.5)
    ids, none, labels = torch.tensor([[4], [5]]), torch.zeros(2, 0), torch.tensor([[1.0], [0.0]])
    total, _ = module.step_loss(ids, none, labels, None, 2)
    ranker = module.ranker.eval()
    vectors = ranker.embedding(ids).detach().requires_grad_()

    def loss(v: torch.Tensor) -> torch.Tensor:
        logits = ranker.logits_of(ranker.shared(ranker.cross(v)))
        return nn.functional.binary_cross_entropy_with_logits(logits, labels)

    (gradient,) = torch.autograd.grad(loss(vectors), vectors)
    changed = vectors + 0.5 * vectors.norm(dim=1, keepdim=True) * nn.functional.normalize(gradient, dim=1)
    assert loss(changed).item() > loss(vectors).item()
    assert total.item() == pytest.approx(loss(vectors).item() + loss(changed).item(), rel=1e-5)


def test_the_squared_length_counts_by_its_weight() -> None:
    ids, none, labels = torch.tensor([[4], [5]]), torch.zeros(2, 0), torch.tensor([[1.0], [0.0]])
    torch.manual_seed(1)
    plain = one_objective().step_loss(ids, none, labels, None, 2)[0]
    torch.manual_seed(1)
    module = one_objective(embedding_l2=3.0)
    length = (module.ranker.embedding.tables[0].weight[[4, 5]] ** 2).sum() / 4
    assert module.step_loss(ids, none, labels, None, 2)[0].item() == pytest.approx(
        (plain + 3 * length).item(), rel=1e-6
    )


def one_objective(**regularising: float) -> Learner:
    ranker = Ranker([9], [1], 0, ["binary"], [-1], base_rates=[0.5], embedding_dropout=0.0, dropout=0.0)
    return learner_of(ranker, ObjectiveLoss(["binary"], [-1]), **regularising)


@pytest.mark.parametrize(
    "regularising", [{"slot_dropout": 0.2}, {"embedding_l2": 0.01}, {"adversarial": 0.1}, {"mask_rate": 0.1}]
)
def test_a_regularised_training_learns(tmp_path: Path, regularising: dict[str, float]) -> None:
    write_shop(tmp_path / "train", 4_000, seed=1)
    write_shop(tmp_path / "validation", 2_000, seed=2)
    assert fit(tmp_path, tmp_path / "out", **regularising).history[-1]["val_0"] < 0.97


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("slot_dropout", 1.0, r"in \[0, 1\)"),
        ("mask_rate", -0.1, r"in \[0, 1\)"),
        ("unseen_rate", 1.5, r"in \[0, 1\)"),
        ("embedding_l2", -1.0, "at least 0"),
        ("adversarial", float("nan"), "at least 0"),
        ("lr", -1.0, "at least 0"),
        ("weight_decay", -0.1, "at least 0"),
        ("embedding_decay", -0.1, "at least 0"),
        ("averaging", -1.0, "at least 0"),
        ("warmup", 1.0, r"in \[0, 1\)"),
        ("seed", -1, "at least 0"),
        ("loss_weights", (1.0, 2.0), "3 numbers that are at least 0"),
        ("loss_weights", (1.0, 2.0, -1.0), "3 numbers that are at least 0"),
    ],
)
def test_impossible_numbers_are_refused(tmp_path: Path, name: str, value: Any, rule: str) -> None:
    write_shop(tmp_path / "train", 10, seed=1)
    with pytest.raises(ValueError, match=f"{name} must be {rule}; got {re.escape(str(value))}"):
        fit(tmp_path, tmp_path / "out", **{name: value})
