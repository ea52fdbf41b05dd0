"""Schema to NVTabular workflow: built, fitted and run on Dask."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import nvtabular as nvt
import pandas as pd
import pyarrow.parquet as pq
from dask.dataframe.io.io import from_delayed
from dask.delayed import delayed
from merlin.core.dispatch import get_lib
from merlin.dag import ColumnSelector
from nvtabular import ops

from feature_eng.inputs import NULL_INT, NULL_STRING
from feature_eng.operators import (
    NO_FOLD,
    FillMedian,
    HashedIds,
    KeyStatistic,
    LogOp,
    MomentPart,
    Normalize,
    VocabularyIds,
    WordIds,
)
from feature_eng.schema import (
    Categorical,
    CategoricalList,
    Column,
    GroupStatistic,
    Hashed,
    Schema,
    Step,
    TargetEncoding,
    Text,
    TimePart,
)
from feature_eng.splitting import FOLD_COLUMN


def build_workflow(schema: Schema) -> nvt.Workflow:
    """Return the unfitted workflow of a schema: one chain of operators a feature.

    Its outputs are the layout's columns, a list's cells as `name__0`, `name__1`, …. Besides the schema's inputs it
    reads the columns that `serving_frame` adds.
    """
    return nvt.Workflow(reduce(add, [_chain(feature, schema) for feature in schema.features]))


def _chain(feature: Column, schema: Schema) -> Any:
    if isinstance(feature, Categorical):
        return [feature.name] >> VocabularyIds(feature.name, feature.min_count)
    if isinstance(feature, CategoricalList) and feature.history_of is not None:
        target = next(c for c in schema.columns if isinstance(c, Categorical) and c.name == feature.history_of)
        ids = VocabularyIds(feature.name, target.min_count, feature.max_length, target.name)
        return [feature.name, target.name] >> ids
    if isinstance(feature, CategoricalList):
        return [feature.name] >> VocabularyIds(feature.name, feature.min_count, feature.max_length)
    if isinstance(feature, Text):
        return [feature.name] >> WordIds(feature.name, feature.buckets, feature.max_length)
    if isinstance(feature, Hashed):
        return list(feature.of) >> HashedIds(feature.name, feature.buckets)
    if isinstance(feature, TimePart) and feature.part != "age_days":
        return list(feature.of) >> MomentPart(feature.name, feature.part)
    steps = _step_operators(getattr(feature, "steps", ()))
    return reduce(lambda node, op: node >> op, steps, _number(feature, schema))


def _number(feature: Column, schema: Schema) -> Any:
    """Return the node that computes a continuous feature before its transform."""
    if isinstance(feature, TimePart):
        return list(feature.of) >> MomentPart(feature.name, feature.part)
    if isinstance(feature, TargetEncoding):
        label = next(o.label for o in schema.objectives if o.name == feature.target)
        statistic = KeyStatistic(feature.name, "mean", label, FOLD_COLUMN, feature.smooth)
        return [*feature.of, label, FOLD_COLUMN] >> statistic
    if isinstance(feature, GroupStatistic):
        fold = FOLD_COLUMN if feature.statistic == "count" else None
        extra = [name for name in (feature.column, fold) if name]
        return [*feature.of, *extra] >> KeyStatistic(feature.name, feature.statistic, feature.column, fold)
    return ColumnSelector([feature.name])


def _step_operators(steps: tuple[Step, ...]) -> Iterator[Any]:
    for step in steps:
        values = [float(np.float32(v)) for v in step.values]  # as in columns, whose 0.7 lies below float64's 0.7
        if step.op == "fill_median":
            yield FillMedian()
        elif step.op == "fill":
            yield ops.FillMissing(values[0])
        elif step.op == "clip":
            yield ops.Clip(min_value=values[0], max_value=values[1])
        elif step.op == "log":
            yield ops.Clip(min_value=0)
            yield LogOp()
        elif step.op == "normalize":
            yield Normalize()
        else:  # the edge below all others makes ids start at 1
            yield ops.Bucketize([-np.inf, *values])


def fit_workflow(schema: Schema, log: Path) -> nvt.Workflow:
    """Fit a schema's workflow on a cleaned training log, on the Dask cluster that is connected or in process.

    Args:
        schema: with every dtype resolved.
        log: folder of Parquet parts with the inputs, the labels and the folds; a part must fit in memory.

    Raises:
        ValueError: the log has no rows.
    """
    with warnings.catch_warnings():
        _hush()
        return build_workflow(schema).fit(_dataset(schema, log))


def serving_frame(schema: Schema, frame: Any) -> Any:
    """Return request rows with the columns that only training knows: no labels, and a fold that stands for no fold."""
    labels = {name: np.float32(np.nan) for name in (*schema.label_columns, *schema.fit_only_columns)}
    return frame.assign(**labels, **{FOLD_COLUMN: np.int8(NO_FOLD)})


def save_workflow(workflow: nvt.Workflow, folder: Path) -> None:
    """Write a fitted workflow in NVTabular's own form, a pickle: for offline use alone."""
    workflow.save(str(folder))


def load_workflow(folder: Path) -> nvt.Workflow:
    """Read a workflow that `save_workflow` wrote; this runs code from the folder, so serving must not call it."""
    with warnings.catch_warnings():
        _hush()
        return nvt.Workflow.load(str(folder))


def _dataset(schema: Schema, log: Path) -> nvt.Dataset:
    """Return the parts as delayed reads, each done once a phase; Dask would fuse reads of its own into operators."""
    nulls = {i.name: NULL_STRING if i.dtype == "string" else NULL_INT for i in schema.inputs if i.is_list}
    parts = [part for part in sorted(log.glob("*.parquet")) if pq.read_metadata(part).num_rows]
    if not parts:
        raise ValueError(f"log must have at least one row; got none in {log}")
    meta = _read(parts[0], nulls).iloc[:0]
    return nvt.Dataset(from_delayed([delayed(_read, pure=True)(part, nulls) for part in parts], meta=meta))


def _read(part: Path, nulls: dict[str, str | int]) -> Any:
    """Read a part; a list column without values gets a null, which no vocabulary counts: NVTabular needs its dtype."""
    library = get_lib()
    frame = library.read_parquet(str(part))
    for name, null in nulls.items():
        if library is pd and not any(map(len, frame[name])):
            frame.at[frame.index[0], name] = [null]
    return frame


def _hush() -> None:
    """Silence what NVTabular says of every CPU and every TensorFlow-free machine."""
    for message in (".*Tensorflow dtype mappings.*", ".*to CPU mode.*", ".*in CPU mode.*", ".*find_common_type.*"):
        warnings.filterwarnings("ignore", message)
