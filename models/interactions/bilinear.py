"""FiBiNET: a bilinear product of every two slots' vectors."""

import torch
from torch import Tensor, nn


class BilinearProducts(nn.Module):
    """(v_i W_i) ⊙ v_j of every two slots i < j, W_i being the left slot's own.

    Args:
        slots: number of slots C.
        embedding: width E of every slot's vector.

    Source: Huang et al., FiBiNET, RecSys 2019, equation 8, of the type field-each.
    """

    left: Tensor
    right: Tensor

    def __init__(self, slots: int, embedding: int) -> None:
        super().__init__()
        left, right = torch.triu_indices(slots, slots, 1)
        self.register_buffer("left", left, persistent=False)
        self.register_buffer("right", right, persistent=False)
        self.embedding = embedding
        self.outputs = len(left) * embedding
        bound = embedding**-0.5
        self.weight = nn.Parameter(torch.empty(slots, embedding, embedding).uniform_(-bound, bound))

    def forward(self, vectors: Tensor) -> Tensor:
        """Map (B, C·E) to (B, C·(C - 1) / 2 · E)."""
        fields = vectors.view(vectors.size(0), -1, self.embedding)
        mapped = torch.bmm(fields.transpose(0, 1), self.weight)  # (C, B, E)
        left = mapped.index_select(0, self.left).transpose(0, 1)
        return (left * fields.index_select(1, self.right)).flatten(1)
