"""Training rows as batches of tensors: resident in memory where they fit, else read block by block from disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

    Of several processes, each has its own rows, and of every batch those that are its own.

    Args:
        rows: the process's own rows.
        batch_rows: rows of a batch, all processes together; the last one has what is left.
        seed: of the order; None keeps the rows as they come.
        own: which of all rows they are, (N,); all of them where absent.
    """

    def __init__(self, rows: Batch, batch_rows: int, seed: int | None, own: NDArray[np.bool_] | None = None) -> None:
        self.rows = rows
        self.batch_rows = batch_rows
        self.seed = seed
        self.own = own

    def __len__(self) -> int:
        return -(-(len(self.rows[0]) if self.own is None else len(self.own)) // self.batch_rows)

    def __iter__(self) -> Iterator[Batch]:
        rng = None if self.seed is None else np.random.default_rng(self.seed)
        yield from _slices(self.rows, self.batch_rows, rng, self.own)


class StreamedBatches:
    """Batches read from disk: blocks of adjacent rows in random order, and shuffled among the blocks read together.

    Memory holds `blocks` blocks, however many rows there are. Of several processes, each reads its own part of a block.

    Args:
        features: the rows on disk.
        batch_rows: rows of a batch and of a block, all processes together.
        seed: of the order; None keeps the rows as they come.
        blocks: blocks that are read and shuffled together.
        rank: which process this is.
        ranks: how many processes there are.
    """

    def __init__(
        self, features: Features, batch_rows: int, seed: int | None, blocks: int = 64, rank: int = 0, ranks: int = 1
    ) -> None:
        self.features = features
        self.batch_rows = batch_rows
        self.seed = seed
        self.blocks = blocks
        self.rank = rank
        self.ranks = ranks

    def __len__(self) -> int:
        return -(-self.features.rows // self.batch_rows)

    def __iter__(self) -> Iterator[Batch]:
        if self.seed is None:
            yield from (self._block(block) for block in range(len(self)))
            return
        rng = np.random.default_rng(self.seed)
        order = rng.permutation(len(self))
        for first in range(0, len(order), self.blocks):
            together = [int(block) for block in order[first : first + self.blocks]]
            parts = [self._block(block) for block in together]
            categorical, continuous, labels = (torch.cat(arrays) for arrays in zip(*parts, strict=True))
            own = [own_rows(self._rows(block), self.rank, self.ranks) for block in together]
            whole = None if self.ranks == 1 else np.concatenate(own)
            yield from _slices((categorical, continuous, labels), self.batch_rows, rng, whole)

    def _rows(self, block: int) -> int:
        return min(self.batch_rows, self.features.rows - block * self.batch_rows)

    def _block(self, block: int) -> Batch:
        start = block * self.batch_rows
        first, last = part(self._rows(block), self.rank, self.ranks)
        return self.features.read(start + first, start + last)


def part(rows: int, rank: int, ranks: int) -> tuple[int, int]:
    """Return the first row of a process's part of so many rows, and the one after its last."""
    return rows * rank // ranks, rows * (rank + 1) // ranks


def own_rows(rows: int, rank: int, ranks: int) -> NDArray[np.bool_]:
    """Return which rows (N,) are in a process's part."""
    own = np.zeros(rows, dtype=bool)
    own[slice(*part(rows, rank, ranks))] = True
    return own


def _slices(
    rows: Batch, batch_rows: int, rng: np.random.Generator | None, own: NDArray[np.bool_] | None = None
) -> Iterator[Batch]:
    """Yield batches of all rows in a random order, as they are or the part of each that is among the own rows."""
    categorical, continuous, labels = rows
    if own is not None:
        numbers = np.arange(len(own)) if rng is None else rng.permutation(len(own))
        places = np.cumsum(own) - 1
        for start in range(0, len(own), batch_rows):
            batch = numbers[start : start + batch_rows]
            ids = torch.from_numpy(places[batch[own[batch]]]).to(labels.device)
            yield categorical[ids], continuous[ids], labels[ids]
        return
    count = len(labels)
    order = None if rng is None else torch.from_numpy(rng.permutation(count)).to(labels.device)
    for start in range(0, count, batch_rows):
        if order is None:
            taken = slice(start, start + batch_rows)
            yield categorical[taken], continuous[taken], labels[taken]
        else:
            ids = order[start : start + batch_rows]
            yield categorical[ids], continuous[ids], labels[ids]


class BatchSource:
    """Makes an epoch's batches, out of memory where the rows fit; they are read when they are first asked for.

    A copy of it shares the rows, and one that is sent to another process reads its own.

    Args:
        features: the rows on disk.
        resident_gib: memory that the rows of all processes together may take to stay resident, in GiB.
        device: where resident rows stay.
    """

    def __init__(self, features: Features, resident_gib: float, device: torch.device) -> None:
        self.features = features
        self.device = device
        self.resident = features.size_bytes <= resident_gib * 2**30
        self.rows: Batch | None = None

    def __call__(
        self, batch_rows: int, seed: int | None, rank: int = 0, ranks: int = 1
    ) -> ResidentBatches | StreamedBatches:
        """Return the batches of one epoch.

        Args:
            batch_rows: rows of a batch, all processes together.
            seed: of the order; None keeps the rows as they come.
            rank: which process this is.
            ranks: how many processes there are.
        """
        if not self.resident:
            return StreamedBatches(self.features, batch_rows, seed, rank=rank, ranks=ranks)
        if self.rows is None:
            categorical, continuous, labels = self.features.read(*part(self.features.rows, rank, ranks))
            self.rows = categorical.to(self.device), continuous.to(self.device), labels.to(self.device)
        own = own_rows(self.features.rows, rank, ranks) if ranks > 1 else None
        return ResidentBatches(self.rows, batch_rows, seed, own)

    def batches(self, batch_rows: int) -> int:
        """Return how many batches an epoch has."""
        return -(-self.features.rows // batch_rows)

    def __deepcopy__(self, memo: object) -> BatchSource:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"rows": None}


@dataclass(frozen=True)
class Summary:
    """What training needs to know of its rows before it starts.

    Attributes:
        base_rates: mean label over the rows where the parent happened, (K,); 0.5 or 1 where there are none.
        means: of the continuous features, (D,).
        scales: deviations of the continuous features, (D,); 1 where a feature is constant.
        unseen_free: columns of `categorical` that never hold the unseen id, (S,).
        constant: objectives whose labels never vary, of values where the parent happened, (K,).
    """

    base_rates: tuple[float, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    unseen_free: tuple[bool, ...]
    constant: tuple[bool, ...] = ()


def summarise(features: Features, kinds: Sequence[str], parents: Sequence[int]) -> Summary:
    """Read all rows once and return what training needs to know of them.

    Args:
        features: of the training rows.
        kinds: `binary` or `value` for each objective, (K,).
        parents: index of the objective that each one is given, or -1, (K,).

    Raises:
        ValueError: a continuous feature is not finite.
    """
    counts, sums, moments, squares, unseen, ranges = [], [], [], [], [], []
    for categorical, continuous, labels in features.chunks():
        outcomes = labels.numpy()[:, : len(kinds)]
        counted = _counted(outcomes, parents)
        counts.append(counted.sum(0))
        sums.append(np.where(counted, outcomes, 0).sum(0, dtype=np.float64))
        judged = np.where([kind == "value" for kind in kinds], counted, ~np.isnan(outcomes))
        lows, highs = (np.where(judged, outcomes, fill) for fill in (np.inf, -np.inf))
        ranges.append(np.stack([lows.min(0), -highs.max(0)]))
        wide = continuous.numpy().astype(np.float64)
        moments.append(wide.sum(0))
        squares.append((wide**2).sum(0))
        unseen.append((categorical == UNSEEN_ID).any(0).numpy())
    means = np.sum(moments, 0) / features.rows
    if not np.isfinite(means).all():
        column = int(np.flatnonzero(~np.isfinite(means))[0])
        raise ValueError(f"continuous must be finite in {features.folder}; got {means[column]} in column {column}")
    low, high = np.min(ranges, 0) * [[1], [-1]]
    variances = np.maximum(np.sum(squares, 0) / features.rows - means**2, 0)
    scales = np.sqrt(variances)
    count, total = np.sum(counts, 0), np.sum(sums, 0)
    empty = np.array([0.5 if kind == "binary" else 1.0 for kind in kinds])
    return Summary(
        base_rates=tuple(np.where(count > 0, total / np.maximum(count, 1), empty).tolist()),
        means=tuple(means.tolist()),
        scales=tuple(np.where(scales > 1e-6 * np.maximum(np.abs(means), 1), scales, 1.0).tolist()),
        unseen_free=tuple((~np.any(unseen, 0)).tolist()),
        constant=tuple((low >= high).tolist()),
    )


def _counted(labels: NDArray[np.float32], parents: Sequence[int]) -> NDArray[np.bool_]:
    """Return which rows count for each objective given its parent, (B, K)."""
    counted = ~np.isnan(labels)
    for objective, parent in enumerate(parents):
        if parent >= 0:
            counted[:, objective] &= labels[:, parent] == 1
    return counted
