"""MMoE: every objective reads its own mixture of shared experts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layers import BatchedMLP, Dropout


class MultiGateMixture(nn.Module):
    """MMoE: every objective reads its own mixture of E shared experts.

    f_k(x) = Σ_e softmax(W_k x)_e · expert_e(x)

    Args:
        inputs: width I of the input.
        experts: number of experts E.
        widths: widths of an expert's layers; the last is H.
        gates: number of mixtures K, one for each objective.
        dropout: share of hidden units dropped in training, in [0, 1).

    Raises:
        ValueError: there is no expert, or an expert has no layer.

    Source: Ma et al., Modeling Task Relationships in Multi-task Learning with MMoE, KDD 2018, equations 5 to 7.
    """

    def __init__(self, inputs: int, experts: int, widths: Sequence[int], gates: int, dropout: float = 0.0) -> None:
        super().__init__()
        if experts < 1:
            raise ValueError(f"experts must be at least 1; got {experts}")
        if not widths:
            raise ValueError("expert_widths must name at least one layer; got none")
        self.experts = experts
        self.first = nn.Linear(inputs, experts * widths[0])  # experts share their input: one matmul for all
        self.activate = nn.Sequential(nn.ReLU(inplace=True), Dropout(dropout))
        self.rest = BatchedMLP(experts, widths[0], widths[1:], dropout)
        self.gates = nn.Linear(inputs, gates * experts)
        self.outputs = self.rest.outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, I) to one mixture per objective, (K, B, H)."""
        hidden = self.activate(self.first(x)).unflatten(1, (self.experts, -1)).transpose(0, 1)  # (E, B, H1)
        expert = self.rest(hidden)  # (E, B, H)
        # Rows come last in the gates' logits: softmax is slow along a short last dimension, fast along any other.
        logits = torch.addmm(self.gates.bias.unsqueeze(1), self.gates.weight, x.t())  # (K·E, B)
        gate = torch.softmax(logits.view(-1, self.experts, x.size(0), 1), 1)  # (K, E, B, 1)
        mixed: Tensor = (gate * expert).sum(1)  # several times as fast as B matmuls of K by E
        return mixed
