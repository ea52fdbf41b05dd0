"""A shared bottom: one perceptron that all objectives read."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from models.layers import Dropout


class SharedBottom(nn.Module):
    """One perceptron that all objectives read.

    Args:
        inputs: width I of the input.
        widths: widths of the layers; the last is H.
        objectives: number of objectives K.
        dropout: share of hidden units dropped in training, in [0, 1).

    Raises:
        ValueError: there is no layer.

    Source: Caruana, Multitask Learning, Machine Learning 1997.
    """

    def __init__(self, inputs: int, widths: Sequence[int], objectives: int, dropout: float = 0.0) -> None:
        super().__init__()
        if not widths:
            raise ValueError("expert_widths must name at least one layer; got none")
        self.objectives = objectives
        self.layers = nn.Sequential()
        for width in widths:
            self.layers.extend([nn.Linear(inputs, width), nn.ReLU(inplace=True), Dropout(dropout)])
            inputs = width
        self.outputs = inputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, I) to the same for each objective, (K, B, H)."""
        y: Tensor = self.layers(x).unsqueeze(0)
        return y.expand(self.objectives, -1, -1)
