"""Features row by row out of Python dictionaries, as a ranker computes them whose state is a key-value store."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from benchmarks.peers.features import Columns, Packed, System, Tables
from feature_eng.inputs import UNSEEN_ID


def dictionary_system(tables: Tables) -> System:
    """Return the system; it takes a list of rows, each a dictionary."""
    lists = {name: dict(zip(k.tolist(), ids.tolist(), strict=True)) for name, (k, ids) in tables.vocabularies.items()}
    fitted = (tables.medians.tolist(), tables.means.tolist(), tables.deviations.tolist())
    numbers = list(zip(tables.continuous, *fitted, strict=True))

    def form(columns: Columns) -> list[dict[str, Any]]:
        listed = [values.tolist() for values in columns.values()]
        return [dict(zip(columns, row, strict=True)) for row in zip(*listed, strict=True)]

    def run(rows: list[dict[str, Any]]) -> Packed:
        ids = [[listed.get(row[name], UNSEEN_ID) for name, listed in lists.items()] for row in rows]
        values = [[_number(row[name], *about) for name, *about in numbers] for row in rows]
        return np.array(ids, dtype=np.int32), np.array(values, dtype=np.float32)

    return System(form, run)


def _number(value: float, median: float, mean: float, deviation: float) -> float:
    known = value if math.isfinite(value) else median
    return (math.log1p(max(known, 0.0)) - mean) / deviation
