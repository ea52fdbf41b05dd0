"""How good a bundle is on a log that it has not seen, beside popularity and, where the log knows it, the truth."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feature_eng.arrow_columns import plan_columns
from feature_eng.log_checks import LogPolicies
from feature_eng.log_encoding import TRUTH
from feature_eng.log_sources import Paths
from feature_eng.logs import clean_log
from feature_eng.progress import row_bar
from feature_eng.schema import Schema
from models.evaluation import Evaluation, evaluate
from models.popularity import Popularity, item_popularity
from models.prediction import Predictor, load_predictor
from steelyard.bundle import Bundle


def evaluate_log(
    bundle: Bundle, paths: Paths, policies: LogPolicies | None = None, *, k: int = 10, replicates: int = 100
) -> Evaluation:
    """Evaluate a bundle on a log.

    Args:
        bundle: the ranker and what it was trained with.
        paths: the log, with labels.
        policies: what to do with rows that the checks find.
        k: places that NDCG and value captured count.
        replicates: bootstrap replicates behind the intervals.
    """
    with tempfile.TemporaryDirectory(prefix="steelyard-") as folder:
        cleaned = clean_log(paths, bundle.schema, Path(folder) / "log", policies=policies)
        return evaluate_parts(
            bundle.schema, bundle.plan, bundle.ranker, bundle.popularity, cleaned.folder, k=k, replicates=replicates
        )


def evaluate_parts(
    schema: Schema, plan: Path, ranker: Path, popularity_file: Path, log: Path, *, k: int = 10, replicates: int = 100
) -> Evaluation:
    """Evaluate a ranker on the parts of a cleaned log; see `evaluate_log`."""
    predictor = load_predictor(plan, ranker)
    parts = list(_predicted_parts(predictor, schema, log))
    predictions = np.concatenate([predicted for predicted, _ in parts])
    columns = {name: np.concatenate([table[name] for _, table in parts]) for name in parts[0][1]}
    truths = [f"{TRUTH}{name}" for name in schema.objective_names]
    known = all(name in columns for name in truths)
    return evaluate(
        predictions,
        _stacked(columns, [o.label for o in schema.objectives]),
        names=schema.objective_names,
        kinds=[o.kind for o in schema.objectives],
        requests=columns.get(schema.request or ""),
        users=columns.get(schema.user or ""),
        weights=schema.default_weights,
        blend_kind=schema.blend.kind,
        truth=_stacked(columns, truths) if known else None,
        baseline=_baseline(schema, popularity_file, columns),
        k=k,
        replicates=replicates,
    )


def _predicted_parts(
    predictor: Predictor, schema: Schema, log: Path
) -> Iterator[tuple[NDArray[np.float32], dict[str, Any]]]:
    """Yield each part's predictions (n, K) and the columns that evaluation reads."""
    files = sorted(log.glob("*.parquet"))
    wanted = {*schema.label_columns, *(f"{TRUTH}{n}" for n in schema.objective_names)}
    wanted |= {key for key in (schema.request, schema.user, schema.item) if key}
    with row_bar("predictions", sum(pq.read_metadata(file).num_rows for file in files)) as advance:
        for file in files:
            table = pq.read_table(file)
            predicted = predictor.predict(plan_columns(table, schema.inputs), table.num_rows)
            yield predicted, {n: table.column(n).to_numpy() for n in table.column_names if n in wanted}
            advance(table.num_rows)


def save_popularity(schema: Schema, log: Path, path: Path) -> None:
    """Write each item's mean labels over a cleaned training log, for the baseline; nothing without an item column."""
    if schema.item is None:
        return
    labels = [o.label for o in schema.objectives]
    table = pq.read_table(log, columns=list(dict.fromkeys([schema.item, *labels])))
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    item_popularity(columns[schema.item], _stacked(columns, labels)).save(path)


def _baseline(schema: Schema, path: Path, columns: dict[str, Any]) -> NDArray[np.float32] | None:
    if schema.item is None or not path.exists():
        return None
    return Popularity.load(path).predict(columns[schema.item])


def _stacked(columns: dict[str, Any], names: list[str]) -> NDArray[np.float32]:
    stacked: NDArray[np.float32] = np.stack([columns[name] for name in names], axis=1).astype(np.float32)
    return stacked
