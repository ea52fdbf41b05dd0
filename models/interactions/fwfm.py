"""FwFM: a weighted inner product of every two slots' vectors."""

import torch
from torch import Tensor, nn


class FieldWeightedProducts(nn.Module):
    """r_ij · ⟨v_i, v_j⟩ of every two slots i < j; the layers that follow sum them.

    Args:
        slots: number of slots C.
        embedding: width E of every slot's vector.

    Source: Pan et al., Field-weighted Factorization Machines, WWW 2018, equation 4.
    """

    left: Tensor
    right: Tensor

    def __init__(self, slots: int, embedding: int) -> None:
        super().__init__()
        left, right = torch.triu_indices(slots, slots, 1)
        self.register_buffer("left", left, persistent=False)
        self.register_buffer("right", right, persistent=False)
        self.embedding = embedding
        self.outputs = len(left)
        self.weight = nn.Parameter(torch.ones(self.outputs))

    def forward(self, vectors: Tensor) -> Tensor:
        """Map (B, C·E) to (B, C·(C - 1) / 2)."""
        fields = vectors.view(vectors.size(0), -1, self.embedding)
        products: Tensor = (fields.index_select(1, self.left) * fields.index_select(1, self.right)).sum(2)
        return products * self.weight
