"""Features by plain numpy: a binary search in each sorted vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.features import Columns, Packed, System, Tables, is_text
from feature_eng.inputs import UNSEEN_ID

TEXT = "S24"  # numpy searches strings of one fixed width; no key of the benchmark is longer


def numpy_system(tables: Tables) -> System:
    """Return the system; its strings are ASCII in numpy's fixed width."""
    lists = {name: (_plain(keys), ids) for name, (keys, ids) in tables.vocabularies.items()}

    def form(columns: Columns) -> Columns:
        return {name: _plain(values) for name, values in columns.items()}

    def run(columns: Columns) -> Packed:
        ids = [_ids(columns[name], *listed) for name, listed in lists.items()]
        values = np.stack([columns[name] for name in tables.continuous], axis=1)
        filled = np.where(np.isfinite(values), values, tables.medians)
        logs = np.log(np.maximum(filled, np.float32(0)) + np.float32(1))
        return np.stack(ids, axis=1), (logs - tables.means) / tables.deviations

    return System(form, run)


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(TEXT) if is_text(values) else values


def _ids(values: NDArray[Any], keys: NDArray[Any], ids: NDArray[np.int32]) -> NDArray[np.int32]:
    at = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
    return np.where(keys[at] == values, ids[at], np.int32(UNSEEN_ID))
