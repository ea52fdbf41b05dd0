import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.ranker import Ranker, load_ranker, save_ranker

KINDS = ("binary", "binary", "value")
PARENTS = (-1, 0, 1)


def small_ranker(**options: Any) -> Ranker:
    torch.manual_seed(0)
    flat: dict[str, Any] = {
        "embedding": 4,
        "experts": 2,
        "expert_widths": (8, 6),
        "tower_widths": (5,),
        "cross_rank": 3,
        **options,
    }
    return Ranker([7, 9, 5], [1, 3, 1], 2, KINDS, PARENTS, **flat).eval()


def rows(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    categorical = np.stack([rng.integers(0, high, count) for high in (7, 9, 9, 9, 5)], 1).astype(np.int32)
    return torch.from_numpy(categorical), torch.from_numpy(rng.normal(size=(count, 2)).astype(np.float32))


def test_predictions_start_at_the_base_rates() -> None:
    ranker = small_ranker(base_rates=(0.2, 0.1, 30.0))
    torch.nn.init.zeros_(ranker.heads.weight)
    expected = torch.tensor([[0.2, 0.02, 0.6]]).repeat(4, 1)
    torch.testing.assert_close(ranker(*rows(4)), expected)


def test_rows_do_not_influence_each_other() -> None:
    ranker = small_ranker()
    categorical, continuous = rows(50)
    alone = torch.cat([ranker(categorical[i : i + 1], continuous[i : i + 1]) for i in range(50)])
    torch.testing.assert_close(ranker(categorical, continuous), alone)


def test_ids_of_either_integer_type_give_the_same_predictions() -> None:
    ranker = small_ranker()
    categorical, continuous = rows(20)
    assert torch.equal(ranker(categorical, continuous), ranker(categorical.long(), continuous))


def test_units_of_a_continuous_feature_do_not_matter_once_its_statistics_are_given() -> None:
    categorical, continuous = rows(20)
    in_units = small_ranker(continuous_means=[0.0, 0.0], continuous_scales=[1.0, 1.0])
    in_cents = small_ranker(continuous_means=[500.0, 0.0], continuous_scales=[100.0, 1.0])
    moved = continuous * torch.tensor([100.0, 1.0]) + torch.tensor([500.0, 0.0])
    torch.testing.assert_close(in_units(categorical, continuous), in_cents(categorical, moved), rtol=1e-4, atol=1e-6)


def test_a_saved_ranker_predicts_the_same(tmp_path: Path) -> None:
    ranker = small_ranker(slot_embeddings=(None, 3, None), base_rates=(0.3, 0.2, 9.0), continuous_means=(1.0, 2.0))
    save_ranker(ranker, tmp_path / "ranker")
    assert sorted(path.name for path in (tmp_path / "ranker").iterdir()) == ["ranker.json", "weights.safetensors"]
    assert json.loads((tmp_path / "ranker" / "ranker.json").read_text())["slot_embeddings"] == [None, 3, None]
    assert torch.equal(load_ranker(tmp_path / "ranker")(*rows(30)), ranker(*rows(30)))


def test_a_ranker_without_slots_predicts_from_continuous_features() -> None:
    ranker = Ranker([], [], 3, ["binary"], [-1]).eval()
    continuous = torch.randn(5, 3)
    predictions = ranker(torch.zeros(5, 0, dtype=torch.int32), continuous)
    assert len(set(predictions.flatten().tolist())) == 5


def test_a_ranker_without_features_is_refused() -> None:
    with pytest.raises(ValueError, match="cardinalities must name a slot where there is no continuous feature"):
        Ranker([], [], 0, ["binary"], [-1])
