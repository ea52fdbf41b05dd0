"""The ranker: packed features in, one expected value per objective out; and its files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.histories import HISTORIES
from models.histories.encoding import HistoryEncoding, check_targets, places
from models.interactions import INTERACTIONS
from models.layers import BatchedDot, BatchedMLP, Dropout, FusedEmbedding, LowRankCross, Standardize
from models.objectives import ObjectiveChain, constant_logits
from models.sharing import SHARING
from models.side_towers import SideTowers, sided


class Ranker(nn.Module):
    """Fused embedding → feature crosses → shared bottom or experts → a tower per objective → chained predictions.

    Histories are encoded behind the embedding, towers by side come before the crosses, and products of slots' vectors
    join what they give; each is left out unless asked for.

    Args:
        cardinalities: ids of each categorical slot, (C,).
        widths: columns of each slot in `categorical`, (C,), summing to S.
        continuous: number of continuous features D.
        objective_kinds: `binary` or `value` for each objective, (K,).
        parents: index of the objective that each one is given, or -1, (K,).
        estimators: how each binary objective is learnt, (K,); see `ObjectiveChain`.
        value_losses: how each value is learnt, (K,); see `ObjectiveChain`.
        embedding: width of a slot's vector.
        slot_embeddings: widths of slots that want their own, (C,), None where they don't.
        sparse_embedding: whether embedding gradients hold only the rows of a batch.
        embedding_dropout: share of embedded features dropped in training, in [0, 1).
        crosses: number of cross layers; 0 leaves them out.
        cross_rank: rank of a cross layer's matrix.
        interactions: products of slots' vectors beside the crosses, `none` or out of `INTERACTIONS`.
        sharing: how objectives share layers, out of `SHARING`.
        experts: number of experts E; 1 is a bottom that all objectives share.
        task_experts: number of an objective's own experts at a level of `ple`.
        levels: number of levels of `ple`.
        expert_widths: widths of an expert's layers.
        histories: how a list with a target is read, `mean` as any list, or out of `HISTORIES`.
        history_targets: index of the slot that each list is a history of, or -1, (C,); all -1 where absent.
        history_width: hidden width of `attention`.
        history_layers: number of blocks of `transformer`.
        slot_tables: index of the slot whose vectors a slot reads, or -1 for its own, (C,); all -1 where absent.
        side_towers: widths of a perceptron for each side's features, before the crosses; none where empty.
        slot_sides: `user`, `item` or `context` for each slot, (C,); all of one side where absent.
        continuous_sides: the same for each continuous feature, (D,).
        tower_widths: widths of a tower's hidden layers.
        dropout: share of hidden units dropped in training, in [0, 1).
        continuous_means: mean of each continuous feature on the training rows, (D,); 0 where absent.
        continuous_scales: deviation of each continuous feature on the training rows, (D,); 1 where absent.
        base_rates: mean label where the parent happened, (K,); predictions start there, at 0.5 or 1 where absent.

    Raises:
        ValueError: the objectives make no chain, there is no feature, a name is unknown, `interactions` of slots of
            more than one width, or a history's target, a table or a side that is not possible.
    """

    def __init__(
        self,
        cardinalities: Sequence[int],
        widths: Sequence[int],
        continuous: int,
        objective_kinds: Sequence[str],
        parents: Sequence[int],
        *,
        estimators: Sequence[str] | None = None,
        value_losses: Sequence[str] | None = None,
        embedding: int = 8,
        slot_embeddings: Sequence[int | None] | None = None,
        sparse_embedding: bool = False,
        embedding_dropout: float = 0.1,
        crosses: int = 1,
        cross_rank: int = 16,
        interactions: str = "none",
        sharing: str = "mmoe",
        experts: int = 1,
        task_experts: int = 1,
        levels: int = 2,
        expert_widths: Sequence[int] = (64,),
        tower_widths: Sequence[int] = (),
        histories: str = "mean",
        history_targets: Sequence[int] | None = None,
        history_width: int = 16,
        history_layers: int = 1,
        slot_tables: Sequence[int] | None = None,
        side_towers: Sequence[int] = (),
        slot_sides: Sequence[str] | None = None,
        continuous_sides: Sequence[str] | None = None,
        dropout: float = 0.1,
        continuous_means: Sequence[float] | None = None,
        continuous_scales: Sequence[float] | None = None,
        base_rates: Sequence[float] | None = None,
    ) -> None:
        options = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.options: dict[str, Any] = options
        if len(cardinalities) == 0 and continuous == 0:
            raise ValueError("cardinalities must name a slot where there is no continuous feature; got none")
        rates = base_rates or [0.5 if kind == "binary" else 1.0 for kind in objective_kinds]
        embeddings = [own or embedding for own in slot_embeddings or [None] * len(cardinalities)]
        self.chain = ObjectiveChain(objective_kinds, parents, estimators, value_losses)
        self.standardize = Standardize(continuous_means or [0.0] * continuous, continuous_scales or [1.0] * continuous)
        targets = list(history_targets or [-1] * len(widths))
        check_targets(widths, embeddings, targets)
        encoder = _named("histories", histories, HISTORIES, "mean")
        targets = targets if encoder else [-1] * len(widths)
        slot_of = places(widths, targets)
        tables = list(slot_tables or [-1] * len(widths))
        owners = [slot_of.index(slot if tables[slot] < 0 else tables[slot]) for slot in slot_of]
        self.embedding = FusedEmbedding(
            [cardinalities[slot] for slot in slot_of],
            [1 if targets[slot] >= 0 else widths[slot] for slot in slot_of],
            [embeddings[slot] for slot in slot_of],
            sparse=sparse_embedding,
            tables=[-1 if owner == place else owner for place, owner in enumerate(owners)],
        )
        self.histories: HistoryEncoding | None = None
        begins = self.embedding.begins
        if encoder and max(targets, default=-1) >= 0:
            settings = {"dropout": dropout, "width": history_width, "layers": history_layers}
            self.histories = HistoryEncoding(widths, embeddings, targets, begins, partial(encoder, **settings))
            begins = self.histories.begins
        self.embedding_dropout = Dropout(embedding_dropout)
        inputs = sum(embeddings) + continuous
        self.sides: SideTowers | None = None
        by_place = sorted(range(len(widths)), key=begins.__getitem__)  # slots as their vectors stand in x
        slots = sided(slot_sides, len(widths), "slot_sides")
        sides = [slots[slot] for slot in by_place for _ in range(embeddings[slot])]
        sides += sided(continuous_sides, continuous, "continuous_sides")
        if side_towers:
            self.sides = SideTowers(sides, side_towers, dropout)
            inputs = self.sides.outputs
        self.cross = LowRankCross(inputs, crosses, cross_rank)
        self.products = None
        product = _named("interactions", interactions, INTERACTIONS, "none")
        if product:
            if len(set(embeddings)) > 1:
                raise ValueError(f"interactions must have slots of one embedding width; got {embeddings}")
            self.products = product(len(widths), embedding if not embeddings else embeddings[0])
            inputs += self.products.outputs
        share = _named("sharing", sharing, SHARING)
        numbers = {"experts": experts, "task_experts": task_experts, "levels": levels}
        self.shared = share(inputs, expert_widths, parents, dropout, **numbers)
        self.towers = BatchedMLP(len(parents), self.shared.outputs, tower_widths, dropout)
        self.heads = BatchedDot(self.chain.logits, self.towers.outputs)
        with torch.no_grad():
            self.heads.bias.copy_(constant_logits(objective_kinds, rates, value_losses).view(-1, 1, 1))

    def logits(self, categorical: Tensor, continuous: Tensor) -> Tensor:
        """Map ids (B, S) and features (B, D) to the L logits of the objectives' own steps, (B, L)."""
        return self.logits_of(self.hidden(categorical, continuous))

    def hidden(self, categorical: Tensor, continuous: Tensor) -> Tensor:
        """Map ids (B, S) and features (B, D) to what each objective's logits are computed from, (K, B, H)."""
        y: Tensor = self.towers(self.states(categorical, continuous))
        return y

    def states(self, categorical: Tensor, continuous: Tensor) -> Tensor:
        """Map ids (B, S) and features (B, D) to what the shared layers give each objective's tower, (K, B, H)."""
        vectors = self.embedding(categorical)
        if self.histories is not None:
            vectors = self.histories(categorical, vectors)
        vectors = self.embedding_dropout(vectors)
        x = torch.cat([vectors, self.standardize(continuous)], 1)
        if self.sides is not None:
            x = self.sides(x)
        x = self.cross(x)
        if self.products is not None:
            x = torch.cat([x, self.products(vectors)], 1)
        y: Tensor = self.shared(x)
        return y

    def logits_of(self, hidden: Tensor) -> Tensor:
        """Map what `hidden` gives, (K, B, H), to logits (B, L)."""
        if self.chain.lognormals > 0:
            hidden = hidden.index_select(0, self.chain.owners)
        logits: Tensor = self.heads(hidden)
        return logits

    def forward(self, categorical: Tensor, continuous: Tensor) -> Tensor:
        """Predict a batch.

        Args:
            categorical: ids (B, S), int32 or int64.
            continuous: features (B, D), float32.

        Returns:
            Expected values (B, K), float32: probabilities of binary objectives, units of value objectives.
        """
        predictions: Tensor = self.chain(self.logits(categorical, continuous))
        return predictions


def _named(argument: str, name: str, known: Mapping[str, Callable[..., Any]], none: str | None = None) -> Any:
    """Return what a name stands for, None for that of nothing."""
    if name == none:
        return None
    if name not in known:
        names = [*([none] if none else []), *known]
        raise ValueError(f"{argument} must be one of {', '.join(names)}; got {name!r}")
    return known[name]


def save_ranker(ranker: Ranker, folder: Path) -> None:
    """Write a ranker as `ranker.json` (its flat arguments) and `weights.safetensors`.

    Args:
        ranker: trained or not.
        folder: made where it does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ranker.json").write_text(json.dumps(ranker.options, indent=2) + "\n")
    save_file(
        {name: tensor.contiguous() for name, tensor in ranker.state_dict().items()}, folder / "weights.safetensors"
    )


def load_ranker(folder: Path) -> Ranker:
    """Read what `save_ranker` wrote, ready to predict on a CPU."""
    ranker = Ranker(**json.loads((folder / "ranker.json").read_text()))
    ranker.load_state_dict(load_file(folder / "weights.safetensors"))
    return ranker.eval()
