"""What maps predictions so that they mean what they say, inside an exported ranker.

Each objective's expected value is mapped as a whole, not step by step along its chain: that is what a blend weighs, it
can be fitted on all rows, and so nothing depends on which rows had the parent. A child whose calibrated probability
would pass its parent's is cut to it. B rows, K objectives, G groups of segments, of which 0 is all rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor, nn

from models.objectives import ancestry

METHODS = ("temperature", "platt", "beta", "isotonic")  # simplest first
# Probabilities closer to 0 or 1 than this have no logit worth the name in float32.
_EPS = 1e-7


@dataclass(frozen=True)
class CalibrationMap:
    """From a prediction to a calibrated one, non-decreasing.

    Attributes:
        method: out of `METHODS`, `scale`, or `none`, which passes predictions through.
        coefficients: a, b, c of sigmoid(a log p − b log(1 − p) + c), or the factor first where `scale`.
        knots: of `isotonic`, pairs of prediction and calibrated one from (0, 0) to (1, 1), joined by lines.
        note: why predictions are passed through, where they are in spite of what was asked.
    """

    method: str = "none"
    coefficients: tuple[float, float, float] = (1.0, 1.0, 0.0)
    knots: tuple[tuple[float, float], ...] = ()
    note: str = ""

    def __call__(self, predictions: NDArray[Any]) -> NDArray[np.float64]:
        """Return calibrated predictions (B,) of predictions (B,)."""
        p = np.asarray(predictions, dtype=np.float64)
        if self.method in ("none", "scale"):
            return p * self.coefficients[0]
        if self.method == "isotonic":
            at, height = np.array(self.knots).T
            joined: NDArray[np.float64] = np.interp(p, at, height)
            return joined
        a, b, c = self.coefficients
        logs, complements = log_parts(p)
        mapped: NDArray[np.float64] = expit(a * logs - b * complements + c)
        return mapped


class Calibration(nn.Module):
    """The maps of all objectives and segments at once, for TorchScript.

    Args:
        maps: a map for each group and objective, (G, K).
        parents: index of the objective whose probability bounds each one's, or -1, (K,).
        segment_column: column of `categorical` that holds a row's segment, or -1 for one group.
        segment_groups: group of each id of that column.

    Raises:
        ValueError: segments without groups, or groups without maps.
    """

    coefficients: Tensor
    linear: Tensor
    parents: Tensor
    segment_groups: Tensor
    interpolated: Tensor
    begins: Tensor
    knots: Tensor
    heights: Tensor
    slopes: Tensor

    def __init__(
        self,
        maps: Sequence[Sequence[CalibrationMap]],
        parents: Sequence[int],
        *,
        segment_column: int = -1,
        segment_groups: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if segment_column >= 0 and (len(segment_groups) == 0 or not 0 <= max(segment_groups) < len(maps)):
            raise ValueError(f"segment_groups must name groups below {len(maps)}; got {list(segment_groups)}")
        self.segment_column = segment_column
        self.isotonic = any(each.method == "isotonic" for group in maps for each in group)
        self.depth = max(len(ancestry(k, parents)) - 1 for k in range(len(parents)))
        # Maps lie 2 apart on one line, so that a single search finds every row's and objective's knots; float64 keeps
        # a prediction's digits there.
        at, height, slope = [], [], []
        for place, each in enumerate(each for group in maps for each in group):
            x, y = np.array(each.knots or ((0.0, 0.0), (1.0, 1.0)), dtype=np.float64).T
            at.append(x + 2 * place)
            height.append(y)
            slope.append(np.append(np.diff(y) / np.diff(x), 0.0))
        buffers = {
            "coefficients": torch.tensor([[each.coefficients for each in group] for group in maps]),
            "linear": torch.tensor([[each.method in ("none", "scale") for each in group] for group in maps]),
            "interpolated": torch.tensor([[each.method == "isotonic" for each in group] for group in maps]),
            "begins": 2.0 * torch.arange(len(maps) * len(parents), dtype=torch.float64).view(len(maps), -1),
            "parents": torch.tensor([k if parent < 0 else parent for k, parent in enumerate(parents)]),
            "segment_groups": torch.tensor(list(segment_groups) or [0]),
            "knots": torch.from_numpy(np.concatenate(at)),
            "heights": torch.from_numpy(np.concatenate(height)),
            "slopes": torch.from_numpy(np.concatenate(slope)),
        }
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, predictions: Tensor, categorical: Tensor) -> Tensor:
        """Calibrate a batch.

        Args:
            predictions: expected values (B, K).
            categorical: ids (B, S), of which the segment's column is read.

        Returns:
            Expected values (B, K).
        """
        coefficients, linear = self.coefficients, self.linear
        interpolated, begins = self.interpolated, self.begins
        if self.segment_column >= 0:
            group = self.segment_groups.index_select(0, categorical.select(1, self.segment_column).long())
            coefficients, linear = coefficients.index_select(0, group), linear.index_select(0, group)
            interpolated, begins = interpolated.index_select(0, group), begins.index_select(0, group)
        a, b, c = coefficients.unbind(2)
        p = predictions.clamp(1e-7, 1 - 1e-7)
        calibrated = torch.where(linear, a * predictions, torch.sigmoid(a * p.log() - b * torch.log1p(-p) + c))
        if self.isotonic:
            at = predictions.double().clamp(1e-9, 1.0) + begins
            left = torch.searchsorted(self.knots, at.contiguous()) - 1
            heights = self.heights[left] + (at - self.knots[left]) * self.slopes[left]
            calibrated = torch.where(interpolated, heights.to(calibrated.dtype), calibrated)
        for _ in range(self.depth):
            calibrated = torch.minimum(calibrated, calibrated.index_select(1, self.parents))
        return calibrated


class CalibratedRanker(nn.Module):
    """A ranker with calibrated predictions, under the ranker's own contract."""

    def __init__(self, ranker: nn.Module, calibration: Calibration) -> None:
        super().__init__()
        self.ranker = ranker
        self.calibration = calibration
        self.train(ranker.training)  # else an export, which restores the mode, would put the ranker into training

    def forward(self, categorical: Tensor, continuous: Tensor) -> Tensor:
        """Map ids (B, S) and features (B, D) to calibrated expected values (B, K)."""
        calibrated: Tensor = self.calibration(self.ranker(categorical, continuous), categorical)
        return calibrated


def log_parts(p: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return log p and log(1 − p) of probabilities, cut as in float32."""
    cut = np.clip(p, _EPS, 1 - _EPS)
    return np.log(cut), np.log1p(-cut)
