"""A ranker as one TorchScript file that needs nothing but torch; the only file that calls torch.jit."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn


def export_ranker(ranker: nn.Module, path: Path) -> None:
    """Write a ranker as frozen TorchScript that `torch.jit.load` reads, on a CPU or a GPU.

    Args:
        ranker: a `Ranker`, calibrated or not; its weights are copied, and it is left as it is.
        path: the file; its folder is made where it does not exist.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    training = ranker.training
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*")
        scripted = torch.jit.freeze(torch.jit.script(ranker.eval()))
        torch.jit.save(scripted, path)
    ranker.train(training)
