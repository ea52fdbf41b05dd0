"""The baseline that a ranker must beat: each item's mean labels, whoever is asking."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SMOOTHING_ROWS = 20.0


@dataclass(frozen=True)
class Popularity:
    """Mean labels (V, K) of items (V,), ascending, and over all rows (K,)."""

    items: Array
    means: NDArray[np.float32]
    overall: NDArray[np.float32]

    def predict(self, items: Array) -> NDArray[np.float32]:
        """Return the expected labels (B, K) of rows by their items (B,); the overall mean for an unknown item."""
        items = _comparable(items)
        at = np.minimum(np.searchsorted(self.items, items), len(self.items) - 1)
        known = self.items[at] == items
        return np.where(known[:, None], self.means[at], self.overall)

    def save(self, path: Path) -> None:
        """Write the three arrays as a NumPy archive."""
        np.savez(path, items=self.items, means=self.means, overall=self.overall)

    @classmethod
    def load(cls, path: Path) -> Popularity:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            return cls(stored["items"], stored["means"], stored["overall"])


def item_popularity(items: Array, labels: Array) -> Popularity:
    """Return the mean labels of each item of a training log, with `SMOOTHING_ROWS` rows of the overall mean mixed in.

    Args:
        items: of the rows, (N,), int64 or strings.
        labels: (N, K), NaN where unknown.
    """
    listed, code = np.unique(_comparable(items), return_inverse=True)
    overall = np.nanmean(labels, axis=0, dtype=np.float64)
    means = np.empty((len(listed), labels.shape[1]), dtype=np.float32)
    for index, mean in enumerate(overall):
        known = ~np.isnan(labels[:, index])
        rows = np.bincount(code[known], minlength=len(listed))
        sums = np.bincount(code[known], labels[known, index], minlength=len(listed))
        means[:, index] = (sums + SMOOTHING_ROWS * mean) / (rows + SMOOTHING_ROWS)
    return Popularity(listed, means, overall.astype(np.float32))


def _comparable(items: Array) -> Array:
    return items.astype(np.str_) if items.dtype.kind == "O" else items
