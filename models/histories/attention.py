"""DIN: a history weighed by how much each of its values has to do with the target."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TargetAttention(nn.Module):
    """Σ_j a(e_j, t) · e_j, the weights not normalised, so that they tell how strong an interest is.

    a is a perceptron of one hidden layer that reads e_j, t, e_j - t and e_j ⊙ t.

    Args:
        embedding: width E of a vector.
        width: of the hidden layer.

    Source: Zhou et al., Deep Interest Network, KDD 2018, equation 3.
    """

    def __init__(self, embedding: int, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(4 * embedding, width)
        self.activation = nn.PReLU()
        self.weigh = nn.Linear(width, 1)

    def forward(self, history: Tensor, filled: Tensor, target: Tensor) -> Tensor:
        """Map a history (B, W, E), its filled places (B, W) and a target (B, E) to (B, E)."""
        wanted = target.unsqueeze(1).expand_as(history)
        read = torch.cat([history, wanted, history - wanted, history * wanted], 2)
        weights = self.weigh(self.activation(self.hidden(read))) * filled.unsqueeze(2)  # (B, W, 1)
        pooled: Tensor = (weights * history).sum(1)
        return pooled
