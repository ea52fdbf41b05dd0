"""Cleaned log parts → packed features on disk: three arrays that training slices or maps."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import nvtabular as nvt
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from feature_eng.arrow_columns import plan_columns
from feature_eng.cluster import run_each
from feature_eng.layout import NO_NUMBER, Layout
from feature_eng.operators import list_outputs
from feature_eng.plan import Plan
from feature_eng.schema import Schema

_SAMPLING_SEED = 17
Packed = tuple[NDArray[np.int32], NDArray[np.float32]]


def write_features(
    compute: Callable[[Any], Packed],
    log: Path,
    labels: Sequence[str],
    layout: Layout,
    out: Path,
    advance: Callable[[int], None] = lambda rows: None,
    *,
    position: str | None = None,
    sampled: str | None = None,
    negatives: float = 1.0,
) -> int:
    """Write `categorical.npy` int32 (N, S), `continuous.npy` float32 (N, D) and `labels.npy` float32 (N, K).

    With a position it writes `positions.npy` float32 (N, 1) too. Negatives are left out here, where training rows are
    packed, so that a workflow's statistics are of all rows; losses lift the logits to match.

    Args:
        compute: a part's Arrow table to its packed features: `out_of_fold` or `as_served`.
        log: folder of a cleaned log's parts, which the connected Dask cluster sees under the same path.
        labels: one column an objective.
        layout: the features' places.
        out: folder that appears once it is whole.
        advance: called with the rows of each part that is done.
        position: column of the rows' positions.
        sampled: label of which negatives are left out.
        negatives: share of the rows with that label 0 that are kept, in (0, 1].

    Returns:
        N, the number of rows written.
    """
    parts = sorted(log.glob("*.parquet"))
    whole = [pq.read_metadata(part).num_rows for part in parts]
    sizes = whole
    if sampled is not None and negatives < 1:
        sizes = [int(kept_rows(part, index, sampled, negatives).sum()) for index, part in enumerate(parts)]
    rows = sum(sizes)
    beside = out.with_name(f"{out.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    shapes = {
        "categorical": (np.int32, layout.categorical_width),
        "continuous": (np.float32, len(layout.continuous)),
        "labels": (np.float32, len(labels)),
    }
    if position is not None:
        shapes["positions"] = (np.float32, 1)
    for name, (dtype, width) in shapes.items():
        open_memmap(beside / f"{name}.npy", mode="w+", dtype=dtype, shape=(rows, width)).flush()

    def write(work: tuple[int, Path, int]) -> int:
        index, part, start = work
        table = pq.read_table(part)
        read = int(table.num_rows)
        if sampled is not None and negatives < 1:
            table = table.filter(pa.array(kept_rows(part, index, sampled, negatives)))
            if table.num_rows == 0:
                return read
        label_columns = [table.column(name).to_numpy() for name in labels]
        packed = [*compute(table), np.stack(label_columns, axis=1)]
        if position is not None:
            packed.append(table.column(position).to_numpy()[:, None])
        for name, values in zip(shapes, packed, strict=True):
            mapped = open_memmap(beside / f"{name}.npy", mode="r+")
            mapped[start : start + len(values)] = values
            mapped.flush()
        return read

    starts = np.cumsum([0, *sizes[:-1]])
    for done in run_each(write, zip(range(len(parts)), parts, map(int, starts), strict=True)):
        advance(done)
    shutil.rmtree(out, ignore_errors=True)
    beside.replace(out)
    return int(rows)


def kept_rows(part: Path, index: int, label: str, negatives: float) -> NDArray[np.bool_]:
    """Return which rows of a part are packed: those whose label is not 0, and a share of the others.

    Args:
        part: of a cleaned log.
        index: the part's place in the log; which rows are kept follows from it.
        label: a binary label's column.
        negatives: share of its zeros that is kept, in (0, 1].
    """
    labels = pq.read_table(part, columns=[label]).column(label).to_numpy()
    drawn = np.random.default_rng((_SAMPLING_SEED, index)).random(len(labels))
    kept: NDArray[np.bool_] = (labels != 0) | (drawn < negatives)
    return kept


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
