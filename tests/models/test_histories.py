from typing import Any

import numpy as np
import pytest
import torch

from models.histories.attention import TargetAttention
from models.histories.encoding import HistoryEncoding, places
from models.histories.transformer import HistoryTransformer
from models.layers import FusedEmbedding
from models.ranker import Ranker

Array = np.ndarray[Any, Any]


def arrays(module: torch.nn.Module) -> dict[str, Array]:
    return {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}


def filled_places(counts: list[int], length: int) -> torch.Tensor:
    return torch.arange(length) < torch.tensor(counts).unsqueeze(1)


def normed(x: Array, weight: Array, bias: Array) -> Array:
    result: Array = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weight + bias
    return result


def test_target_attention_sums_a_history_weighed_by_its_unit() -> None:
    torch.manual_seed(0)
    module = TargetAttention(3, 5)
    history, target = torch.randn(4, 6, 3), torch.randn(4, 3)
    counts = [6, 2, 0, 1]
    w = arrays(module)
    expected = np.zeros((4, 3))
    for row, count in enumerate(counts):
        t = target[row].numpy()
        for e in history[row, :count].numpy():
            hidden = w["hidden.weight"] @ np.concatenate([e, t, e - t, e * t]) + w["hidden.bias"]
            hidden = np.where(hidden > 0, hidden, w["activation.weight"] * hidden)
            expected[row] += (w["weigh.weight"][0] @ hidden + w["weigh.bias"][0]) * e
    found = module(history, filled_places(counts, 6), target).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_transformer_gives_the_last_place_of_a_causal_one_over_the_filled_history_and_the_target() -> None:
    torch.manual_seed(0)
    module = HistoryTransformer(4, 5, 2)
    history, target = torch.randn(4, 5, 4), torch.randn(4, 4)
    counts = [5, 2, 0, 1]
    w = arrays(module)
    expected = np.zeros((4, 4))
    for row, count in enumerate(counts):
        # without padding: the history's values, then the target, by distance from the end
        x = np.concatenate([history[row, :count].numpy(), target[row : row + 1].numpy()])
        x = x + w["distances.weight"][np.arange(count, -1, -1)]
        for block in ("blocks.0.", "blocks.1."):
            before = np.array(
                [normed(v, w[block + "attention_norm.weight"], w[block + "attention_norm.bias"]) for v in x]
            )
            query, key, value = np.split(before @ w[block + "projections.weight"].T, 3, 1)
            y = np.zeros_like(x)
            for place in range(count + 1):
                scores = np.exp(key[: place + 1] @ query[place] / 2)
                y[place] = x[place] + scores / scores.sum() @ value[: place + 1]
            for place in range(count + 1):
                z = normed(y[place], w[block + "perceptron_norm.weight"], w[block + "perceptron_norm.bias"])
                z = np.maximum(w[block + "perceptron.0.weight"] @ z + w[block + "perceptron.0.bias"], 0)
                x[place] = y[place] + w[block + "perceptron.3.weight"] @ z + w[block + "perceptron.3.bias"]
        expected[row] = normed(x[-1], w["norm.weight"], w["norm.bias"])
    found = module(history, filled_places(counts, 5), target).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_transformer_of_no_block_is_refused() -> None:
    with pytest.raises(ValueError, match="history_layers must be at least 1; got 0"):
        HistoryTransformer(4, 5, 0)


class Recorder(torch.nn.Module):
    """Gives the target plus the sum of the filled places."""

    def forward(self, history: torch.Tensor, filled: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return target + (history * filled.unsqueeze(2)).sum(1)


def test_each_history_meets_its_own_target_and_the_other_slots_pass() -> None:
    # vectors are the ids themselves: of width 2 all but slot 1, which is 1 wide
    widths, embeddings, targets = [1, 1, 3, 2, 1], [2, 1, 2, 2, 2], [-1, -1, 4, 0, -1]
    slot_of = places(widths, targets)
    assert slot_of == [0, 1, 2, 2, 2, 3, 3, 4]
    place_widths = [embeddings[slot] for slot in slot_of]
    embedding = FusedEmbedding([50] * 8, [1] * 8, place_widths)
    for table in embedding.tables:
        assert isinstance(table.weight, torch.nn.Parameter)
        rows = torch.arange(50.0).repeat(len(table.weight) // 50)
        table.weight.data = rows.unsqueeze(1).expand(-1, table.weight.size(1)).contiguous()
    encoding = HistoryEncoding(widths, embeddings, targets, embedding.begins, lambda _, __: Recorder())
    ids = torch.tensor([[1, 2, 10, 20, 0, 7, 8, 30]])
    vectors = encoding(ids, embedding(ids))[0].tolist()
    found = [vectors[begin : begin + width] for begin, width in zip(encoding.begins, embeddings, strict=True)]
    assert found == [[1, 1], [2], [60, 60], [16, 16], [30, 30]]


def small_ranker(**options: Any) -> Ranker:
    torch.manual_seed(0)
    return Ranker([9, 9, 5], [1, 3, 1], 0, ["binary"], [-1], embedding=4, **options).eval()


def test_slots_of_one_table_give_an_id_one_vector() -> None:
    ranker = small_ranker(slot_tables=(-1, 0, -1))
    assert sum(p.numel() for p in ranker.embedding.parameters()) == (9 + 5) * 4
    vectors = ranker.embedding(torch.tensor([[7, 7, 0, 0, 1]]))
    assert torch.equal(vectors[0, :4], vectors[0, 4:8])
    shared = small_ranker(slot_tables=(-1, 0, -1), histories="attention", history_targets=(-1, 0, -1))
    assert sum(p.numel() for p in shared.embedding.parameters()) == (9 + 5) * 4
    vectors = shared.embedding(torch.tensor([[7, 3, 7, 0, 1]]))
    assert torch.equal(vectors[0, :4], vectors[0, 8:12])


@pytest.mark.parametrize("histories", ["attention", "transformer"])
def test_a_history_that_has_ended_adds_nothing_and_learns_nothing(histories: str) -> None:
    ranker = small_ranker(histories=histories, history_targets=(-1, 0, -1), embedding_dropout=0.0, dropout=0.0)
    ids, numbers = torch.tensor([[7, 3, 0, 0, 1]]), torch.zeros(1, 0)
    before = ranker(ids, numbers)
    before.sum().backward()
    gradient = ranker.embedding.tables[0].weight.grad
    with torch.no_grad():
        ranker.embedding.tables[0].weight[9 * torch.arange(1, 2)] += 1.0  # the padding of the history's own table
    assert torch.equal(ranker(ids, numbers), before)
    assert gradient is not None
    assert not gradient[9].any()
    assert gradient[9 + 3].any()


@pytest.mark.parametrize(
    ("targets", "error"),
    [
        ((0, 0), "history_targets must name one slot, or -1, per slot; got 2 for 3"),
        ((-1, 3, -1), "history_targets must be -1 or a slot's index; got 3"),
        ((2, -1, -1), "history_targets must lead from a list to a single slot; got 2 for slot 0"),
        ((-1, 1, -1), "history_targets must lead from a list to a single slot; got 1 for slot 1"),
        ((-1, 2, -1), "history_targets must have vectors as wide as their history's; got 6 for 4 of slot 1"),
    ],
)
def test_targets_that_no_history_can_be_read_beside_are_refused(targets: tuple[int, ...], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        small_ranker(histories="attention", history_targets=targets, slot_embeddings=(None, None, 6))


@pytest.mark.parametrize("tables", [(-1, 2, -1), (-1, 0, 1), (1, 0, -1)])
def test_tables_that_a_slot_cannot_read_are_refused(tables: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="slot_tables must be -1 or a slot with rows of its own, as many and as wide"):
        small_ranker(slot_tables=tables)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="histories must be one of mean, attention, transformer; got 'gru'"):
        small_ranker(histories="gru")
    with pytest.raises(ValueError, match="sharing must be one of mmoe, shared_bottom, ple, aitm; got 'cgc'"):
        small_ranker(sharing="cgc")
