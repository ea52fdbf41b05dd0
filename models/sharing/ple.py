"""PLE: levels of experts, some shared and some of one objective alone."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layers import BatchedLinear, BatchedMLP


class GateControl(nn.Module):
    """One level of CGC: each objective mixes its own experts and the shared ones.

    Its last state is the shared one, a mixture of all experts, which the next level's shared experts read.

    Args:
        inputs: width I of each state.
        experts: number of shared experts E.
        task_experts: number of each objective's own experts T.
        widths: widths of an expert's layers; the last is H.
        objectives: number of objectives K.
        dropout: share of hidden units dropped in training, in [0, 1).
        last: whether no level follows, so that the shared state is left out.
    """

    owners: Tensor

    def __init__(
        self,
        inputs: int,
        experts: int,
        task_experts: int,
        widths: Sequence[int],
        objectives: int,
        dropout: float,
        *,
        last: bool,
    ) -> None:
        super().__init__()
        self.objectives, self.experts, self.task_experts = objectives, experts, task_experts
        owned = torch.arange(objectives).repeat_interleave(task_experts)
        owners = torch.cat([owned, torch.full((experts,), objectives)])
        self.register_buffer("owners", owners, persistent=False)  # which state each expert reads
        self.perceptrons = BatchedMLP(len(owners), inputs, widths, dropout)
        self.gates = BatchedLinear(objectives, inputs, task_experts + experts)
        self.shared_gate = None if last else nn.Linear(inputs, len(owners))
        self.outputs = self.perceptrons.outputs

    def forward(self, states: Tensor) -> Tensor:
        """Map states (K + 1, B, I), the shared one last, to (K + 1, B, H), or (K, B, H) at the last level."""
        expert = self.perceptrons(states.index_select(0, self.owners))  # (K·T + E, B, H)
        own = expert[: self.objectives * self.task_experts].unflatten(0, (self.objectives, self.task_experts))
        shared = expert[self.objectives * self.task_experts :].unsqueeze(0).expand(self.objectives, -1, -1, -1)
        gate = torch.softmax(self.gates(states[: self.objectives]), 2).permute(0, 2, 1).unsqueeze(3)
        mixed: Tensor = (gate * torch.cat([own, shared], 1)).sum(1)  # (K, B, H)
        if self.shared_gate is None:
            return mixed
        weights = torch.softmax(self.shared_gate(states[self.objectives]), 1).t().unsqueeze(2)  # (K·T + E, B, 1)
        return torch.cat([mixed, (weights * expert).sum(0, keepdim=True)])


class ProgressiveExtraction(nn.Module):
    """PLE: levels of CGC, whose objectives' experts come apart level by level; one level is CGC itself.

    Args:
        inputs: width I of the input.
        experts: number of shared experts E of a level.
        task_experts: number of each objective's own experts T of a level.
        levels: number of levels.
        widths: widths of an expert's layers; the last is H.
        objectives: number of objectives K.
        dropout: share of hidden units dropped in training, in [0, 1).

    Raises:
        ValueError: there is no shared expert, no expert of an objective, no level, or an expert has no layer.

    Source: Tang et al., Progressive Layered Extraction, RecSys 2020, equations 1 to 6.
    """

    def __init__(
        self,
        inputs: int,
        experts: int,
        task_experts: int,
        levels: int,
        widths: Sequence[int],
        objectives: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for name, number in (("experts", experts), ("task_experts", task_experts), ("levels", levels)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1; got {number}")
        if not widths:
            raise ValueError("expert_widths must name at least one layer; got none")
        self.states = objectives + 1
        self.levels = nn.Sequential()
        for level in range(levels):
            last = level == levels - 1
            self.levels.append(GateControl(inputs, experts, task_experts, widths, objectives, dropout, last=last))
            inputs = widths[-1]
        self.outputs = inputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, I) to one mixture per objective, (K, B, H)."""
        y: Tensor = self.levels(x.unsqueeze(0).expand(self.states, -1, -1))
        return y
