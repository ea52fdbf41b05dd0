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

# A geometric blend's logarithm is cut to ± this, so that its score is a finite float32 above 0.
LARGEST_LOG = 87.0


def blend(predictions: NDArray[Any], weights: NDArray[Any], kind: Literal["linear", "geometric"]) -> Float32Array:
    """Return the score of each row.

    linear: Σ_k w_k f_k. geometric: Π_k f_k^w_k, for predictions of very different scales.

    Args:
        predictions: expected values (B, K), at least 0.
        weights: (K,) for all rows, or (B, K); a negative one makes its objective a cost.
        kind: of the blend.

    Returns:
        Scores (B,) float32; higher ranks first.

    Raises:
        ValueError: there is not one weight a prediction, or `kind` is neither.
    """
    if weights.shape not in (predictions.shape[1:], predictions.shape):
        shapes = f"{list(weights.shape)} for {list(predictions.shape)}"
        raise ValueError(f"weights must have shape [K] or [B, K], like predictions; got {shapes}")
    if kind == "linear":
        return _weighed(predictions, weights)
    if kind == "geometric":
        logs = _weighed(np.log(np.maximum(predictions, SMALLEST, dtype=np.float32)), weights)
        scores: Float32Array = np.exp(np.clip(logs, -LARGEST_LOG, LARGEST_LOG))
        return scores
    raise ValueError(f"kind must be linear or geometric; got {kind}")


def check_weights(weights: NDArray[Any], names: Sequence[str]) -> Float32Array:
    """Return weights (K,) as float32.

    Raises:
        ValueError: there is not one number an objective, or one is not finite in float32.
    """
    if weights.dtype.kind not in "fiu":
        raise ValueError(f"objective_weights must be numbers; got {weights.dtype}")
    if weights.shape != (len(names),):
        listed = ", ".join(names)
        raise ValueError(f"objective_weights must have one value each for {listed}; got shape {list(weights.shape)}")
    with np.errstate(over="ignore"):
        single = weights.astype(np.float32)
    for name, weight in zip(names, single, strict=True):
        if not np.isfinite(weight):
            raise ValueError(f"objective_weights must be finite; got {weight} for {name}")
    return single


def weights_from(names: Sequence[str], given: Mapping[str, float]) -> Float32Array:
    """Return weights by name as a vector (K,); an objective that is not named weighs nothing.

    Args:
        names: the objectives, in the order of the predictions.
        given: weights by objective.

    Raises:
        ValueError: a name is not an objective, or a weight is not finite in float32.
    """
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"weights must name objectives ({', '.join(names)}); got {name}{hint}")
    return check_weights(np.array([given.get(name, 0.0) for name in names], dtype=np.float64), names)


def _weighed(columns: NDArray[Any], factors: NDArray[Any]) -> Float32Array:
    """Return Σ_k of columns (B, K) times factors (K,) or (B, K), added in the same order for both."""
    contiguous = (np.ascontiguousarray(array, dtype=np.float32) for array in (columns, factors))
    total: Float32Array = np.einsum("bk,k->b" if factors.ndim == 1 else "bk,bk->b", *contiguous)
    return total
