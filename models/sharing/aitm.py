"""AITM: an objective with a parent receives, by attention, what the parent's tower found."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layers import BatchedMLP
from models.objectives import ancestry


class TransferUnit(nn.Module):
    """Attention between an objective's own state q and its parent's information p = ReLU(W z_parent + b).

    z = Σ_u softmax_u(⟨h₂(u), h₃(u)⟩ / √H) · h₁(u) over u ∈ {p, q}

    Args:
        width: H, of all states.

    Source: Xi et al., Modeling the Sequential Dependence among Audience Multi-step Conversions, KDD 2021, equations
    4 to 7.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = width**-0.5
        self.information = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.projections = nn.Linear(width, 3 * width)  # h₁, h₂ and h₃ in one matmul

    def forward(self, parent: Tensor, own: Tensor) -> Tensor:
        """Map the parent's state and the objective's own, both (B, H), to its new one, (B, H)."""
        both = torch.stack([self.information(parent), own])  # (2, B, H)
        value, key, query = self.projections(both).chunk(3, 2)
        weights = torch.softmax((key * query).sum(2, keepdim=True) * self.scale, 0)
        transferred: Tensor = (weights * value).sum(0)
        return transferred


class InformationTransfer(nn.Module):
    """AITM: a perceptron for each objective, and a transfer from parent to child along the chains.

    Args:
        inputs: width I of the input.
        widths: widths of a perceptron's layers; the last is H.
        parents: index of the objective that each one is given, or -1, (K,).
        dropout: share of hidden units dropped in training, in [0, 1).

    Raises:
        ValueError: a perceptron has no layer, or the parents go round in a cycle.

    Source: Xi et al., Modeling the Sequential Dependence among Audience Multi-step Conversions, KDD 2021, section 3.3;
    the calibrator of section 3.4 is a loss and stays out.
    """

    def __init__(self, inputs: int, widths: Sequence[int], parents: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__()
        if not widths:
            raise ValueError("expert_widths must name at least one layer; got none")
        depths = [len(ancestry(objective, parents)) for objective in range(len(parents))]
        self.order = sorted(range(len(parents)), key=depths.__getitem__)  # parents before children
        self.roots = depths.count(1)
        self.parents = list(parents)
        self.objectives = len(parents)
        self.perceptrons = BatchedMLP(len(parents), inputs, widths, dropout)
        self.units = nn.ModuleList(TransferUnit(widths[-1]) for _ in self.order[self.roots :])
        self.outputs = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, I) to one state per objective, (K, B, H)."""
        states = self.perceptrons(x.unsqueeze(0).expand(self.objectives, -1, -1)).unbind(0)
        reached = [state for state in states]  # noqa: C416 - TorchScript's list() of a tuple has no type
        for index, unit in enumerate(self.units):
            objective = self.order[self.roots + index]
            reached[objective] = unit(reached[self.parents[objective]], reached[objective])
        return torch.stack(reached)
