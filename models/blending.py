"""Predictions and weights → one score: the same few lines for serving, batch scoring and evaluation."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]

# Below this a prediction counts as this in a geometric blend, where a zero would hide every other objective.
SMALLEST = 1e-12


def blend(predictions: NDArray[Any], weights: NDArray[Any], kind: Literal["linear", "geometric"]) -> Float32Array:
    """Return the score of each row.

    linear: Σ_k w_k f_k. geometric: Π_k f_k^w_k, for predictions of very different scales.

    Args:
        predictions: expected values (B, K), at least 0.
        weights: (K,) for all rows, or (B, K); a negative one makes its objective a cost.
        kind: of the blend.

    Returns:
        Scores (B,) float32; higher ranks first.
    """
    if kind == "geometric":
        logs = np.log(np.maximum(predictions, SMALLEST, dtype=np.float32))
        scores: Float32Array = np.exp((logs * weights).sum(axis=1), dtype=np.float32)
    else:
        scores = (predictions * weights).sum(axis=1, dtype=np.float32)
    return scores


def check_weights(weights: NDArray[Any], names: Sequence[str]) -> Float32Array:
    """Return weights (K,) as float32.

    Raises:
        ValueError: there is not one an objective, or one is not finite.
    """
    if weights.shape != (len(names),):
        listed = ", ".join(names)
        raise ValueError(f"objective_weights must have one value each for {listed}; got shape {list(weights.shape)}")
    for name, weight in zip(names, weights, strict=True):
        if not np.isfinite(weight):
            raise ValueError(f"objective_weights must be finite; got {weight} for {name}")
    return weights.astype(np.float32)


def weights_from(names: Sequence[str], given: Mapping[str, float]) -> Float32Array:
    """Return weights by name as a vector (K,); an objective that is not named weighs nothing.

    Args:
        names: the objectives, in the order of the predictions.
        given: weights by objective.

    Raises:
        ValueError: a name is not an objective, or a weight is not finite.
    """
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"weights must name objectives ({', '.join(names)}); got {name}{hint}")
    return check_weights(np.array([given.get(name, 0.0) for name in names], dtype=np.float32), names)
