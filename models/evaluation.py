"""A ranker judged: each objective's metrics with intervals, beside popularity and the truth where it is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models import metrics
from models.blending import blend

Array = NDArray[Any]
Metric = Callable[[Array, Array], metrics.Weighted]  # (targets, predictions) → a figure as a function of row weights

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
        figures: list[dict[str, Any]] = raw["figures"]
        listed = (Figure(**{k: float("nan") if v is None else v for k, v in figure.items()}) for figure in figures)
        return cls(raw["rows"], tuple(listed))


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
        labels: what happened, (B, K).
        names: the objectives', (K,).
        kinds: `binary` or `value`, (K,).
        requests: each row's request, (B,); metrics over requests, and intervals, need it.
        users: each row's user, (B,).
        weights: the blend's, (K,).
        blend_kind: of the blend.
        truth: the true expected values, (B, K), where a simulator knows them.
        baseline: a popularity baseline's expected values, (B, K).
        k: places that NDCG and value captured count.
        replicates: bootstrap replicates behind the intervals; 0 leaves the intervals out.
        seed: of the bootstrap.
    """
    systems = {RANKER: predictions, POPULARITY: baseline, BAYES: truth}
    present = {name: values for name, values in systems.items() if values is not None}
    groups = np.arange(len(labels)) if requests is None else np.unique(requests, return_inverse=True)[1]
    draws = resampled(groups, replicates, seed)
    ranked = groups if groups.max() + 1 < len(groups) else None
    figures = []
    for index, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        for metric, function in _metrics(kind, ranked, users, k).items():
            for system, values in present.items():
                weighed = function(labels[:, index], values[:, index])
                figures.append(_figure((name, metric, system), weighed, draws))
        if kind == "binary" and truth is not None:
            weighed = _share(labels[:, index], predictions[:, index], truth[:, index])
            figures.append(_figure((name, "AUC−½ / Bayes", RANKER), weighed, draws))
    if ranked is not None:
        figures += _score_figures(present, labels, names, weights, blend_kind, ranked, k, draws)
    return Evaluation(len(labels), tuple(figures))


def _metrics(kind: str, groups: Array | None, users: Array | None, k: int) -> dict[str, Metric]:
    """Return the metrics that suit an objective; those over requests only where requests have several rows."""
    chosen: dict[str, Metric] = {}
    if kind == "binary":
        chosen["AUC"] = metrics.weighted_auc
        if users is not None:
            chosen["GAUC by user"] = lambda y, p: metrics.weighted_gauc(y, p, users)
        if groups is not None:
            chosen["GAUC by request"] = lambda y, p: metrics.weighted_gauc(y, p, groups)
        chosen["log loss"] = metrics.weighted_log_loss
        chosen["normalized entropy"] = metrics.weighted_normalized_entropy
        chosen["calibration error"] = metrics.weighted_calibration_error
    else:
        chosen["predicted / observed"] = _bias
    if groups is not None:
        chosen[f"NDCG@{k}"] = lambda y, p: metrics.weighted_ndcg_at_k(y, p, groups, k)
        chosen[f"captured@{k}"] = lambda y, p: metrics.weighted_value_captured(y, p, groups, k)
    return chosen


def _bias(values: Array, predictions: Array) -> metrics.Weighted:
    """Return the predicted over the observed sum."""

    def weigh(weights: Array) -> float:
        observed = float(values @ weights)
        return float(predictions @ weights) / observed if observed else float("nan")

    return weigh


def _share(labels: Array, predictions: Array, truth: Array) -> metrics.Weighted:
    """Return how much of the truth's AUC above one half the predictions reach."""
    reached, possible = metrics.weighted_auc(labels, predictions), metrics.weighted_auc(labels, truth)
    return lambda weights: (reached(weights) - 0.5) / (possible(weights) - 0.5)


def _score_figures(
    systems: Mapping[str, Array],
    labels: Array,
    names: Sequence[str],
    weights: Sequence[float],
    kind: Literal["linear", "geometric"],
    groups: Array,
    k: int,
    draws: Sequence[Array],
) -> Iterator[Figure]:
    """Yield what the blended score's order captures of each objective."""
    vector = np.asarray(weights, dtype=np.float32)
    scores = {system: blend(values, vector, kind) for system, values in systems.items()}
    for index, name in enumerate(names):
        for system, score in scores.items():
            weighed = metrics.weighted_value_captured(labels[:, index], score, groups, k)
            yield _figure((SCORE, f"{name} captured@{k}", system), weighed, draws)


def _figure(name: tuple[str, str, str], weighed: metrics.Weighted, draws: Sequence[Array]) -> Figure:
    value, *replicates = (weighed(weights) for weights in draws)
    return Figure(*name, value, *interval(replicates))


def resampled(groups: Array, replicates: int, seed: int) -> list[Array]:
    """Return row weights (B,): of the rows as they are, then of bootstrap replicates that draw groups whole."""
    rng = np.random.default_rng(seed)
    count = int(groups.max()) + 1
    drawn = (np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(replicates))
    return [np.ones(len(groups), np.uint8), *(counts.astype(np.uint8)[groups] for counts in drawn)]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of replicates, NaN where there are none."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return float("nan"), float("nan")
    return float(np.quantile(known, 0.025)), float(np.quantile(known, 0.975))
