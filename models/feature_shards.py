"""Training rows as batches of tensors: resident in memory where they fit, else read block by block from disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_eng.inputs import UNSEEN_ID

# categorical (B, S), continuous (B, D), labels (B, K) or (B, K + 1), with the row's position behind the labels
Batch = tuple[Tensor, Tensor, Tensor]

ARRAYS = ("categorical", "continuous", "labels")
POSITIONS = "positions"
# Rows that one read takes: large enough that opening a file costs nothing beside it.
CHUNK_ROWS = 262_144


@dataclass(frozen=True)
class Features:
    """A folder with `categorical.npy` int32 (N, S), `continuous.npy` float32 (N, D) and `labels.npy` float32 (N, K).

    Where it has `positions.npy` float32 (N, 1) too, batches have them behind the labels.
    """

    folder: Path
    rows: int
    columns: tuple[int, ...]  # S, D, K
    size_bytes: int
    positioned: bool = False

    @classmethod
    def open(cls, folder: Path) -> Features:
        """Check the arrays' shapes without reading them.

        Raises:
            FileNotFoundError: one of the three files is missing.
            ValueError: they differ in rows, or have none.
        """
        names = (*ARRAYS, POSITIONS) if (folder / f"{POSITIONS}.npy").exists() else ARRAYS
        arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in names]
        rows = {name: len(array) for name, array in zip(names, arrays, strict=True)}
        if len(set(rows.values())) != 1 or rows["labels"] == 0:
            raise ValueError(f"{folder} must hold arrays of one length above 0; got {rows}")
        columns = tuple(array.shape[1] for array in arrays[: len(ARRAYS)])
        size = sum(array.nbytes for array in arrays)
        return cls(folder, rows["labels"], columns, size, positioned=POSITIONS in names)

    def read(self, start: int, stop: int) -> Batch:
        """Copy the rows from `start` up to `stop` into memory; the files are closed after it."""
        # A map kept open would count every page ever touched as this process's memory.
        maps = [np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS]
        categorical, continuous, labels = (torch.from_numpy(np.array(rows[start:stop])) for rows in maps)
        if self.positioned:
            positions = np.load(self.folder / f"{POSITIONS}.npy", mmap_mode="r")
            labels = torch.cat([labels, torch.from_numpy(np.array(positions[start:stop]))], 1)
        return categorical, continuous, labels

    def chunks(self, rows: int = CHUNK_ROWS) -> Iterator[Batch]:
        """Yield all rows in order, so many at a time."""
        for start in range(0, self.rows, rows):
            yield self.read(start, min(start + rows, self.rows))


class ResidentBatches:
    """Batches out of tensors that stay where they are: in memory, or on a GPU.

    Args:
        rows: all rows.
        batch_rows: rows of a batch; the last one has what is left.
        seed: of the order; None keeps the rows as they come.
    """

    def __init__(self, rows: Batch, batch_rows: int, seed: int | None) -> None:
        self.rows = rows
        self.batch_rows = batch_rows
        self.seed = seed

    def __len__(self) -> int:
        return -(-len(self.rows[0]) // self.batch_rows)

    def __iter__(self) -> Iterator[Batch]:
        yield from _slices(self.rows, self.batch_rows, None if self.seed is None else np.random.default_rng(self.seed))


class StreamedBatches:
    """Batches read from disk: blocks of adjacent rows in random order, and shuffled among the blocks read together.

    Memory holds `blocks` blocks, however many rows there are.

    Args:
        features: the rows on disk.
        batch_rows: rows of a batch and of a block.
        seed: of the order; None keeps the rows as they come.
        blocks: blocks that are read and shuffled together.
    """

    def __init__(self, features: Features, batch_rows: int, seed: int | None, blocks: int = 64) -> None:
        self.features = features
        self.batch_rows = batch_rows
        self.seed = seed
        self.blocks = blocks

    def __len__(self) -> int:
        return -(-self.features.rows // self.batch_rows)

    def __iter__(self) -> Iterator[Batch]:
        if self.seed is None:
            yield from self.features.chunks(self.batch_rows)
            return
        rng = np.random.default_rng(self.seed)
        order = rng.permutation(len(self))
        for first in range(0, len(order), self.blocks):
            parts = [self._block(int(block)) for block in order[first : first + self.blocks]]
            categorical, continuous, labels = (torch.cat(arrays) for arrays in zip(*parts, strict=True))
            yield from _slices((categorical, continuous, labels), self.batch_rows, rng)

    def _block(self, block: int) -> Batch:
        start = block * self.batch_rows
        return self.features.read(start, min(start + self.batch_rows, self.features.rows))


def _slices(rows: Batch, batch_rows: int, rng: np.random.Generator | None) -> Iterator[Batch]:
    categorical, continuous, labels = rows
    count = len(labels)
    order = None if rng is None else torch.from_numpy(rng.permutation(count)).to(labels.device)
    for start in range(0, count, batch_rows):
        if order is None:
            taken = slice(start, start + batch_rows)
            yield categorical[taken], continuous[taken], labels[taken]
        else:
            ids = order[start : start + batch_rows]
            yield categorical[ids], continuous[ids], labels[ids]


BatchSource = Callable[[int, "int | None"], "ResidentBatches | StreamedBatches"]


def batch_source(features: Features, resident_gib: float, device: torch.device) -> BatchSource:
    """Return a maker of batches, `(batch_rows, seed) → batches`, that loads the rows once if they fit.

    Args:
        features: the rows on disk.
        resident_gib: memory that they may take to stay resident, in GiB.
        device: where resident rows stay.
    """
    if features.size_bytes > resident_gib * 2**30:
        return lambda batch_rows, seed: StreamedBatches(features, batch_rows, seed)
    categorical, continuous, labels = (tensor.to(device) for tensor in features.read(0, features.rows))
    return lambda batch_rows, seed: ResidentBatches((categorical, continuous, labels), batch_rows, seed)


@dataclass(frozen=True)
class Summary:
    """What training needs to know of its rows before it starts.

    Attributes:
        base_rates: mean label over the rows where the parent happened, (K,); 0.5 or 1 where there are none.
        means: of the continuous features, (D,).
        scales: deviations of the continuous features, (D,); 1 where a feature is constant.
        unseen_free: columns of `categorical` that never hold the unseen id, (S,).
    """

    base_rates: tuple[float, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    unseen_free: tuple[bool, ...]


def summarise(features: Features, kinds: Sequence[str], parents: Sequence[int]) -> Summary:
    """Read all rows once and return what training needs to know of them."""
    counts, sums, moments, squares, unseen = [], [], [], [], []
    for categorical, continuous, labels in features.chunks():
        count, total = _label_sums(labels.numpy()[:, : len(kinds)], parents)
        counts.append(count)
        sums.append(total)
        wide = continuous.numpy().astype(np.float64)
        moments.append(wide.sum(0))
        squares.append((wide**2).sum(0))
        unseen.append((categorical == UNSEEN_ID).any(0).numpy())
    means = np.sum(moments, 0) / features.rows
    variances = np.maximum(np.sum(squares, 0) / features.rows - means**2, 0)
    scales = np.sqrt(variances)
    count, total = np.sum(counts, 0), np.sum(sums, 0)
    empty = np.array([0.5 if kind == "binary" else 1.0 for kind in kinds])
    return Summary(
        base_rates=tuple(np.where(count > 0, total / np.maximum(count, 1), empty).tolist()),
        means=tuple(means.tolist()),
        scales=tuple(np.where(scales > 1e-6 * np.maximum(np.abs(means), 1), scales, 1.0).tolist()),
        unseen_free=tuple((~np.any(unseen, 0)).tolist()),
    )


def _label_sums(labels: NDArray[np.float32], parents: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return how many rows count for each objective given its parent, and the sum of their labels."""
    counted = ~np.isnan(labels)
    for objective, parent in enumerate(parents):
        if parent >= 0:
            counted[:, objective] &= labels[:, parent] == 1
    return counted.sum(0), np.where(counted, labels, 0).sum(0, dtype=np.float64)
