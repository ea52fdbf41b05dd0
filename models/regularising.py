"""What keeps a ranker from learning its training rows by heart, applied where their vectors are looked up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from feature_eng.inputs import UNSEEN_ID, VOCABULARY_START


def mask_values(categorical: Tensor, rates: Tensor) -> Tensor:
    """Return ids (B, S) of which a share of each column's vocabulary is shown as unseen.

    Args:
        categorical: ids (B, S).
        rates: share of each column, in [0, 1), (S,).

    Source: Yao et al., Self-supervised Learning for Large-scale Item Recommendations, CIKM 2021.
    """
    drawn = torch.rand(categorical.shape, device=categorical.device) < rates
    return categorical.masked_fill(drawn & (categorical >= VOCABULARY_START), UNSEEN_ID)


def drop_slots(vectors: Tensor, widths: Sequence[int], share: float) -> Tensor:
    """Return vectors (B, ΣE) of which whole slots are 0 and the others larger, so that the mean stays.

    Args:
        vectors: the slots' vectors side by side.
        widths: of each slot's vector, (C,).
        share: of the slots of a row, in [0, 1).

    Source: Volkovs et al., DropoutNet, NeurIPS 2017; Srivastava et al., Dropout, JMLR 2014.
    """
    kept = torch.rand(len(vectors), len(widths), device=vectors.device) >= share
    every = kept.repeat_interleave(torch.tensor(widths, device=vectors.device), 1)
    return vectors * (every.to(vectors.dtype) / (1 - share))


def adversary(vectors: Tensor, gradient: Tensor, length: float) -> Tensor:
    """Return the small change of each row's vectors (B, ΣE) that raises its loss the most.

    Args:
        vectors: (B, ΣE).
        gradient: of the loss by them, (B, ΣE).
        length: of the change, against that of the row's vectors, at least 0.

    Source: Miyato et al., Adversarial Training Methods for Semi-Supervised Text Classification, ICLR 2017, equation 5.
    """
    lengths = vectors.detach().norm(dim=1, keepdim=True) * length
    change: Tensor = lengths * gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return change


def squared_length(vectors: Tensor) -> Tensor:
    """Return half the mean squared length of the rows' vectors (B, ΣE), whose gradient reaches a batch's rows alone.

    Source: Rendle, Factorization Machines with libFM, ACM TIST 2012.
    """
    return vectors.square().sum() / (2 * max(1, len(vectors)))


@contextmanager
def changed_vectors(embedding: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Change what an embedding gives for as long as the context lasts."""
    handle = embedding.register_forward_hook(lambda module, inputs, vectors: change(vectors))
    try:
        yield
    finally:
        handle.remove()
