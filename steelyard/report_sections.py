"""The sections of a report: what was measured, and a sentence that says how to read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_eng.log_encoding import TRUTH
from models.blending import blend
from models.bootstrap import Float64Array, draw_groups, interval
from models.comparison import Difference
from models.evaluation import Evaluation, Figure
from models.exposure import calibration_by_group, exposure_by_group
from models.leaks import Suspect
from models.metrics import calibration_error_draws, reliability_draws, sortable
from models.tuning import captured_by_objective, worth
from steelyard.charts import bars, intervals, lines, reliability
from steelyard.evaluating import JudgedRows
from steelyard.pages import PageTable, Section, number, with_interval

Array = NDArray[Any]

PLACES = (1, 2, 3, 5, 10, 20)
MOST_GROUPS = 20


def metrics_section(evaluation: Evaluation) -> Section:
    """Return every objective's metrics, systems across."""
    tables = []
    for objective in dict.fromkeys(figure.objective for figure in evaluation.figures):
        own = [figure for figure in evaluation.figures if figure.objective == objective]
        systems = list(dict.fromkeys(figure.system for figure in own))
        rows = []
        for metric in dict.fromkeys(figure.metric for figure in own):
            cells = {figure.system: figure for figure in own if figure.metric == metric}
            rows.append((metric, *(_cell(cells.get(system)) for system in systems)))
        tables.append(PageTable(objective, ("metric", *systems), rows))
    reading = (
        "95 % intervals from requests drawn anew stand in brackets. The ranker has to beat popularity, which knows "
        "each item's mean alone; where the truth is known, bayes is the best that any ranker could do."
    )
    return Section("Metrics", reading, tables=tables)


def slices_section(rows: JudgedRows, kinds: Sequence[str], k: int, replicates: int) -> Section:
    """Return each objective's metrics in slices of the rows.

    Args:
        rows: judged.
        kinds: what slices are by, see `JudgedRows.slices`.
        k: places that value captured counts.
        replicates: bootstrap replicates behind the intervals.
    """
    truthless = {name: values for name, values in rows.columns.items() if not name.startswith(TRUTH)}
    slim = replace(rows, baseline=None, columns=truthless)  # the ranker alone: a third of the time
    masks = {name: mask for kind in kinds for name, mask in slim.slices(kind).items() if mask.any()}
    evaluations = {"all rows": slim.evaluate(k=k, replicates=replicates)}
    evaluations |= {name: slim.evaluate(mask, k=k, replicates=replicates) for name, mask in masks.items()}
    tables, charts = [], []
    for objective in rows.schema.objectives:
        binary = objective.kind == "binary"
        own = ("AUC", "normalized entropy", "calibration error") if binary else ("predicted / observed",)
        metrics = (*own, f"captured@{k}")
        found = {
            name: {figure.metric: figure for figure in each.figures if figure.objective == objective.name}
            for name, each in evaluations.items()
        }
        lines_of = [
            (name, f"{evaluations[name].rows:,}", *(_cell(figures.get(metric)) for metric in metrics))
            for name, figures in found.items()
        ]
        tables.append(PageTable(objective.name, ("slice", "rows", *metrics), lines_of))
        first = {
            name: (figures[own[0]].value, figures[own[0]].low, figures[own[0]].high)
            for name, figures in found.items()
            if own[0] in figures and np.isfinite(figures[own[0]].value)
        }
        if first:
            line = None if binary else 1.0
            charts.append(intervals(first, x=f"{own[0]} of {objective.name}", line=line))
    reading = (
        "The same metrics where users and items were shown to training often enough to be known (warm) or not (cold), "
        "in periods of the log, and by the columns asked for. A slice whose interval lies apart from that of all rows "
        "is served worse or better; in small slices the calibration error is too high by chance."
    )
    return Section("Slices", reading, charts=charts, tables=tables)


def curves_section(rows: JudgedRows, history: Sequence[Mapping[str, Any]]) -> Section:
    """Return how the training went, and what the first places capture."""
    names, charts = rows.schema.objective_names, []
    epochs = [epoch["epoch"] + 1 for epoch in history]
    losses = {
        name: (epochs, [epoch[f"val_{index}"] for epoch in history])
        for index, name in enumerate(names)
        if history and all(f"val_{index}" in epoch for epoch in history)
    }
    if losses:
        charts.append(lines(losses, x="epoch", y="normalised validation loss", whole=True))
    if history:
        charts.append(lines({"": (epochs, [epoch["loss"] for epoch in history])}, x="epoch", y="loss", whole=True))
    requests = rows.columns.get(rows.schema.request or "")
    if requests is not None:
        given = {"ranker": rows.predictions, "popularity": rows.baseline}
        scores = {name: _scores(rows, values) for name, values in given.items() if values is not None}
        captured = {
            name: np.stack([captured_by_objective(score, rows.labels, requests, k) for k in PLACES])
            for name, score in scores.items()
        }
        for index, objective in enumerate(names):
            series = {
                name: (PLACES, curve[:, index])
                for name, curve in captured.items()
                if np.isfinite(curve[:, index]).any()
            }
            if series:
                charts.append(lines(series, x="k", y=f"{objective} captured@k", whole=True))
    reading = (
        "A training whose validation loss still falls at the last epoch wants more of them; 1 is no better than the "
        "base rate. Captured@k is what the first k places by the blend's score collect, of the most that any order "
        "could."
    )
    return Section("Curves", reading, charts=charts)


def calibration_section(rows: JudgedRows, fitted: Sequence[Mapping[str, Any]], replicates: int) -> Section:
    """Return mean labels against mean predictions, and what calibration did on validation rows.

    Args:
        rows: judged.
        fitted: `calibration` of `metrics.json`, empty where none was asked for.
        replicates: bootstrap replicates behind the intervals.
    """
    charts, found = [], []
    codes = _codes(rows)
    for index, objective in enumerate(rows.schema.objectives):
        known = np.isfinite(rows.labels[:, index])
        if objective.kind != "binary" or not known.any():
            continue
        draws = draw_groups(np.unique(codes[known], return_inverse=True)[1], replicates, 0)
        labels, predictions = rows.labels[known, index], rows.predictions[known, index]
        means, rates = reliability_draws(labels, predictions, draws)
        error, *others = calibration_error_draws(labels, predictions, draws)
        ends = np.array([interval(each[1:]) for each in rates])
        charts.append(reliability(means, rates[:, 0], ends[:, 0], ends[:, 1], objective.name))
        found.append(f"{objective.name}: calibration error {with_interval(float(error), *interval(others))}")
    tables = []
    if fitted:
        cells = [
            (
                each["objective"],
                each["method"],
                each["metric"],
                number(each["before"]),
                number(each["after"]),
                each["note"],
            )
            for each in fitted
        ]
        columns = ("objective", "method", "metric", "before", "after", "note")
        tables.append(PageTable("maps fitted on validation rows, tried out of fold", columns, cells))
    reading = (
        "Each point is a twentieth of the rows: where it lies below the line, predictions promise too much. Intervals "
        "are of 95 %. A blend weighs expected values, so that points off the line shift its trade-offs."
    )
    return Section("Calibration", reading, found, charts, tables)


def conflict_section(history: Sequence[Mapping[str, Any]]) -> Section:
    """Return the cosines between the objectives' gradients, epoch by epoch."""
    reading = (
        "The cosine between two objectives' gradients on the layers that they share: above 0 they help each other, "
        "below 0 what one learns the other unlearns, and balancing or more separate layers may help."
    )
    told = {epoch["epoch"] + 1: epoch["gradient_cosines"] for epoch in history if epoch.get("gradient_cosines")}
    pairs = list(dict.fromkeys(pair for cosines in told.values() for pair in cosines))
    if not pairs:
        return Section("Gradient conflict", reading, ["The training of this bundle kept no cosines."])
    series, means = {}, []
    for pair in pairs:
        points = [(epoch, cosines[pair]) for epoch, cosines in told.items() if pair in cosines]
        name = " and ".join(pair.split("|"))
        series[name] = ([epoch for epoch, _ in points], [cosine for _, cosine in points])
        means.append((name, number(float(np.mean([c for _, c in points])), 3), number(min(c for _, c in points), 3)))
    against = [name for name, (_, cosines) in series.items() if np.mean(cosines) < 0]
    found = [f"{name} pull apart." for name in against] or ["No two objectives pull apart on average."]
    chart = lines(series, x="epoch", y="cosine", whole=True)
    return Section(
        "Gradient conflict", reading, found, [chart], [PageTable("cosines", ("objectives", "mean", "least"), means)]
    )


def permutation_section(drops: Mapping[str, Float64Array], names: Sequence[str], rows: int) -> Section:
    """Return what shuffling each raw column costs; see `permutation_importance`."""
    means = {column: each.mean(axis=0) for column, each in drops.items()}
    charts, cells = [], []
    for index, objective in enumerate(names):
        order = sorted(means, key=lambda column: -np.nan_to_num(means[column][index]))
        shown = {column: float(means[column][index]) for column in order if np.isfinite(means[column][index])}
        if shown:
            charts.append(bars(shown, x=f"fall of the normalised Gini of {objective}", most=15))
    for column, each in sorted(drops.items(), key=lambda item: -float(np.nansum(means[item[0]]))):
        spread = [
            f"{number(m)} ({number(a)} – {number(b)})"
            for m, a, b in zip(each.mean(0), each.min(0), each.max(0), strict=True)
        ]
        cells.append((column, *spread))
    reading = (
        f"How much worse objectives are ordered where a column of the log is shuffled among {rows:,} rows, and with it "
        "all features that derive from it; least and most of the repeats stand in brackets. The normalised Gini is "
        "2 AUC − 1 of a binary objective. Columns that tell the same cover for each other."
    )
    table = PageTable("columns", ("column", *names), cells)
    return Section("Importance of columns", reading, charts=charts, tables=[table])


def gradients_section(
    attributions: Mapping[str, Float64Array], features: Sequence[str], missed: float, rows: int
) -> Section:
    """Return how far features move predictions; see `integrated_gradients`.

    Args:
        attributions: for each objective (B, F).
        features: their names, (F,).
        missed: what attributions miss of the predictions' differences, as a share of them.
        rows: how many were looked at.
    """
    sizes = {name: np.abs(each).mean(axis=0) for name, each in attributions.items()}
    charts = []
    for name, own in sizes.items():
        order = np.argsort(-own, kind="stable")
        moved = {features[place]: float(own[place]) for place in order}
        charts.append(bars(moved, x=f"mean movement of {name}", most=15))
    total = sum(sizes.values(), np.zeros(len(features)))
    cells = [
        (features[place], *(number(own[place]) for own in sizes.values()))
        for place in np.argsort(-total, kind="stable")
    ]
    reading = (
        f"How far each feature moves a prediction from that of another row, on average over {rows:,} pairs of rows, by "
        "integrated gradients: in log-odds of a binary objective, in the logarithm of a value. It is of the ranker "
        f"before calibration, and the integral misses {missed:.1%} of the movement."
    )
    return Section(
        "Importance of features", reading, charts=charts, tables=[PageTable("features", ("feature", *sizes), cells)]
    )


def fairness_section(rows: JudgedRows, groups: Sequence[str], replicates: int) -> Section:
    """Return exposure and calibration by the groups of columns.

    Args:
        rows: judged.
        groups: columns among those judged.
        replicates: bootstrap replicates behind the intervals.
    """
    reading = (
        "Exposure gives place r of a request 1 / log₂(r + 1). Parity is a group's share of exposure over its share of "
        "rows, merit parity over its share of what turned out to be of worth under the blend's weights: an interval "
        "below 1 says that a group is shown less than that. Predicted / observed above 1 says that a group is promised "
        "to do better than it does."
    )
    if not groups:
        return Section("Fairness", reading, ["No groups were asked for; `--group COLUMN` names some."])
    requests = rows.columns.get(rows.schema.request or "")
    codes = _codes(rows)
    tables, charts = [], []
    for column in groups:
        named = frequent(rows.columns[column])
        if requests is not None:
            merit = worth(rows.labels, rows.schema.default_weights)
            several = np.bincount(codes)[codes] > 1
            own = (_scores(rows, rows.predictions)[several], codes[several], named[several], merit[several])
            found = exposure_by_group(*own, replicates=replicates) if several.any() else ()
            cells = [
                (
                    each.group,
                    f"{each.rows:,}",
                    f"{each.row_share:.1%}",
                    f"{each.exposure_share:.1%}",
                    with_interval(each.parity, *each.parity_interval, 3),
                    with_interval(each.merit_parity, *each.merit_interval, 3),
                )
                for each in found
            ]
            columns = ("group", "rows", "of rows", "of exposure", "parity", "merit parity")
            if found:
                tables.append(PageTable(f"exposure by {column}", columns, cells))
                parities = {each.group: (each.parity, *each.parity_interval) for each in found}
                charts.append(intervals(parities, x=f"parity of exposure by {column}", line=1.0))
        calibrations = {
            name: calibration_by_group(rows.labels[:, k], rows.predictions[:, k], codes, named, replicates=replicates)
            for k, name in enumerate(rows.schema.objective_names)
        }
        by_group = {
            name: {each.group: with_interval(each.ratio, *each.interval, 3) for each in found}
            for name, found in calibrations.items()
        }
        cells = [(group, *(found.get(group, "") for found in by_group.values())) for group in np.unique(named)]
        tables.append(PageTable(f"predicted / observed by {column}", ("group", *by_group), cells))
    return Section("Fairness", reading, charts=charts, tables=tables)


def leaks_section(
    alone: Mapping[str, Float64Array], ranker: Float64Array, names: Sequence[str], found: Sequence[Suspect]
) -> Section:
    """Return how well each column alone orders each objective, and which do too well; see `suspects`."""
    reading = (
        "How well a column alone orders an objective (normalised Gini, 2 AUC − 1 of a binary one), learnt on half of "
        "the requests and tried on the other. What orders almost perfectly, or better than the whole ranker, may be "
        "written after the fact: make sure that it is known when a request is ranked."
    )
    told = [f"{each.column}: {each.reason}." for each in found] or ["No column is suspect."]
    cells = [("(the ranker)", *(number(skill, 3) for skill in ranker))]
    cells += [
        (column, *(number(skill, 3) for skill in own))
        for column, own in sorted(alone.items(), key=lambda item: -float(np.nanmax([*item[1], -1.0])))
    ]
    return Section("Leak suspects", reading, told, tables=[PageTable("columns alone", ("column", *names), cells)])


def comparison_section(differences: Sequence[Difference] | None, old: str, apart: Sequence[str] = ()) -> Section:
    """Return what changed against a former bundle.

    Args:
        differences: None where there is no former bundle.
        old: its name.
        apart: objectives that one of the two lacks.
    """
    reading = (
        "New less old on the same rows. Both are judged on the same drawn requests, so that an interval that leaves "
        "out 0 is a difference, even where the two rankers' own intervals overlap."
    )
    if differences is None:
        return Section("Comparison", reading, ["No former bundle was given; `--against BUNDLE` names one."])
    found = [f"{name} is an objective of one of the two alone, and left out." for name in apart]
    cells = [
        (
            f"{each.objective} {each.metric}",
            number(each.new),
            number(each.old),
            with_interval(each.difference, each.low, each.high),
        )
        for each in differences
    ]
    table = PageTable(f"against {old}", ("metric", "new", "old", "difference"), cells)
    return Section("Comparison", reading, found, tables=[table])


def frequent(values: Array, most: int = MOST_GROUPS) -> Array:
    """Return values (B,) as text, all but the most frequent ones as `others`."""
    names = values.astype(str)
    listed, counts = np.unique(names, return_counts=True)
    if len(listed) <= most:
        return names
    kept = listed[np.argsort(-counts, kind="stable")[:most]]
    return np.where(np.isin(names, kept), names, "others")


def _scores(rows: JudgedRows, predictions: Array) -> Array:
    return blend(predictions, np.asarray(rows.schema.default_weights, dtype=np.float32), rows.schema.blend.kind)


def _codes(rows: JudgedRows) -> NDArray[np.int64]:
    requests = rows.columns.get(rows.schema.request or "")
    if requests is None:
        return np.arange(len(rows.predictions))
    codes: NDArray[np.int64] = np.unique(sortable(requests, len(requests)), return_inverse=True)[1]
    return codes


def _cell(figure: Figure | None) -> str:
    return "" if figure is None else with_interval(figure.value, figure.low, figure.high)
