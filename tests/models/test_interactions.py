from itertools import combinations

import numpy as np
import pytest
import torch

from models.interactions.bilinear import BilinearProducts
from models.interactions.fwfm import FieldWeightedProducts
from models.ranker import Ranker


def test_field_weighted_products_are_weighted_inner_products_of_pairs() -> None:
    torch.manual_seed(0)
    module = FieldWeightedProducts(4, 3)
    torch.nn.init.normal_(module.weight)
    vectors = torch.randn(5, 4, 3)
    pairs = list(combinations(range(4), 2))
    v, r = vectors.numpy(), module.weight.detach().numpy()
    expected = [[r[p] * (v[row, i] @ v[row, j]) for p, (i, j) in enumerate(pairs)] for row in range(5)]
    assert module.outputs == 6
    np.testing.assert_allclose(module(vectors.flatten(1)).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_bilinear_products_map_the_left_vector_by_its_slots_matrix() -> None:
    torch.manual_seed(0)
    module = BilinearProducts(4, 3)
    vectors = torch.randn(5, 4, 3)
    v, w = vectors.numpy(), module.weight.detach().numpy()
    expected = [
        np.concatenate([(v[row, i] @ w[i]) * v[row, j] for i, j in combinations(range(4), 2)]) for row in range(5)
    ]
    assert module.outputs == 18
    np.testing.assert_allclose(module(vectors.flatten(1)).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("interactions", ["fwfm", "bilinear"])
def test_products_of_slots_of_several_widths_are_refused(interactions: str) -> None:
    with pytest.raises(ValueError, match=r"interactions must have slots of one embedding width; got \[8, 3\]"):
        Ranker([5, 5], [1, 1], 0, ["binary"], [-1], slot_embeddings=(None, 3), interactions=interactions)


def test_an_unknown_interaction_is_refused() -> None:
    with pytest.raises(ValueError, match="interactions must be one of none, fwfm, bilinear; got 'fm'"):
        Ranker([5, 5], [1, 1], 0, ["binary"], [-1], interactions="fm")
