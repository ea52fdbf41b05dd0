"""Raw columns → one prediction per objective: the plan and the exported ranker, as serving runs them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from feature_eng.plan import Plan
from feature_eng.plan_files import load_plan

BATCH_ROWS = 4_096  # so few that a processor's caches hold what the ranker makes of them
GPU_BATCH_ROWS = 16_384


@dataclass(frozen=True)
class Predictor:
    """A plan and the TorchScript ranker that was trained on its features."""

    plan: Plan
    ranker: Any
    device: torch.device

    def predict(self, columns: Mapping[str, Any], rows: int, threads: int | None = None) -> NDArray[np.float32]:
        """Return the expected value of each objective, (B, K), of B rows given as a plan's columns.

        Args:
            columns: see `Plan.run`.
            rows: B.
            threads: most threads that work on them; by default the processor's.
        """
        categorical, continuous = self.plan.run(columns, rows, threads=threads)
        with _torch_threads(threads):
            return self.rank(categorical, continuous)

    def rank(self, categorical: NDArray[np.int32], continuous: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the expected value of each objective, (B, K), of packed features (B, S) and (B, D)."""
        batches = []
        rows = BATCH_ROWS if self.device.type == "cpu" else GPU_BATCH_ROWS
        with torch.inference_mode():
            for start in range(0, len(categorical) or 1, rows):  # no rows are a batch too
                batch = slice(start, start + rows)
                ids = torch.from_numpy(categorical[batch]).to(self.device)
                numbers = torch.from_numpy(continuous[batch]).to(self.device)
                batches.append(self.ranker(ids, numbers).cpu().numpy())
        predictions: NDArray[np.float32] = np.concatenate(batches)
        return predictions


@contextmanager
def _torch_threads(count: int | None) -> Iterator[None]:
    """Let the calling thread's operations share at most this many threads, without end where None."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def load_predictor(plan: Path, ranker: Path) -> Predictor:
    """Read a plan's folder and a TorchScript file, onto the GPU if there is one; once a process while they stay."""
    return _loaded(plan, ranker, _version(plan / "plan.json"), _version(ranker))


@lru_cache(maxsize=2)
def _loaded(plan: Path, ranker: Path, *versions: tuple[int, ...]) -> Predictor:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Predictor(load_plan(plan), torch.jit.load(str(ranker), map_location=device), device)


def _version(file: Path) -> tuple[int, ...]:
    """Return what changes when a file is replaced, as a bundle's are when it is fitted anew."""
    stat = file.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
