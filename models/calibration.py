"""Calibration maps fitted on rows that training did not see, and how much they mend. B rows, K objectives."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit

from models.bootstrap import draw_groups, interval
from models.calibration_maps import METHODS, Calibration, CalibrationMap, log_parts
from models.metrics import calibration_error_draws

Array = NDArray[Any]
Float64Array = NDArray[np.float64]

# Rows of each class, or values above 0, below which a map would be noise.
LEAST_ROWS = 20
# A logistic map gets no steeper, where predictions tell the classes apart without a mistake.
_STEEPEST = 20.0


@dataclass(frozen=True)
class ObjectiveCalibration:
    """What was fitted for one objective, and how far its predictions were off before and after.

    Attributes:
        objective: its name.
        method: of the map of all rows.
        note: why predictions are passed through, where they are in spite of what was asked.
        segments: how many segments have a map of their own.
        metric: `calibration error` of binary objectives, `predicted / observed` of values.
        before: of the predictions; NaN where no label is known.
        before_interval: 95 %, from requests drawn anew.
        after: of calibrated predictions, each by maps fitted on the other folds.
        after_interval: 95 %, likewise.
    """

    objective: str
    method: str
    note: str
    segments: int
    metric: str
    before: float
    before_interval: tuple[float, float]
    after: float
    after_interval: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """Return a form that JSON can hold; an undefined number is null."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {key: _without_nan(value) for key, value in plain.items()}


Fitter = Callable[[Array, Array], CalibrationMap]


def fit_map(labels: Array, predictions: Array, method: str) -> CalibrationMap:
    """Fit a map of one binary objective.

    Args:
        labels: 0 or 1, (B,).
        predictions: probabilities, (B,).
        method: out of `METHODS`.

    Returns:
        The map; one that passes predictions through, and says why, where a class has fewer than `LEAST_ROWS` rows.

    Raises:
        ValueError: the method is unknown.

    Source: Platt, Probabilistic Outputs for Support Vector Machines, 1999; Guo et al., On Calibration of Modern Neural
    Networks, ICML 2017, section 4.2 (temperature); Kull, Silva Filho and Flach, Beta calibration, AISTATS 2017,
    equation 3; Zadrozny and Elkan, KDD 2002 (isotonic), with knots at the centres of its blocks as Oron and Flournoy,
    Centered Isotonic Regression, 2017, section 2.3, have them, so that order stays where isotonic has ties.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    y, p = np.asarray(labels, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    if not _enough(y):
        found = f"{int(y.sum())} of {len(y)} rows are positive"
        return CalibrationMap(note=f"passed through: fewer than {LEAST_ROWS} rows of a class, {found}")
    if method == "isotonic":
        return CalibrationMap("isotonic", knots=_knots(y, p))
    logs, complements = log_parts(p)
    logit, ones = logs - complements, np.ones_like(p)
    if method == "temperature":
        (a,) = _logistic(y, np.stack([logit], 1), slopes=1)
        return CalibrationMap(method, (float(a), float(a), 0.0))
    if method == "platt":
        a, c = _logistic(y, np.stack([logit, ones], 1), slopes=1)
        return CalibrationMap(method, (float(a), float(a), float(c)))
    a, b, c = _logistic(y, np.stack([logs, -complements, ones], 1), slopes=2)
    return CalibrationMap(method, (float(a), float(b), float(c)))


def fit_scale(values: Array, predictions: Array, *, errors: float = 0.0) -> CalibrationMap:
    """Fit the factor by which a value's predictions sum up to what was observed.

    Args:
        values: observed, (B,).
        predictions: expected values, (B,).
        errors: standard errors that the sums must differ by; below, predictions are passed through.
    """
    v, p = np.asarray(values, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    known = int((v > 0).sum())
    if known < LEAST_ROWS or p.sum() <= 0:
        return CalibrationMap(note=f"passed through: fewer than {LEAST_ROWS} values above 0, there are {known}")
    factor = v.sum() / p.sum()
    if abs(v.sum() - p.sum()) <= errors * np.sqrt(((v - p) ** 2).sum()):
        return CalibrationMap()
    return CalibrationMap("scale", (float(factor), 1.0, 0.0))


def choose_method(labels: Array, predictions: Array, folds: Array) -> str:
    """Return the simplest method that no more supple one beats by a standard error of cross-validated log loss.

    Args:
        labels: 0 or 1, (B,).
        predictions: probabilities, (B,).
        folds: of each row, (B,).

    Returns:
        One out of `METHODS`, or `none`.

    Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 2009, section 7.10, whose rule of one
    standard error is applied to the gain from each method to the next.
    """
    y = np.asarray(labels, dtype=np.float64)
    best, least = "none", _losses(y, np.asarray(predictions, dtype=np.float64))
    for method in METHODS:
        losses = _losses(y, _out_of_fold(y, predictions, folds, _fitter("binary", method)))
        gains = least - losses
        if gains.mean() > gains.std() / np.sqrt(len(gains)):
            best, least = method, losses
    return best


def fit_calibration(
    predictions: Array,
    labels: Array,
    *,
    names: Sequence[str],
    kinds: Sequence[str],
    parents: Sequence[int],
    method: str = "auto",
    requests: Array | None = None,
    segments: Array | None = None,
    cardinality: int = 0,
    segment_column: int = -1,
    folds: int = 5,
    replicates: int = 100,
    seed: int = 0,
) -> tuple[Calibration | None, tuple[ObjectiveCalibration, ...]]:
    """Fit the maps of all objectives, on rows that training did not see.

    Args:
        predictions: the ranker's expected values, (B, K).
        labels: what happened, (B, K); NaN where unknown.
        names: the objectives', (K,).
        kinds: `binary` or `value`, (K,).
        parents: index of the objective whose probability bounds each one's, or -1, (K,).
        method: out of `METHODS` for all binary objectives, or `auto` to choose one each by cross-validation; values get
            a factor.
        requests: each row's request as whole numbers, (B,); requests lie in one fold, and replicates draw them.
        segments: id of each row's segment, (B,); those with enough rows of each class get maps of their own.
        cardinality: number of ids of segments.
        segment_column: column of `categorical` that holds them.
        folds: of cross-validation.
        replicates: bootstrap replicates behind the intervals.
        seed: of folds and bootstrap.

    Returns:
        The calibration, None where all predictions pass through, and what was found for each objective.

    Raises:
        ValueError: the method is unknown.
    """
    if method not in (*METHODS, "auto"):
        raise ValueError(f"calibration must be one of none, {', '.join(METHODS)}, auto; got {method!r}")
    codes = np.arange(len(labels)) if requests is None else np.unique(requests, return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    fold = rng.permutation(int(codes.max()) + 1)[codes] % folds
    groups: list[list[CalibrationMap]] = [[] for _ in range(1 if segments is None else 1 + cardinality)]
    found = []
    for k, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        known = np.isfinite(labels[:, k])
        y, p, own_fold = labels[known, k], predictions[known, k], fold[known]
        segment = np.zeros(len(y), dtype=np.int64) if segments is None else segments[known].astype(np.int64)
        chosen = choose_method(y, p, own_fold) if (method, kind) == ("auto", "binary") and _enough(y) else method
        fitter = _fitter(kind, chosen if chosen != "auto" else METHODS[0], errors=1.96 * (method == "auto"))
        maps = _segment_maps(y, p, segment, fitter, len(groups) - 1)
        for group, each in zip(groups, maps, strict=True):
            group.append(each)
        after = _out_of_fold(y, p, own_fold, fitter, segment, len(groups) - 1)
        figures = [_figure(kind, y, values, codes[known], replicates, seed) for values in (p, after)]
        (before, before_interval), (left, left_interval) = figures
        own = sum(each is not maps[0] for each in maps)
        metric = "calibration error" if kind == "binary" else "predicted / observed"
        found.append(
            ObjectiveCalibration(
                name, maps[0].method, maps[0].note, own, metric, before, before_interval, left, left_interval
            )
        )
    if all(each.method == "none" for group in groups for each in group):
        return None, tuple(found)
    bounds = [parent if kind == "binary" else -1 for kind, parent in zip(kinds, parents, strict=True)]
    distinct = [0, *(g for g in range(1, len(groups)) if _differ(groups[g], groups[0]))]
    if len(distinct) == 1:
        return Calibration(groups[:1], bounds), tuple(found)
    of_segment = [distinct.index(g) if g in distinct else 0 for g in range(1, len(groups))]
    maps_of = [groups[g] for g in distinct]
    return Calibration(maps_of, bounds, segment_column=segment_column, segment_groups=of_segment), tuple(found)


def _fitter(kind: str, method: str, errors: float = 0.0) -> Fitter:
    if kind == "value":
        return lambda y, p: fit_scale(y, p, errors=errors)
    if method == "none":
        return lambda y, p: CalibrationMap()
    return lambda y, p: fit_map(y, p, method)


def _segment_maps(y: Array, p: Array, segment: Array, fitter: Fitter, cardinality: int) -> list[CalibrationMap]:
    """Return the map of all rows, and each segment's own, or again that of all where it has too few rows."""
    overall = fitter(y, p)
    maps = [overall] * (1 + cardinality)
    for each in np.unique(segment) if cardinality else ():
        own = fitter(y[segment == each], p[segment == each])
        if own.method != "none":
            maps[1 + int(each)] = own
    return maps


def _differ(maps: Sequence[CalibrationMap], others: Sequence[CalibrationMap]) -> bool:
    return any(each is not other for each, other in zip(maps, others, strict=True))


def _apply(maps: Sequence[CalibrationMap], p: Array, segment: Array) -> Float64Array:
    if len(maps) == 1:
        return maps[0](p)
    calibrated = np.array(p, dtype=np.float64)
    for each in np.unique(segment):
        calibrated[segment == each] = maps[1 + int(each)](p[segment == each])
    return calibrated


def _out_of_fold(
    y: Array, p: Array, folds: Array, fitter: Fitter, segment: Array | None = None, cardinality: int = 0
) -> Float64Array:
    """Return each row's prediction, calibrated by what the other folds' rows show."""
    calibrated = np.array(p, dtype=np.float64)
    segment = np.zeros(len(y), dtype=np.int64) if segment is None else segment
    for held in np.unique(folds):
        inside = folds == held
        maps = _segment_maps(y[~inside], p[~inside], segment[~inside], fitter, cardinality)
        calibrated[inside] = _apply(maps, p[inside], segment[inside])
    return calibrated


def _enough(y: Array) -> bool:
    positives = int(y.sum())
    return min(positives, len(y) - positives) >= LEAST_ROWS


def _figure(
    kind: str, y: Array, p: Array, requests: Array, replicates: int, seed: int
) -> tuple[float, tuple[float, float]]:
    """Return the calibration error or the bias of predictions, and its interval."""
    if not len(y):
        return float("nan"), (float("nan"), float("nan"))
    draws = draw_groups(np.unique(requests, return_inverse=True)[1], replicates, seed)
    if kind == "binary":
        value, *others = calibration_error_draws(y, p, draws)
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            value, *others = draws.totals(p) / draws.totals(y)
    return float(value), interval(others)


def _losses(y: Float64Array, p: Float64Array) -> Float64Array:
    logs, complements = log_parts(p)
    losses: Float64Array = -np.where(y > 0, logs, complements)
    return losses


def _logistic(y: Float64Array, x: Float64Array, slopes: int) -> Float64Array:
    """Return the weights of least log loss (F,) of columns x (B, F), the first `slopes` of them not below 0."""

    def loss(weights: Float64Array) -> tuple[float, Float64Array]:
        z = x @ weights
        return float((np.logaddexp(0, z) - y * z).mean()), (expit(z) - y) @ x / len(y)

    start = np.array([1.0] * slopes + [0.0] * (x.shape[1] - slopes))
    bounds = [(0.0, _STEEPEST)] * slopes + [(None, None)] * (x.shape[1] - slopes)
    # the mean's gradient is small where positives are rare, so the usual tolerances would stop early
    options = {"ftol": 1e-14, "gtol": 1e-9, "maxiter": 500}
    fitted: Float64Array = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    return fitted


def _knots(y: Float64Array, p: Float64Array) -> tuple[tuple[float, float], ...]:
    """Return isotonic regression's blocks as points that lines join, from (0, 0) to (1, 1)."""
    places, which, counts = np.unique(p, return_inverse=True, return_counts=True)
    means = np.bincount(which, y) / counts
    fitted = isotonic_regression(means, weights=counts)
    starts = fitted.blocks[:-1]
    rows = np.add.reduceat(counts, starts)
    centres = np.add.reduceat(places * counts, starts) / rows
    heights = fitted.x[starts].copy()
    # half a row of the other class at either end, as far as order lets it, so that no prediction becomes certain
    if heights[0] == 0:
        heights[0] = min(0.5 / (rows[0] + 1), *heights[1:2])
    if heights[-1] == 1:
        heights[-1] = max(1 - 0.5 / (rows[-1] + 1), *heights[-2:-1])
    inside = (centres > 0) & (centres < 1)
    knots = zip(centres[inside].tolist(), heights[inside].tolist(), strict=True)
    return ((0.0, 0.0), *knots, (1.0, 1.0))


def _without_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and value != value else value
