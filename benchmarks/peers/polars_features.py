"""Features by Polars: a left join with each vocabulary, and expressions, in one lazy query."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from benchmarks.peers.features import Columns, Packed, System, Tables
from feature_eng.inputs import UNSEEN_ID


def polars_system(tables: Tables) -> System:
    """Return the system; it takes a `polars.DataFrame`."""
    lists = {
        name: pl.DataFrame({name: _series(keys), f"{name}_id": ids}).lazy()
        for name, (keys, ids) in tables.vocabularies.items()
    }
    ids = [pl.col(f"{name}_id").fill_null(UNSEEN_ID) for name in lists]
    numbers = [
        (
            (pl.when(pl.col(name).is_finite()).then(pl.col(name)).otherwise(median).clip(lower_bound=0).log1p() - mean)
            / deviation
        ).cast(pl.Float32)
        for name, median, mean, deviation in zip(
            tables.continuous,
            tables.medians.tolist(),
            tables.means.tolist(),
            tables.deviations.tolist(),
            strict=True,
        )
    ]

    def form(columns: Columns) -> pl.DataFrame:
        return pl.DataFrame({name: _series(values) for name, values in columns.items()})

    def run(frame: pl.DataFrame) -> Packed:
        rows = frame.lazy()
        for name, listed in lists.items():
            rows = rows.join(listed, on=name, how="left", maintain_order="left")
        categorical, continuous = pl.collect_all([rows.select(ids), frame.lazy().select(numbers)])
        return categorical.to_numpy(order="c"), continuous.to_numpy(order="c")

    return System(form, run)


def _series(values: Any) -> pl.Series:
    return pl.Series(values, dtype=pl.String if values.dtype == np.dtype(object) else None)
