"""The ranker: packed features in, one expected value per objective out; and its files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.experts import MultiGateMixture, SharedBottom
from models.layers import BatchedDot, BatchedMLP, Dropout, FusedEmbedding, LowRankCross, Standardize
from models.objectives import ObjectiveChain, constant_logits


class Ranker(nn.Module):
    """Fused embedding → feature crosses → shared bottom or experts → a tower per objective → chained predictions.

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
        experts: number of experts E; 1 is a bottom that all objectives share.
        expert_widths: widths of an expert's layers.
        tower_widths: widths of a tower's hidden layers.
        dropout: share of hidden units dropped in training, in [0, 1).
        continuous_means: mean of each continuous feature on the training rows, (D,); 0 where absent.
        continuous_scales: deviation of each continuous feature on the training rows, (D,); 1 where absent.
        base_rates: mean label where the parent happened, (K,); predictions start there, at 0.5 or 1 where absent.

    Raises:
        ValueError: the objectives make no chain, or there is no feature.
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
        experts: int = 1,
        expert_widths: Sequence[int] = (64,),
        tower_widths: Sequence[int] = (),
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
        self.embedding = FusedEmbedding(cardinalities, widths, embeddings, sparse=sparse_embedding)
        self.embedding_dropout = Dropout(embedding_dropout)
        inputs = self.embedding.outputs + continuous
        self.cross = LowRankCross(inputs, crosses, cross_rank)
        self.shared = (
            SharedBottom(inputs, expert_widths, len(parents), dropout)
            if experts == 1
            else MultiGateMixture(inputs, experts, expert_widths, len(parents), dropout)
        )
        self.towers = BatchedMLP(len(parents), self.shared.outputs, tower_widths, dropout)
        self.heads = BatchedDot(self.chain.logits, self.towers.outputs)
        with torch.no_grad():
            self.heads.bias.copy_(constant_logits(objective_kinds, rates, value_losses).view(-1, 1, 1))

    def logits(self, categorical: Tensor, continuous: Tensor) -> Tensor:
        """Map ids (B, S) and features (B, D) to the L logits of the objectives' own steps, (B, L)."""
        return self.logits_of(self.hidden(categorical, continuous))

    def hidden(self, categorical: Tensor, continuous: Tensor) -> Tensor:
        """Map ids (B, S) and features (B, D) to what each objective's logits are computed from, (K, B, H)."""
        vectors = self.embedding_dropout(self.embedding(categorical))
        x = self.cross(torch.cat([vectors, self.standardize(continuous)], 1))
        y: Tensor = self.towers(self.shared(x))
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
