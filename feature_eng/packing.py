"""Cleaned log parts → packed features on disk: three arrays that training slices or maps."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import nvtabular as nvt
import pyarrow.parquet as pq
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from feature_eng.arrow_columns import plan_columns
from feature_eng.cluster import run_each
from feature_eng.layout import NO_NUMBER, Layout
from feature_eng.operators import list_outputs
from feature_eng.plan import Plan
from feature_eng.schema import Schema

Packed = tuple[NDArray[np.int32], NDArray[np.float32]]


def write_features(
    compute: Callable[[Any], Packed],
    log: Path,
    labels: Sequence[str],
    layout: Layout,
    out: Path,
    advance: Callable[[int], None] = lambda rows: None,
) -> int:
    """Write `categorical.npy` int32 (N, S), `continuous.npy` float32 (N, D) and `labels.npy` float32 (N, K).

    Args:
        compute: a part's Arrow table to its packed features: `out_of_fold` or `as_served`.
        log: folder of a cleaned log's parts, which the connected Dask cluster sees under the same path.
        labels: one column an objective.
        layout: the features' places.
        out: folder that appears once it is whole.
        advance: called with the rows of each part that is done.

    Returns:
        N, the number of rows.
    """
    parts = sorted(log.glob("*.parquet"))
    sizes = [pq.read_metadata(part).num_rows for part in parts]
    rows = sum(sizes)
    beside = out.with_name(f"{out.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    shapes = {
        "categorical": (np.int32, layout.categorical_width),
        "continuous": (np.float32, len(layout.continuous)),
        "labels": (np.float32, len(labels)),
    }
    for name, (dtype, width) in shapes.items():
        open_memmap(beside / f"{name}.npy", mode="w+", dtype=dtype, shape=(rows, width)).flush()

    def write(work: tuple[Path, int]) -> int:
        part, start = work
        table = pq.read_table(part)
        label_columns = [table.column(name).to_numpy() for name in labels]
        packed = (*compute(table), np.stack(label_columns, axis=1))
        for name, values in zip(shapes, packed, strict=True):
            mapped = open_memmap(beside / f"{name}.npy", mode="r+")
            mapped[start : start + len(values)] = values
            mapped.flush()
        return int(table.num_rows)

    starts = np.cumsum([0, *sizes[:-1]])
    for done in run_each(write, zip(parts, map(int, starts), strict=True)):
        advance(done)
    shutil.rmtree(out, ignore_errors=True)
    beside.replace(out)
    return int(rows)


def out_of_fold(workflow: nvt.Workflow, layout: Layout) -> Callable[[Any], Packed]:
    """Return what computes a training part: a row's statistics come from the other folds."""
    return lambda table: pack(workflow.transform(table.to_pandas()), layout)


def as_served(plan: Plan, schema: Schema) -> Callable[[Any], Packed]:
    """Return what computes a part as serving would."""
    return lambda table: plan.run(plan_columns(table, schema.inputs), table.num_rows)


def pack(frame: Any, layout: Layout) -> Packed:
    """Return a transformed pandas or cuDF frame as `categorical` int32 (B, S) and `continuous` float32 (B, D)."""
    ids = [name for s in layout.categorical for name in (list_outputs(s.name, s.width) if s.width > 1 else [s.name])]
    numbers = [] if layout.continuous == (NO_NUMBER,) else list(layout.continuous)
    continuous = _columns(frame, numbers, np.float32)
    return _columns(frame, ids, np.int32), continuous if numbers else np.zeros((len(frame), 1), np.float32)


def _columns(frame: Any, names: list[str], dtype: type) -> NDArray[Any]:
    """Return columns as one array in host memory, (B, 0) for no columns."""
    packed: NDArray[Any] = np.empty((len(frame), len(names)), dtype=dtype)
    for index, name in enumerate(names):
        packed[:, index] = frame[name].to_numpy()
    return packed
