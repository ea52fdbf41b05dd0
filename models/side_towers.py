"""Towers by side: a perceptron each for what is known of the user, of the item and of the context."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layers import Dropout

SIDES = ("user", "item", "context")


class SideTowers(nn.Module):
    """One perceptron for each side's features, and what they give side by side.

    Args:
        sides: side of each column of x, (I,), out of `SIDES`.
        widths: widths of a perceptron's layers.
        dropout: share of hidden units dropped in training, in [0, 1).

    Source: Covington et al., Deep Neural Networks for YouTube Recommendations, RecSys 2016, and Huang et al., DSSM,
    CIKM 2013, for a tower a side; here layers that all sides share follow.
    """

    order: Tensor

    def __init__(self, sides: Sequence[str], widths: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__()
        columns = [torch.tensor([i for i, own in enumerate(sides) if own == side]).long() for side in SIDES]
        columns = [own for own in columns if len(own)]
        self.register_buffer("order", torch.cat(columns), persistent=False)
        self.columns = [len(own) for own in columns]
        self.towers = nn.ModuleList()
        for inputs in self.columns:
            tower = nn.Sequential()
            for width in widths:
                tower.extend([nn.Linear(inputs, width), nn.ReLU(inplace=True), Dropout(dropout)])
                inputs = width
            self.towers.append(tower)
        self.outputs = len(columns) * widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, I) to (B, sides · H), the sides in the order of `SIDES`."""
        parts = x.index_select(1, self.order).split(self.columns, 1)
        return torch.cat([tower(parts[i]) for i, tower in enumerate(self.towers)], 1)


def sided(sides: Sequence[str] | None, features: int, name: str) -> list[str]:
    """Return each feature's side; all are of one side where none is told.

    Args:
        sides: of each feature, out of `SIDES`.
        features: number of features.
        name: of the argument, for errors.

    Raises:
        ValueError: a side is unknown, or there is not one a feature.
    """
    told = list(sides) if sides is not None else ["item"] * features
    if len(told) != features or not set(told) <= set(SIDES):
        raise ValueError(f"{name} must name one of {', '.join(SIDES)} per feature; got {told}")
    return told
