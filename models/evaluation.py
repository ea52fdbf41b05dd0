"""A ranker judged: each objective's metrics with intervals, beside popularity and the truth where it is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models import metrics
from models.blending import blend
from models.bootstrap import Draws, Float64Array, draw_groups, interval
from models.ranking_metrics import ndcg_at_k_draws, value_captured_draws

Array = NDArray[Any]
Metric = Callable[[Array], Float64Array]  # predictions → a figure for each draw

SCORE = "score"
RANKER, POPULARITY, BAYES = "ranker", "popularity", "bayes"


@dataclass(frozen=True)
class Figure:
    """One metric of one system for one objective, with a 95 % interval; NaN where the rows define none."""

    objective: str
    metric: str
    system: str
    value: float
    low: float = float("nan")
    high: float = float("nan")


@dataclass(frozen=True)
class Evaluation:
    """What a ranker was found to do on `rows` rows."""

    rows: int
    figures: tuple[Figure, ...]

    def value(self, objective: str, metric: str, system: str = RANKER) -> float:
        """Return one figure's value.

        Raises:
            KeyError: there is no such figure.
        """
        for figure in self.figures:
            if (figure.objective, figure.metric, figure.system) == (objective, metric, system):
                return figure.value
        raise KeyError(f"evaluation must hold {metric} of {objective} for {system}; got none")

    def to_json(self) -> dict[str, Any]:
        """Return a form that JSON can hold; an undefined number is null."""
        listed = [{k: None if v != v else v for k, v in asdict(figure).items()} for figure in self.figures]
        return {"rows": self.rows, "figures": listed}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Evaluation:
        """Read what `to_json` wrote."""
        listed: list[dict[str, Any]] = [
            {key: float("nan") if value is None else value for key, value in figure.items()}
            for figure in raw["figures"]
        ]
        return cls(raw["rows"], tuple(Figure(**figure) for figure in listed))


@dataclass(frozen=True)
class _Rows:
    """Who saw the rows, in which requests, and how often each bootstrap draw took them."""

    requests: NDArray[np.int64]
    users: NDArray[np.int64] | None
    draws: Draws

    def chosen(self, mask: NDArray[np.bool_]) -> _Rows:
        users = None if self.users is None else self.users[mask]
        return _Rows(self.requests[mask], users, self.draws.rows(mask))

    @property
    def ranked(self) -> NDArray[np.bool_]:
        """Which rows share their request with others, so that there is something to rank."""
        several: NDArray[np.bool_] = np.bincount(self.requests)[self.requests] > 1
        return several


def evaluate(
    predictions: Array,
    labels: Array,
    *,
    names: Sequence[str],
    kinds: Sequence[str],
    requests: Array | None = None,
    users: Array | None = None,
    weights: Sequence[float],
    blend_kind: Literal["linear", "geometric"] = "linear",
    truth: Array | None = None,
    baseline: Array | None = None,
    k: int = 10,
    replicates: int = 100,
    seed: int = 0,
) -> Evaluation:
    """Judge predictions.

    Args:
        predictions: the ranker's expected values, (B, K).
        labels: what happened, (B, K); NaN where unknown, which leaves the row out for that objective.
        names: the objectives', (K,).
        kinds: `binary` or `value`, (K,).
        requests: each row's request, (B,); what ranking metrics rank, and replicates draw. Else each row is its own.
        users: each row's user, (B,).
        weights: the blend's, (K,).
        blend_kind: of the blend.
        truth: the true expected values, (B, K), where a simulator knows them.
        baseline: a popularity baseline's expected values, (B, K).
        k: places that NDCG and value captured count.
        replicates: bootstrap replicates behind the intervals; 0 leaves the intervals out.
        seed: of the bootstrap.

    Raises:
        ValueError: labels, truth or baseline are not shaped like predictions, or a prediction is not finite.
    """
    for name, values in (("labels", labels), ("truth", truth), ("baseline", baseline)):
        if values is not None and values.shape != predictions.shape:
            shapes = f"{list(values.shape)} and {list(predictions.shape)}"
            raise ValueError(f"{name} must have the shape of predictions; got {shapes}")
    given = {RANKER: predictions, POPULARITY: baseline, BAYES: truth}
    systems = {system: values for system, values in given.items() if values is not None}
    codes = np.arange(len(labels)) if requests is None else _codes(requests)
    rows = _Rows(codes, None if users is None else _codes(users), draw_groups(codes, replicates, seed))
    figures: list[Figure] = []
    for index, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        known = np.isfinite(labels[:, index])
        if known.any():
            own = {system: values[known, index] for system, values in systems.items()}
            figures += _objective_figures(name, kind, labels[known, index], own, rows.chosen(known), k)
    vector = np.asarray(weights, dtype=np.float32)
    scores = {system: blend(values, vector, blend_kind) for system, values in systems.items()}
    for index, name in enumerate(names):
        counted = np.isfinite(labels[:, index]) & rows.ranked
        if counted.any():
            metric = _captured(labels[counted, index], rows.chosen(counted), k)
            own = {system: score[counted] for system, score in scores.items()}
            figures += _figures(SCORE, f"{name} captured@{k}", metric, own)
    return Evaluation(len(labels), tuple(figures))


def _objective_figures(
    name: str, kind: str, labels: Array, systems: Mapping[str, Array], rows: _Rows, k: int
) -> Iterator[Figure]:
    found = _binary_metrics(labels, rows) if kind == "binary" else _value_metrics(labels, rows)
    for metric, function in {**found, **_ranking_metrics(kind, labels, rows, k)}.items():
        yield from _figures(name, metric, function, systems)
    if kind == "binary" and BAYES in systems:
        yield from _figures(name, "AUC−½ / Bayes", _share(labels, systems[BAYES], rows), {RANKER: systems[RANKER]})


def _binary_metrics(labels: Array, rows: _Rows) -> dict[str, Metric]:
    users, draws = rows.users, rows.draws
    found: dict[str, Metric] = {"AUC": lambda p: metrics.auc_draws(labels, p, draws)}
    if users is not None:
        found["GAUC by user"] = lambda p: metrics.gauc_draws(labels, p, users, draws)
    found["log loss"] = lambda p: metrics.log_loss_draws(labels, p, draws)
    found["normalized entropy"] = lambda p: metrics.normalized_entropy_draws(labels, p, draws)
    found["calibration error"] = lambda p: metrics.calibration_error_draws(labels, p, draws)
    return found


def _value_metrics(values: Array, rows: _Rows) -> dict[str, Metric]:
    return {"predicted / observed": lambda p: metrics.bias_draws(values, p, rows.draws)}


def _ranking_metrics(kind: str, labels: Array, rows: _Rows, k: int) -> dict[str, Metric]:
    """Return the metrics over requests, of those that have several rows; none where no request has."""
    ranked = rows.ranked
    if not ranked.any():
        return {}
    gains, several = labels[ranked], rows.chosen(ranked)
    found: dict[str, Metric] = {}
    if kind == "binary":
        found["GAUC by request"] = lambda p: metrics.gauc_draws(gains, p[ranked], several.requests, several.draws)
    found[f"NDCG@{k}"] = lambda p: ndcg_at_k_draws(gains, p[ranked], several.requests, k, several.draws)
    captured = _captured(gains, several, k)
    found[f"captured@{k}"] = lambda p: captured(p[ranked])
    return found


def _captured(gains: Array, rows: _Rows, k: int) -> Metric:
    return lambda p: value_captured_draws(gains, p, rows.requests, k, rows.draws)


def _share(labels: Array, truth: Array, rows: _Rows) -> Metric:
    """Return how much of the truth's AUC above one half the predictions reach."""
    possible = metrics.auc_draws(labels, truth, rows.draws) - 0.5
    return lambda p: metrics.ratio(metrics.auc_draws(labels, p, rows.draws) - 0.5, possible)


def _figures(objective: str, metric: str, function: Metric, systems: Mapping[str, Array]) -> Iterator[Figure]:
    for system, predictions in systems.items():
        value, *replicates = function(predictions)
        yield Figure(objective, metric, system, float(value), *interval(replicates))


def _codes(groups: Array) -> NDArray[np.int64]:
    """Return groups as whole numbers from 0."""
    sortable = groups.astype(np.str_) if groups.dtype.kind == "O" else groups  # objects sort half as fast
    codes: NDArray[np.int64] = np.unique(sortable, return_inverse=True)[1]
    return codes
