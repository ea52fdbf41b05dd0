"""How good a bundle is on a log that it has not seen, beside popularity and, where the log knows it, the truth."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feature_eng.arrow_columns import plan_columns
from feature_eng.inputs import VOCABULARY_START
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

# Values of a column that slices tell apart; the rest are one more slice.
MOST_SLICES = 20
PERIODS = 4
COLD, TIME = "cold", "time"


@dataclass(frozen=True)
class JudgedRows:
    """A log's rows as `evaluate` takes them: predictions (B, K), labels (B, K) and what else a log knows.

    Attributes:
        columns: of the cleaned log, those that judging reads, (B,).
        cold: for `user` and `item`, whether training did not show a row's value often enough to know it, (B,).
    """

    schema: Schema
    predictions: NDArray[np.float32]
    columns: dict[str, Any]
    cold: dict[str, NDArray[np.bool_]]
    baseline: NDArray[np.float32] | None

    def evaluate(self, chosen: NDArray[np.bool_] | None = None, *, k: int = 10, replicates: int = 100) -> Evaluation:
        """Judge the rows, or those chosen by a mask (B,)."""
        rows = np.ones(len(self.predictions), dtype=bool) if chosen is None else chosen
        schema, columns = self.schema, {name: values[rows] for name, values in self.columns.items()}
        truths = [f"{TRUTH}{name}" for name in schema.objective_names]
        known = all(name in columns for name in truths)
        return evaluate(
            self.predictions[rows],
            self.labels[rows],
            names=schema.objective_names,
            kinds=[o.kind for o in schema.objectives],
            requests=columns.get(schema.request or ""),
            users=columns.get(schema.user or ""),
            weights=schema.default_weights,
            blend_kind=schema.blend.kind,
            truth=_stacked(columns, truths) if known else None,
            baseline=None if self.baseline is None else self.baseline[rows],
            k=k,
            replicates=replicates,
        )

    @property
    def labels(self) -> NDArray[np.float32]:
        """What happened, (B, K)."""
        return _stacked(self.columns, [o.label for o in self.schema.objectives])

    def slices(self, by: str) -> dict[str, NDArray[np.bool_]]:
        """Return masks (B,) of the rows that belong together.

        Args:
            by: a column of the log, `time` for periods of equally many rows, or `cold` for users and items that
                training did or did not show.

        Raises:
            ValueError: `time` where the schema names none.
        """
        if by == COLD:
            return {
                f"{word} {role}": mask == (word == "cold")
                for role, mask in self.cold.items()
                for word in ("warm", "cold")
            }
        if by == TIME:
            if self.schema.time is None:
                raise ValueError("by must be a column or cold where the schema names no time; got time")
            ranks = np.argsort(np.argsort(self.columns[self.schema.time], kind="stable"), kind="stable")
            periods = ranks * PERIODS // len(ranks)
            return {f"period {period + 1} of {PERIODS}": periods == period for period in range(PERIODS)}
        values, counts = np.unique(self.columns[by].astype(str), return_counts=True)
        frequent = values[np.argsort(-counts, kind="stable")][:MOST_SLICES]
        own = self.columns[by].astype(str)
        masks = {f"{by} {value}": own == value for value in sorted(frequent)}
        others = ~np.isin(own, frequent)
        return masks | ({f"{by}, others": others} if others.any() else {})


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
    return judge_log(bundle, paths, policies).evaluate(k=k, replicates=replicates)


def judge_log(
    bundle: Bundle, paths: Paths, policies: LogPolicies | None = None, *, by: str | None = None
) -> JudgedRows:
    """Predict a log's rows for judging, whole or by slices; see `evaluate_log`.

    Raises:
        ValueError: `by` is no column of the log, nor `time` nor `cold`.
    """
    with tempfile.TemporaryDirectory(prefix="steelyard-") as folder:
        cleaned = clean_log(paths, bundle.schema, Path(folder) / "log", policies=policies)
        return judge_parts(bundle, cleaned.folder, by=() if by is None else (by,))


def judge_parts(bundle: Bundle, log: Path, *, by: Sequence[str] = ()) -> JudgedRows:
    """Predict the rows of a cleaned log's parts for judging, whole or by slices of several kinds; see `judge_log`."""
    return _judged(bundle.schema, bundle.plan, bundle.ranker, bundle.popularity, log, by)


def evaluate_parts(
    schema: Schema, plan: Path, ranker: Path, popularity_file: Path, log: Path, *, k: int = 10, replicates: int = 100
) -> Evaluation:
    """Evaluate a ranker on the parts of a cleaned log; see `evaluate_log`."""
    return _judged(schema, plan, ranker, popularity_file, log, ()).evaluate(k=k, replicates=replicates)


def _judged(
    schema: Schema, plan: Path, ranker: Path, popularity_file: Path, log: Path, by: Sequence[str]
) -> JudgedRows:
    predictor = load_predictor(plan, ranker)
    wanted = [schema.time if each == TIME else each for each in by if each != COLD]
    single = [field.name for field in pq.read_schema(min(log.glob("*.parquet"))) if not field.type.num_fields]
    for each in by:
        if each not in (COLD, TIME, *single):
            raise ValueError(f"by must be time, cold or a column of the cleaned log that is no list; got {each}")
    parts = list(_predicted_parts(predictor, schema, log, [each for each in wanted if each]))
    columns = {name: np.concatenate([table[name] for _, table, _ in parts]) for name in parts[0][1]}
    cold = {role: np.concatenate([unknown[role] for *_, unknown in parts]) for role in parts[0][2]}
    predictions = np.concatenate([predicted for predicted, *_ in parts])
    return JudgedRows(schema, predictions, columns, cold, _baseline(schema, popularity_file, columns))


def _predicted_parts(
    predictor: Predictor, schema: Schema, log: Path, by: Sequence[str] = ()
) -> Iterator[tuple[NDArray[np.float32], dict[str, Any], dict[str, NDArray[np.bool_]]]]:
    """Yield each part's predictions (n, K), the columns that evaluation reads, and who in it training did not know."""
    files = sorted(log.glob("*.parquet"))
    wanted = {*schema.label_columns, *(f"{TRUTH}{n}" for n in schema.objective_names)}
    wanted |= {key for key in (schema.request, schema.user, schema.item, *by) if key}
    places, column = {}, 0
    for slot in predictor.plan.layout.categorical:
        places[slot.name] = column
        column += slot.width
    roles = {role: places[name] for role, name in (("user", schema.user), ("item", schema.item)) if name in places}
    with row_bar("predictions", sum(pq.read_metadata(file).num_rows for file in files)) as advance:
        for file in files:
            table = pq.read_table(file)
            categorical, continuous = predictor.plan.run(plan_columns(table, schema.inputs), table.num_rows)
            unknown = {role: categorical[:, place] < VOCABULARY_START for role, place in roles.items()}
            columns = {n: table.column(n).to_numpy() for n in table.column_names if n in wanted}
            yield predictor.rank(categorical, continuous), columns, unknown
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
