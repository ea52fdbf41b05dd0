"""What predictions are turned into so that they mean what they say: maps fitted on rows that training did not see.

Each objective's expected value is mapped as a whole, not step by step along its chain: that is what a blend weighs, it
can be fitted on all rows, and so nothing depends on which rows had the parent. A child whose calibrated probability
would pass its parent's is cut to it. B rows, K objectives, G groups of segments, of which 0 is all rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit
from torch import Tensor, nn

from models.bootstrap import draw_groups, interval
from models.metrics import calibration_error_draws
from models.objectives import ancestry

Array = NDArray[Any]
Float64Array = NDArray[np.float64]

METHODS = ("temperature", "platt", "beta", "isotonic")  # simplest first
# Rows of each class, or values above 0, below which a map would be noise.
LEAST_ROWS = 20
# Probabilities closer to 0 or 1 than this have no logit worth the name in float32.
_EPS = 1e-7
# A logistic map gets no steeper, where predictions tell the classes apart without a mistake.
_STEEPEST = 20.0


@dataclass(frozen=True)
class CalibrationMap:
    """From a prediction to a calibrated one, non-decreasing.

    Attributes:
        method: out of `METHODS`, `scale`, or `none`, which passes predictions through.
        coefficients: a, b, c of sigmoid(a log p − b log(1 − p) + c), or the factor first where `scale`.
        knots: of `isotonic`, pairs of prediction and calibrated one from (0, 0) to (1, 1), joined by lines.
        note: why predictions are passed through, where they are in spite of what was asked.
    """

    method: str = "none"
    coefficients: tuple[float, float, float] = (1.0, 1.0, 0.0)
    knots: tuple[tuple[float, float], ...] = ()
    note: str = ""

    def __call__(self, predictions: Array) -> Float64Array:
        """Return calibrated predictions (B,) of predictions (B,)."""
        p = np.asarray(predictions, dtype=np.float64)
        if self.method in ("none", "scale"):
            return p * self.coefficients[0]
        if self.method == "isotonic":
            at, height = np.array(self.knots).T
            joined: Float64Array = np.interp(p, at, height)
            return joined
        a, b, c = self.coefficients
        logs, complements = _logs(p)
        mapped: Float64Array = expit(a * logs - b * complements + c)
        return mapped


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


class Calibration(nn.Module):
    """The maps of all objectives and segments at once, for TorchScript.

    Args:
        maps: a map for each group and objective, (G, K).
        parents: index of the objective whose probability bounds each one's, or -1, (K,).
        segment_column: column of `categorical` that holds a row's segment, or -1 for one group.
        segment_groups: group of each id of that column.

    Raises:
        ValueError: segments without groups, or groups without maps.
    """

    coefficients: Tensor
    linear: Tensor
    parents: Tensor
    segment_groups: Tensor
    interpolated: Tensor
    begins: Tensor
    knots: Tensor
    heights: Tensor
    slopes: Tensor

    def __init__(
        self,
        maps: Sequence[Sequence[CalibrationMap]],
        parents: Sequence[int],
        *,
        segment_column: int = -1,
        segment_groups: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if segment_column >= 0 and (len(segment_groups) == 0 or not 0 <= max(segment_groups) < len(maps)):
            raise ValueError(f"segment_groups must name groups below {len(maps)}; got {list(segment_groups)}")
        self.segment_column = segment_column
        self.isotonic = any(each.method == "isotonic" for group in maps for each in group)
        self.depth = max(len(ancestry(k, parents)) - 1 for k in range(len(parents)))
        # Maps lie 2 apart on one line, so that a single search finds every row's and objective's knots; float64 keeps
        # a prediction's digits there.
        at, height, slope = [], [], []
        for place, each in enumerate(each for group in maps for each in group):
            x, y = np.array(each.knots or ((0.0, 0.0), (1.0, 1.0)), dtype=np.float64).T
            at.append(x + 2 * place)
            height.append(y)
            slope.append(np.append(np.diff(y) / np.diff(x), 0.0))
        buffers = {
            "coefficients": torch.tensor([[each.coefficients for each in group] for group in maps]),
            "linear": torch.tensor([[each.method in ("none", "scale") for each in group] for group in maps]),
            "interpolated": torch.tensor([[each.method == "isotonic" for each in group] for group in maps]),
            "begins": 2.0 * torch.arange(len(maps) * len(parents), dtype=torch.float64).view(len(maps), -1),
            "parents": torch.tensor([k if parent < 0 else parent for k, parent in enumerate(parents)]),
            "segment_groups": torch.tensor(list(segment_groups) or [0]),
            "knots": torch.from_numpy(np.concatenate(at)),
            "heights": torch.from_numpy(np.concatenate(height)),
            "slopes": torch.from_numpy(np.concatenate(slope)),
        }
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, predictions: Tensor, categorical: Tensor) -> Tensor:
        """Calibrate a batch.

        Args:
            predictions: expected values (B, K).
            categorical: ids (B, S), of which the segment's column is read.

        Returns:
            Expected values (B, K).
        """
        coefficients, linear = self.coefficients, self.linear
        interpolated, begins = self.interpolated, self.begins
        if self.segment_column >= 0:
            group = self.segment_groups.index_select(0, categorical.select(1, self.segment_column).long())
            coefficients, linear = coefficients.index_select(0, group), linear.index_select(0, group)
            interpolated, begins = interpolated.index_select(0, group), begins.index_select(0, group)
        a, b, c = coefficients.unbind(2)
        p = predictions.clamp(1e-7, 1 - 1e-7)
        calibrated = torch.where(linear, a * predictions, torch.sigmoid(a * p.log() - b * torch.log1p(-p) + c))
        if self.isotonic:
            at = predictions.double().clamp(1e-9, 1.0) + begins
            left = torch.searchsorted(self.knots, at.contiguous()) - 1
            heights = self.heights[left] + (at - self.knots[left]) * self.slopes[left]
            calibrated = torch.where(interpolated, heights.to(calibrated.dtype), calibrated)
        for _ in range(self.depth):
            calibrated = torch.minimum(calibrated, calibrated.index_select(1, self.parents))
        return calibrated


class CalibratedRanker(nn.Module):
    """A ranker with calibrated predictions, under the ranker's own contract."""

    def __init__(self, ranker: nn.Module, calibration: Calibration) -> None:
        super().__init__()
        self.ranker = ranker
        self.calibration = calibration
        self.train(ranker.training)  # else an export, which restores the mode, would put the ranker into training

    def forward(self, categorical: Tensor, continuous: Tensor) -> Tensor:
        """Map ids (B, S) and features (B, D) to calibrated expected values (B, K)."""
        calibrated: Tensor = self.calibration(self.ranker(categorical, continuous), categorical)
        return calibrated


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
    logs, complements = _logs(p)
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
        after = np.array(p, dtype=np.float64)
        for held in range(folds):
            inside = own_fold == held
            out_of_fold = _segment_maps(y[~inside], p[~inside], segment[~inside], fitter, len(groups) - 1)
            after[inside] = _apply(out_of_fold, p[inside], segment[inside])
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


def _out_of_fold(y: Array, p: Array, folds: Array, fitter: Fitter) -> Float64Array:
    """Return each row's prediction, calibrated by what the other folds' rows show."""
    calibrated = np.array(p, dtype=np.float64)
    for held in np.unique(folds):
        inside = folds == held
        calibrated[inside] = fitter(y[~inside], p[~inside])(p[inside])
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


def _logs(p: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return log p and log(1 − p) of probabilities, cut as in float32."""
    cut = np.clip(p, _EPS, 1 - _EPS)
    return np.log(cut), np.log1p(-cut)


def _losses(y: Float64Array, p: Float64Array) -> Float64Array:
    logs, complements = _logs(p)
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
