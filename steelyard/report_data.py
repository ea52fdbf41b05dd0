"""What a report looks at besides predictions: a sample of a cleaned log, columns alone, and another bundle's view."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feature_eng.arrow_columns import plan_columns
from feature_eng.inputs import NULL_INT, Input
from feature_eng.schema import Schema
from models.bootstrap import Float64Array
from models.leaks import number_codes, skill_alone, value_codes
from models.prediction import Predictor, load_predictor
from steelyard.bundle import Bundle

Array = NDArray[Any]

# Distinct integers above which a column may be a quantity, and is tried as one too.
_MANY = 1000


def sample_rows(log: Path, rows: int, seed: int = 0) -> pa.Table:
    """Return rows of a cleaned log's parts drawn at random, in their order; all where there are no more.

    Args:
        log: folder of the parts.
        rows: how many, about.
        seed: of the draw.
    """
    parts = sorted(log.glob("*.parquet"))
    counts = [pq.read_metadata(part).num_rows for part in parts]
    share = min(1.0, rows / max(sum(counts), 1))
    rng = np.random.default_rng(seed)
    tables = []
    for part, count in zip(parts, counts, strict=True):
        taken = np.sort(rng.choice(count, round(share * count), replace=False))
        tables.append(pq.read_table(part).take(pa.array(taken)))
    return pa.concat_tables(tables)


def labels_of(schema: Schema, table: pa.Table) -> NDArray[np.float32]:
    """Return what happened in a cleaned table's rows, (B, K)."""
    columns = [table.column(objective.label).to_numpy() for objective in schema.objectives]
    labels: NDArray[np.float32] = np.stack(columns, axis=1).astype(np.float32)
    return labels


def shuffled_predictions(predictor: Predictor, schema: Schema, table: pa.Table) -> Callable[[str | None, Array], Array]:
    """Return what predicts a table's rows with one raw column in another order, and what derives from it too."""
    inputs = {each.name: each for each in schema.inputs}
    whole = plan_columns(table, inputs.values())

    def predict(name: str | None, order: Array) -> Array:
        columns = whole
        if name is not None:
            moved = {name: table.column(name).combine_chunks().take(pa.array(order))}
            columns = whole | plan_columns(moved, [inputs[name]])
        return predictor.predict(columns, table.num_rows)

    return predict


def skills_alone(schema: Schema, table: pa.Table, requests: Array | None, seed: int = 0) -> dict[str, Float64Array]:
    """Return how well each raw column alone orders each objective, (K,); see `skill_alone`.

    Args:
        schema: of the table.
        table: cleaned.
        requests: each row's request, (B,), whose rows are learnt from or tried together.
        seed: of the halves.
    """
    codes = np.arange(table.num_rows) if requests is None else value_codes(requests)
    halves = np.random.default_rng(seed).random(int(codes.max()) + 1)[codes] < 0.5
    labels = labels_of(schema, table)
    found = {}
    for given in schema.inputs:
        views = [skill_alone(own, labels, halves) for own in column_codes(table, given)]
        found[given.name] = np.max(views, axis=0)
    for name, target in histories_of(schema):
        found[f"{target} in {name}"] = skill_alone(holds(table.column(name), table.column(target)), labels, halves)
    return found


def column_codes(table: pa.Table, given: Input) -> list[NDArray[np.int64]]:
    """Return the ways to look at a raw column as codes (B,): its values, its quantiles, or a list's length."""
    column = table.column(given.name).combine_chunks()
    if given.is_list:
        return [column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)]
    if given.dtype == "string":
        return [_text_codes(column)]
    values = column.to_numpy(zero_copy_only=False)
    if given.dtype in ("float32", "float64"):
        return [number_codes(values.astype(np.float64))]
    own = value_codes(values)
    if own.max() < _MANY:
        return [own]
    return [own, number_codes(np.where(values == NULL_INT, np.nan, values.astype(np.float64)))]


def histories_of(schema: Schema) -> list[tuple[str, str]]:
    """Return the lists that are histories of a raw column, each with that column."""
    raw = {each.name for each in schema.inputs}
    pairs = [(each.name, getattr(each, "history_of", None)) for each in schema.columns]
    return [(name, target) for name, target in pairs if target in raw and name in raw]


def holds(lists: Any, targets: Any) -> NDArray[np.int64]:
    """Return whether each row's list has the row's target in it, as 0 or 1, (B,)."""
    lists, targets = (each.combine_chunks() if isinstance(each, pa.ChunkedArray) else each for each in (lists, targets))
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    row = np.repeat(np.arange(len(lengths)), lengths)
    equal = pc.equal(lists.flatten(), targets.take(pa.array(row))).fill_null(False).to_numpy(zero_copy_only=False)
    return (np.bincount(row, equal, minlength=len(lengths)) > 0).astype(np.int64)


def predictions_of(bundle: Bundle, schema: Schema, log: Path) -> NDArray[np.float32]:
    """Return another bundle's predictions (B, K) of the rows of a log that was cleaned by a schema.

    Raises:
        ValueError: the bundle reads a column that the log has not, or reads it otherwise.
    """
    present = {each.name: each for each in schema.inputs}
    for given in bundle.schema.inputs:
        own = present.get(given.name)
        if own is None or (own.dtype, own.is_list) != (given.dtype, given.is_list):
            told = "none" if own is None else f"{own.dtype}{' lists' if own.is_list else ''}"
            raise ValueError(
                f"against must read columns that the log has as it wants them; got {told} for {given.name}"
            )
    predictor = load_predictor(bundle.plan, bundle.ranker)
    parts = [pq.read_table(part) for part in sorted(log.glob("*.parquet"))]
    found = [predictor.predict(plan_columns(part, bundle.schema.inputs), part.num_rows) for part in parts]
    predictions: NDArray[np.float32] = np.concatenate(found)
    return predictions


def _text_codes(column: Any) -> NDArray[np.int64]:
    coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    codes: NDArray[np.int64] = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
    return codes
