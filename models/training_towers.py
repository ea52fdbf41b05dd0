"""Towers that help to train a ranker and stay behind: no file of it, no export and no server has them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

POSITIONS = 128


class PositionTower(nn.Module):
    """What a row's position adds to its logits, so that the ranker need not explain it.

    Its mean over a batch is 0: the ranker's own logits are those of the mix of positions that the log has.

    Args:
        objectives: number of objectives that it adds to.
        positions: positions that have a parameter each; later ones share the last.

    Source: Zhao et al., Recommending What Video to Watch Next, RecSys 2019; Guo et al., PAL, RecSys 2019.
    """

    def __init__(self, objectives: int, positions: int = POSITIONS) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(positions, objectives))

    def forward(self, positions: Tensor) -> Tensor:
        """Map positions (B,), from 1, NaN where unknown, to what they add to logits (B, objectives)."""
        known = ~positions.isnan()
        places = (positions.nan_to_num(1.0) - 1).clamp(0, len(self.logits) - 1).long()
        added = F.embedding(places, self.logits) * known.unsqueeze(1)
        centred: Tensor = (added - added.sum(0) / known.sum().clamp(min=1)) * known.unsqueeze(1)
        return centred


class ImputationTower(nn.Module):
    """The logit of what a chained objective would have become where its parent did not happen.

    Args:
        inputs: width H of the ranker's hidden layer, which it reads and does not teach.
        base_rates: mean label where the parent happened, one an imputed objective.

    Source: Wang et al., ESCM², SIGIR 2022, section 4.
    """

    def __init__(self, inputs: int, base_rates: Sequence[float]) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(len(base_rates), inputs))
        self.biases = nn.Parameter(torch.logit(torch.tensor(base_rates, dtype=torch.float32), eps=1e-6))

    def forward(self, hidden: Tensor) -> Tensor:
        """Map hidden layers (M, B, H) to logits (B, M)."""
        logits: Tensor = torch.einsum("mbh,mh->bm", hidden.detach(), self.weights) + self.biases
        return logits
