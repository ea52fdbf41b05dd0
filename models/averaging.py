"""The average of the weights over a training's steps, which validates and predicts while the last ones train on."""

from __future__ import annotations

from functools import partial

from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


class PolynomialAveraging(WeightAveraging):
    """Keeps a polynomial-decay average of the weights; its window grows with the training, so it needs no tuning.

    Args:
        recency: η, at least 0; after t steps the average spans about the last t / η of them; 0 weighs all alike.
        every: of how many steps of an optimizer one counts, at least 1.

    Raises:
        ValueError: `recency` is below 0.

    Source: Shamir and Zhang, Stochastic Gradient Descent for Non-smooth Optimization, ICML 2013, section 3.
    """

    def __init__(self, recency: float, every: int) -> None:
        if recency < 0:
            raise ValueError(f"averaging must be at least 0; got {recency}")
        super().__init__(use_buffers=False, avg_fn=partial(polynomial_average, recency=recency))
        self.every = every

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Return whether a step counts."""
        return step_idx is not None and (step_idx + 1) % self.every == 0


def polynomial_average(average: Tensor, current: Tensor, count: Tensor | int, *, recency: float) -> Tensor:
    """Return the average of `count` + 1 tensors, of which `average` holds the first `count`."""
    return average.lerp(current, float((recency + 1) / (recency + 1 + count)))
