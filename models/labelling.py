"""Rows without labels: what a ranker is sure of, and which of them a person should label first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import xlogy
from torch import Tensor


def pseudo_labels(predictions: Tensor, labels: Tensor, is_binary: Tensor, confidence: float) -> Tensor:
    """Return 0 or 1 where a label is unknown and its prediction sure, NaN elsewhere.

    Args:
        predictions: expected values, (B, K).
        labels: (B, K), NaN where unknown.
        is_binary: which objectives get pseudo-labels, (K,).
        confidence: least probability of a class to be taken for sure, in (0.5, 1).

    Returns:
        (B, K).

    Source: Lee, Pseudo-Label, ICML Workshop on Challenges in Representation Learning 2013; Sohn et al., FixMatch,
    NeurIPS 2020, for the threshold.
    """
    sure = (predictions >= confidence) | (predictions <= 1 - confidence)
    asked = labels.isnan() & sure & is_binary
    return (predictions > 0.5).to(labels.dtype).masked_fill(~asked, torch.nan)


def label_entropy(
    predictions: NDArray[np.float32], kinds: Sequence[str], parents: Sequence[int]
) -> NDArray[np.float64]:
    """Return how many nats the binary labels of a row would tell, as far as the predictions know: their joint entropy.

    A label that is given another has the entropy of p(k | parent) where the parent happens, and none elsewhere.

    Args:
        predictions: expected values, (B, K).
        kinds: `binary` or `value` for each objective, (K,).
        parents: index of the objective that each one is multiplied by, or -1, (K,).

    Returns:
        (B,).

    Source: Settles, Active Learning Literature Survey, 2009, section 3.1.
    """
    p = np.clip(predictions.astype(np.float64), 0, 1)
    total = np.zeros(len(p))
    for k, (kind, parent) in enumerate(zip(kinds, parents, strict=True)):
        if kind != "binary":
            continue
        happens = p[:, parent] if parent >= 0 else np.ones(len(p))
        given = np.divide(p[:, k], happens, out=np.zeros(len(p)), where=happens > 0).clip(0, 1)
        total -= happens * (xlogy(given, given) + xlogy(1 - given, 1 - given))
    return total


def most_telling(scores: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return the places of the highest scores, highest first; of equal ones the earlier."""
    return np.argsort(-scores, kind="stable")[:count]
