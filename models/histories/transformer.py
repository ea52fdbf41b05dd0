"""A small causal Transformer over a history, the target in the last place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.layers import Dropout


class HistoryTransformer(nn.Module):
    """What the last place of a causal Transformer holds, where the target stands behind its history.

    A place is known by its distance from the target, so that the latest value has one place however long the history.

    Args:
        embedding: width E of a vector.
        length: longest history W.
        layers: number of blocks.
        dropout: share of units dropped in training, in [0, 1).

    Raises:
        ValueError: there is no block.

    Source: Kang and McAuley, Self-Attentive Sequential Recommendation, ICDM 2018, equations 2 to 6, for the blocks;
    Chen et al., Behavior Sequence Transformer, DLP-KDD 2019, section 2.1, for the target in the sequence.
    """

    def __init__(self, embedding: int, length: int, layers: int, dropout: float = 0.0) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"history_layers must be at least 1; got {layers}")
        self.length = length
        self.distances = nn.Embedding(length + 1, embedding)
        nn.init.normal_(self.distances.weight, std=0.05)
        self.blocks = nn.ModuleList(CausalBlock(embedding, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(embedding)

    def forward(self, history: Tensor, filled: Tensor, target: Tensor) -> Tensor:
        """Map a history (B, W, E), its filled places (B, W), the first ones, and a target (B, E) to (B, E)."""
        places = torch.arange(self.length, device=history.device)
        from_end = (filled.sum(1, keepdim=True) - places).clamp(min=0)  # 1 is the latest; the target's own is 0
        distances = torch.cat([from_end, torch.zeros_like(from_end[:, :1])], 1)
        x = torch.cat([history, target.unsqueeze(1)], 1) + self.distances(distances)
        seen = torch.cat([filled, torch.ones_like(filled[:, :1])], 1).unsqueeze(1)  # (B, 1, W + 1)
        causal = torch.ones(self.length + 1, self.length + 1, dtype=torch.bool, device=history.device).tril()
        hidden = ~(causal & seen)
        hidden = hidden & ~torch.eye(self.length + 1, dtype=torch.bool, device=history.device)  # no row sees nothing
        for block in self.blocks:
            x = block(x, hidden)
        y: Tensor = self.norm(x[:, -1])
        return y


class CausalBlock(nn.Module):
    """x + attention(LN(x)), then y + perceptron(LN(y)), with one head.

    Args:
        embedding: width E of a vector.
        dropout: share of units dropped in training, in [0, 1).
    """

    def __init__(self, embedding: int, dropout: float) -> None:
        super().__init__()
        self.scale = embedding**-0.5
        self.attention_norm = nn.LayerNorm(embedding)
        self.projections = nn.Linear(embedding, 3 * embedding, bias=False)  # queries, keys and values
        self.perceptron_norm = nn.LayerNorm(embedding)
        self.perceptron = nn.Sequential(
            nn.Linear(embedding, embedding), nn.ReLU(), Dropout(dropout), nn.Linear(embedding, embedding)
        )
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Map (B, P, E), of which each place does not see the hidden ones (B, P, P), to (B, P, E)."""
        query, key, value = self.projections(self.attention_norm(x)).chunk(3, 2)
        scores = (query @ key.transpose(1, 2) * self.scale).masked_fill(hidden, float("-inf"))
        y = x + self.dropout(torch.softmax(scores, 2) @ value)
        z: Tensor = y + self.dropout(self.perceptron(self.perceptron_norm(y)))
        return z
