import numpy as np
import pytest
import torch

from models.layers import (
    BatchedDot,
    BatchedLinear,
    BatchedMLP,
    Dropout,
    EmbeddingTable,
    FusedEmbedding,
    LowRankCross,
    Standardize,
)


def test_each_slot_reads_its_own_rows_of_the_table() -> None:
    table = EmbeddingTable([3, 5], [1, 1], 2)
    weight = table.weight.detach()
    vectors = table(torch.tensor([[2, 0], [1, 4]], dtype=torch.int32))
    expected = torch.stack([torch.cat([weight[2], weight[3]]), torch.cat([weight[1], weight[7]])])
    torch.testing.assert_close(vectors, expected)


def test_a_list_is_the_sum_of_its_real_ids_and_an_empty_one_is_zero() -> None:
    table = EmbeddingTable([6, 4], [3, 1], 2)
    weight = table.weight.detach()
    vectors = table(torch.tensor([[5, 1, 0, 2], [0, 0, 0, 0]]))
    torch.testing.assert_close(vectors[:, :2], torch.stack([weight[5] + weight[1], torch.zeros(2)]))
    torch.testing.assert_close(vectors[:, 2:], weight[[8, 6]])  # a single slot's 0 is an id


def test_the_vector_that_fills_lists_up_stays_zero_in_training() -> None:
    table = EmbeddingTable([6, 4], [3, 1], 2)
    optimizer = torch.optim.AdamW(table.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (table(torch.tensor([[5, 0, 0, 0]])) - 1).square().sum().backward()
        optimizer.step()
    assert torch.equal(table.weight[0], torch.zeros(2))
    assert not torch.equal(table.weight[6], torch.zeros(2))  # the single slot's 0


def test_padding_inside_a_list_does_not_count() -> None:
    table = EmbeddingTable([6], [3], 4)
    gaps = table(torch.tensor([[0, 5, 3]]))
    torch.testing.assert_close(gaps, table(torch.tensor([[3, 5, 0]])))


def test_slots_that_ask_for_their_own_width_get_it() -> None:
    embedding = FusedEmbedding([4, 5, 6], [1, 1, 2], [8, 3, 8])
    narrow, wide = (parameter.detach() for parameter in embedding.parameters())
    assert (narrow.shape, wide.shape) == ((5, 3), (10, 8))
    ids = torch.tensor([[1, 2, 5, 0]])
    vectors = embedding(ids)
    assert vectors.shape == (1, embedding.outputs) == (1, 19)
    torch.testing.assert_close(vectors[0, :3], narrow[2])
    torch.testing.assert_close(vectors[0, 3:], wide[[1, 9]].flatten())


def test_a_ranker_without_slots_embeds_nothing() -> None:
    assert FusedEmbedding([], [], [])(torch.zeros(3, 0, dtype=torch.int32)).shape == (3, 0)


def test_sparse_gradients_hold_the_rows_of_the_batch_alone() -> None:
    ids = torch.tensor([[2, 0], [1, 4]])
    torch.manual_seed(0)
    sparse = EmbeddingTable([3, 5], [1, 1], 2, sparse=True)
    dense = EmbeddingTable([3, 5], [1, 1], 2)
    dense.load_state_dict(sparse.state_dict())
    for table in (sparse, dense):
        table(ids).square().sum().backward()
    assert sparse.weight.grad is not None
    assert dense.weight.grad is not None
    assert sparse.weight.grad.coalesce().indices().tolist() == [[1, 2, 3, 7]]
    torch.testing.assert_close(sparse.weight.grad.to_dense(), dense.weight.grad)


def test_batched_linear_maps_are_independent_linear_maps() -> None:
    layer = BatchedLinear(3, 4, 2)
    x = torch.randn(3, 5, 4)
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    expected = [x[g].numpy() @ weight[g] + bias[g] for g in range(3)]
    np.testing.assert_allclose(layer(x).detach().numpy(), np.stack(expected), rtol=1e-5, atol=1e-6)


def test_batched_dot_products_are_independent() -> None:
    layer = BatchedDot(3, 4)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(3, 5, 4)
    weight, bias = layer.weight.detach().numpy()[:, 0], layer.bias.detach().numpy()[:, 0]
    expected = [x[g].numpy() @ weight[g] + bias[g] for g in range(3)]
    np.testing.assert_allclose(layer(x).detach().numpy(), np.stack(expected, 1), rtol=1e-5, atol=1e-6)


def test_a_perceptron_without_layers_passes_its_input() -> None:
    mlp = BatchedMLP(2, 4, [])
    x = torch.randn(2, 3, 4)
    assert mlp.outputs == 4
    assert torch.equal(mlp(x), x)


def test_crosses_follow_the_formula() -> None:
    cross = LowRankCross(3, 2, 2)
    x = torch.randn(4, 3)
    y = x.numpy()
    for down, up in zip(cross.down, cross.up, strict=True):
        v, u, b = (parameter.detach().numpy() for parameter in (*down.parameters(), *up.parameters()))
        y = x.numpy() * (y @ v.T @ u.T + b) + y
    np.testing.assert_allclose(cross(x).detach().numpy(), y, rtol=1e-5, atol=1e-6)


def test_features_are_standardised_and_outliers_held() -> None:
    standardize = Standardize([10.0, 0.0], [2.0, 1.0], limit=5.0)
    given = torch.tensor([[14.0, -1.0], [1e9, -1e9]])
    torch.testing.assert_close(standardize(given), torch.tensor([[2.0, -1.0], [5.0, -5.0]]))


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(share: float) -> None:
    torch.manual_seed(0)
    dropped = Dropout(share)(torch.ones(1001, 999))
    assert (dropped == 0).float().mean().item() == pytest.approx(share, abs=0.004)
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.004)
    assert dropped.max().item() == pytest.approx(1 / (1 - share), abs=0.01)


def test_neighbouring_units_are_dropped_independently() -> None:
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(200_000, 8)) != 0).float()
    torch.testing.assert_close(torch.corrcoef(kept.T), torch.eye(8), atol=0.01, rtol=0)
    torch.testing.assert_close(kept.mean(0), torch.full((8,), 0.5), atol=0.01, rtol=0)


def test_dropout_rests_outside_training() -> None:
    x = torch.randn(10, 10)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


@pytest.mark.parametrize("share", [-0.1, 0.999, 1.0, 2.0])
def test_dropping_everything_or_less_than_nothing_is_refused(share):
    with pytest.raises(ValueError, match=rf"dropout must be in \[0, 1\), rounded to 1/256; got {share}"):
        Dropout(share)
