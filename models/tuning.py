"""What a search may maximise: one number for a ranker on validation rows, higher is better.

Three kinds of it: an objective's gain, value captured under the blend, and the hypervolume of what moving the blend's
weights can reach. B rows, K objectives, N points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback

from models.blending import blend
from models.exposure import place_weights
from models.feature_shards import Batch

Array = NDArray[Any]
Float64Array = NDArray[np.float64]

# Values by name besides those of the objectives.
VALUE, HYPERVOLUME = "value", "hypervolume"
# Weight vectors that a front is made of, about as many whatever K is.
_DIVISIONS = {1: 1, 2: 20, 3: 6, 4: 4, 5: 3}


def top_shares(scores: Array, groups: Array, k: int) -> Float64Array:
    """Return how much of each row stands in the first k places of its group: 1, 0, or a share where scores tie.

    Args:
        scores: higher ranks first, (B,).
        groups: each row's request, (B,).
        k: places that count, at least 1.

    Raises:
        ValueError: lengths differ or are 0, a score is not finite, or k is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1; got {k}")
    return place_weights(scores, groups, lambda places: places < k)


def captured_by_objective(scores: Array, labels: Array, requests: Array, k: int) -> Float64Array:
    """Return what the top k of every request collect of each objective, over the most that any order could, (K,).

    Args:
        scores: one for all objectives, (B,).
        labels: at least 0, (B, K); NaN where unknown, which leaves the row out for that objective.
        requests: each row's request, (B,).
        k: places that count, at least 1.

    Returns:
        Shares in [0, 1]; NaN for an objective that never happened.

    Raises:
        ValueError: lengths differ or are 0, a score is not finite, or k is below 1.
    """
    known = np.isfinite(labels)
    shares = top_shares(scores, requests, k) if known.all() else None
    captured = np.full(labels.shape[1], np.nan)
    for objective in range(labels.shape[1]):
        rows = known[:, objective]
        if not rows.any():
            continue
        gains = labels[rows, objective].astype(np.float64)
        own = top_shares(scores[rows], requests[rows], k) if shares is None else shares
        most = gains @ top_shares(gains, requests[rows], k)
        captured[objective] = gains @ own / most if most > 0 else np.nan
    return captured


def worth_captured(
    predictions: Array,
    labels: Array,
    requests: Array,
    *,
    weights: Sequence[float],
    blend_kind: Literal["linear", "geometric"] = "linear",
    k: int = 10,
) -> float:
    """Return what the top k by the blend's score collect of Σ_k w_k y_k, over the most that any order could.

    Args:
        predictions: expected values, (B, K).
        labels: what happened, (B, K); a row counts where all labels that weigh something are known.
        requests: each row's request, (B,).
        weights: of the blend, (K,); what they make of a row's labels counts as 0 where it is negative.
        blend_kind: of the score.
        k: places that count, at least 1.

    Returns:
        A share in [0, 1]; NaN where nothing of worth happened.

    Raises:
        ValueError: a prediction is not finite, or k is below 1.
    """
    scores = blend(predictions, np.asarray(weights, dtype=np.float32), blend_kind)
    return float(captured_by_objective(scores, worth(labels, weights)[:, None], requests, k)[0])


def worth(labels: Array, weights: Sequence[float]) -> Float64Array:
    """Return what each row turned out to be worth under a blend's weights: max(0, Σ_k w_k y_k), (B,).

    Args:
        labels: what happened, (B, K).
        weights: of the blend, (K,).

    Returns:
        At least 0; NaN where a label that weighs something is unknown.
    """
    vector = np.asarray(weights, dtype=np.float64)
    worths: Float64Array = np.maximum(np.where(vector != 0, labels, 0.0) @ vector, 0.0)
    return worths


def simplex_lattice(objectives: int, divisions: int) -> Float64Array:
    """Return all weight vectors (N, K) of multiples of 1 / `divisions` that sum to 1.

    Source: Das and Dennis, Normal-boundary intersection, SIAM Journal on Optimization 1998.
    """
    slots = divisions + objectives - 1
    bars = np.array(list(combinations(range(slots), objectives - 1)), dtype=np.int64)
    edges = np.pad(bars, ((0, 0), (1, 1)), constant_values=((0, 0), (-1, slots)))
    lattice: Float64Array = (np.diff(edges, axis=1) - 1) / divisions
    return lattice


def reachable(predictions: Array, labels: Array, requests: Array, k: int) -> Float64Array:
    """Return what moving a linear blend's weights can reach: `captured_by_objective` for each weight vector, (N, K).

    Weights are those of `simplex_lattice`, of predictions that are scaled to a mean of 1.

    Args:
        predictions: expected values, (B, K).
        labels: what happened, (B, K); NaN where unknown.
        requests: each row's request, (B,).
        k: places that count, at least 1.
    """
    objectives = predictions.shape[1]
    scaled = predictions / np.maximum(predictions.mean(axis=0), 1e-12)
    lattice = simplex_lattice(objectives, _DIVISIONS.get(objectives, 2))
    return np.stack([captured_by_objective(scaled @ weights, labels, requests, k) for weights in lattice])


def random_capture(labels: Array, requests: Array, k: int) -> Float64Array:
    """Return what a random order captures of each objective, (K,); see `captured_by_objective`."""
    return captured_by_objective(np.zeros(len(labels)), labels, requests, k)


def reachable_hypervolume(predictions: Array, labels: Array, requests: Array, k: int) -> float:
    """Return the hypervolume of what the blend's weights can reach, as a share of what there is above a random order.

    Π_k (c_k − r_k) / (1 − r_k) of the dominated volume, where c is captured and r what a random order captures: 0 is no
    better than chance, 1 all of every objective at once.

    Args:
        predictions: expected values, (B, K).
        labels: what happened, (B, K); NaN where unknown.
        requests: each row's request, (B,).
        k: places that count, at least 1.

    Raises:
        ValueError: an objective never happened, or no request has more than k rows of which some matter.
    """
    chance = random_capture(labels, requests, k)
    if not (chance < 1).all():
        raise ValueError(f"k must leave every objective something to rank; got {k}, where chance captures {chance}")
    return hypervolume((reachable(predictions, labels, requests, k) - chance) / (1 - chance), np.zeros(len(chance)))


def hypervolume(points: Array, reference: Array) -> float:
    """Return the volume that points dominate above a reference point; all K coordinates are better when larger.

    Args:
        points: (N, K).
        reference: (K,); what a point has below it counts for nothing.

    Raises:
        ValueError: a coordinate is not finite.

    Source: Zitzler and Thiele, Multiobjective Optimization Using Evolutionary Algorithms, PPSN 1998; computed as While,
        Bradstreet and Barone, A Fast Way of Calculating Exact Hypervolumes, IEEE TEC 2012, equations 1 to 3.
    """
    wrong = ~np.isfinite(points)
    if wrong.any():
        raise ValueError(f"points must be finite; got {points[wrong][0]}")
    above = np.asarray(points, dtype=np.float64) - reference
    above = above[(above > 0).all(axis=1)]
    return _volume(above[non_dominated(above)])


def non_dominated(points: Array) -> NDArray[np.bool_]:
    """Return which points (N, K) no other one equals or passes in every coordinate; of equal ones the first stays."""
    kept = np.ones(len(points), dtype=bool)
    for place, point in enumerate(points):
        others = points[kept]
        at_least, more = (others >= point).all(axis=1), (others > point).any(axis=1)
        earlier = np.flatnonzero(kept) < place
        kept[place] = not (at_least & (more | earlier)).any()
    return kept


def _volume(front: Float64Array) -> float:
    """Return the volume between 0 and the points of a front: each one's own, without what later ones cover too."""
    total = 0.0
    for place, point in enumerate(front):
        covered = np.minimum(front[place + 1 :], point)
        total += float(np.prod(point)) - (_volume(covered[non_dominated(covered)]) if len(covered) else 0.0)
    return total


Value = Callable[[Array], float]  # predictions (B, K) on the validation rows → what is maximised


class EpochValues(Callback):
    """Keeps what each validation was worth and tells of it, while the averaged weights are in place.

    Args:
        value: of the predictions of all validation rows; None where the objective's gain is what counts.
        objective: index of that objective.
        told: called after each epoch with its index, and the value of the best epoch so far by `val_score`.

    Raises:
        ValueError: a value is not finite.
    """

    def __init__(self, value: Value | None, objective: int, told: Callable[[int, float], None]) -> None:
        self.value = value
        self.objective = objective
        self.told = told
        self.values: list[float] = []
        self.scores: list[float] = []

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the last epoch's predictions."""
        self.predictions: list[Array] = []

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Predict a batch, where predictions matter."""
        if self.value is not None:
            with torch.no_grad():
                ranker: Any = pl_module.ranker
                self.predictions.append(ranker(batch[0], batch[1]).float().cpu().numpy())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Work out the epoch's value and tell of the best one."""
        figures = trainer.callback_metrics
        if self.value is None:
            worth = 1 - float(figures[f"val_{self.objective}"])
        else:
            worth = self.value(np.concatenate(self.predictions))
        if not np.isfinite(worth):
            raise ValueError(f"value must be finite; got {worth} after epoch {trainer.current_epoch + 1}")
        self.values.append(worth)
        self.scores.append(float(figures["val_score"]))
        self.told(trainer.current_epoch, self.values[int(np.argmin(self.scores))])
