import numpy as np
import pytest
import torch

from models.ranker import Ranker
from models.side_towers import SIDES, SideTowers

KINDS, PARENTS = ("binary",), (-1,)


def test_each_side_reads_its_own_features_through_its_own_tower() -> None:
    torch.manual_seed(0)
    module = SideTowers(["item", "user", "item", "user", "user"], (4,))
    x = torch.randn(6, 5)
    w = {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}
    user = np.maximum(x.numpy()[:, [1, 3, 4]] @ w["towers.0.0.weight"].T + w["towers.0.0.bias"], 0)
    item = np.maximum(x.numpy()[:, [0, 2]] @ w["towers.1.0.weight"].T + w["towers.1.0.bias"], 0)
    assert module.outputs == 8
    np.testing.assert_allclose(module(x).detach().numpy(), np.hstack([user, item]), rtol=1e-5, atol=1e-6)


def test_a_side_is_known_wherever_its_slots_vector_stands() -> None:
    torch.manual_seed(0)
    # The wide vector of slot 0 stands behind those of slots 1 and 2, the encoded history of slot 1 behind all.
    ranker = Ranker(
        [7, 9, 9],
        [1, 3, 1],
        1,
        KINDS,
        PARENTS,
        slot_embeddings=(6, 4, 4),
        histories="attention",
        history_targets=(-1, 2, -1),
        side_towers=(5,),
        slot_sides=("context", "user", "item"),
        continuous_sides=("user",),
    ).eval()
    absent = towers_of(ranker, torch.ones(1, 5).int())
    changed = {}
    for slot, columns in enumerate(([0], [1, 2, 3], [4])):
        ids = torch.ones(1, 5, dtype=torch.int32)
        ids[:, columns] = 2
        moved = (towers_of(ranker, ids) != absent).any(1)
        changed[slot] = [side for side, did in zip(SIDES, moved.tolist(), strict=True) if did]
    # the target is read beside the user's history, too
    assert changed == {0: ["context"], 1: ["user"], 2: ["user", "item"]}


def towers_of(ranker: Ranker, ids: torch.Tensor) -> torch.Tensor:
    assert ranker.histories is not None
    assert ranker.sides is not None
    x = torch.cat([ranker.histories(ids, ranker.embedding(ids)), torch.zeros(1, 1)], 1)
    y: torch.Tensor = ranker.sides(x).view(len(SIDES), 5)
    return y


@pytest.mark.parametrize("sides", [("user",), ("user", "shop")])
def test_sides_that_are_none_are_refused(sides: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="slot_sides must name one of user, item, context per feature; got"):
        Ranker([5, 5], [1, 1], 0, KINDS, PARENTS, slot_sides=sides)
    with pytest.raises(ValueError, match="continuous_sides must name one of user, item, context per feature; got"):
        Ranker([], [], 2, KINDS, PARENTS, continuous_sides=sides)
