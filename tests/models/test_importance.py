import sys

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from models.importance import integrated_gradients, normalised_gini, permutation_importance, skills, vector_slots
from models.ranker import Ranker


def test_the_normalised_gini_of_a_binary_label_is_twice_the_auc_less_one() -> None:
    rng = np.random.default_rng(0)
    labels, scores = (rng.random(500) < 0.3).astype(float), rng.integers(0, 9, 500).astype(float)
    assert normalised_gini(labels, scores) == pytest.approx(2 * roc_auc_score(labels, scores) - 1)


def test_the_normalised_gini_of_values_is_one_where_the_order_is_theirs_and_minus_one_where_it_is_reversed() -> None:
    values = np.array([0.0, 3.0, 1.0, 10.0])
    assert normalised_gini(values, np.exp(values)) == pytest.approx(1.0)
    assert normalised_gini(values, -values) == pytest.approx(-1.0)
    assert normalised_gini(values, np.zeros(4)) == 0
    assert np.isnan(normalised_gini(np.ones(4), values))


def test_skills_are_of_the_rows_whose_label_is_known() -> None:
    labels = np.array([[0.0, np.nan], [1.0, np.nan], [np.nan, np.nan]])
    found = skills(labels, np.array([[0.1, 0.0], [0.2, 0.0], [0.0, 0.0]]))
    assert found[0] == 1
    assert np.isnan(found[1])


def test_a_ranker_that_uses_one_column_loses_all_of_its_skill_with_it_and_none_with_another() -> None:
    rng = np.random.default_rng(1)
    columns = {"used": rng.normal(size=3000), "idle": rng.normal(size=3000)}
    labels = (rng.random(3000) < 1 / (1 + np.exp(-2 * columns["used"]))).astype(float)[:, None]

    def predict(name: str | None, order: np.ndarray) -> np.ndarray:
        used = columns["used"][order] if name == "used" else columns["used"]
        return used[:, None]

    drops = permutation_importance(predict, list(columns), labels, repeats=4)
    whole = 2 * roc_auc_score(labels, columns["used"]) - 1
    assert drops["used"].shape == (4, 1)
    assert drops["used"].mean() == pytest.approx(whole, abs=0.04)
    assert (drops["idle"] == 0).all()


def ranker(**options: object) -> Ranker:
    """Return a ranker with all kinds of slots, whose weights are large enough to move something."""
    torch.manual_seed(0)
    # a history reads its target's rows, so it has as many ids
    made = Ranker([9, 9, 9], [1, 3, 1], 2, ["binary", "binary", "value"], [-1, 0, 1], **options).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def batch(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randint(0, 7, (rows, 5), generator=generator, dtype=torch.int32),
        torch.randn(rows, 2, generator=generator),
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"slot_embeddings": [2, 4, None]},
        {"histories": "attention", "history_targets": [-1, 0, -1], "slot_tables": [-1, 0, -1], "experts": 2},
    ],
)
@pytest.mark.parametrize("objective", [0, 2])
def test_integrated_gradients_add_up_to_the_difference_of_the_predictions(
    options: dict[str, object], objective: int
) -> None:
    made, rows, baselines = ranker(**options), batch(12, 1), batch(12, 2)
    found, missed = integrated_gradients(made, rows, baselines, objective=objective, steps=512)
    with torch.no_grad():
        at, before = made(*rows)[:, objective].double(), made(*baselines)[:, objective].double()
    moved = at.logit() - before.logit() if objective == 0 else at.log() - before.log()
    assert found.shape == (12, 3 + 2)
    assert found.sum(axis=1) == pytest.approx(moved.numpy(), abs=0.02)
    assert np.abs(missed).max() < 0.02
    assert np.abs(moved.numpy()).max() > 1


def test_a_feature_that_does_not_change_moves_nothing() -> None:
    rows, baselines = batch(6, 1), batch(6, 2)
    rows[0][:, 4] = baselines[0][:, 4]
    rows[1][:, 0] = baselines[1][:, 0]
    found, _ = integrated_gradients(ranker(), rows, baselines, objective=0)
    assert (found[:, 2] == 0).all()
    assert (found[:, 3] == 0).all()
    assert (np.abs(found[:, [0, 1, 4]]).max(axis=0) > 0).all()


def test_every_column_of_the_embedding_belongs_to_its_slot() -> None:
    assert vector_slots(ranker(embedding=2)).tolist() == [0, 0, 1, 1, 2, 2]
    assert vector_slots(ranker(slot_embeddings=[3, 1, 2])).tolist() == [1, 2, 2, 0, 0, 0]  # narrow tables come first
    options = {"histories": "attention", "history_targets": [-1, 0, -1], "embedding": 1}
    assert vector_slots(ranker(**options)).tolist() == [0, 1, 1, 1, 2]


def test_integrated_gradients_need_captum_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(RuntimeError, match="integrated_gradients must have captum installed; got none"):
        integrated_gradients(ranker(), batch(2, 1), batch(2, 2), objective=0)
