"""What a search found: a table for a terminal, and a page with its history, its trade-offs and every trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from models.search_space import Shop, default_parameters
from models.tuning import non_dominated
from steelyard.charts import Svg, bars, lines, scatter
from steelyard.pages import PageTable, Section, number, write_page
from steelyard.tuning import IDENTITY, counted_trials, ended

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

# Finished trials below which importance would be noise.
LEAST_TRIALS = 8


def best_trials_table(study: Study, most: int = 10) -> Table:
    """Return the best trials that came to their end, best first."""
    maximised, names = study.user_attrs[IDENTITY]["maximise"], _objectives(study)
    table = Table(title=f"trials by {escape(maximised)}", title_justify="left")
    for name in ("trial", maximised, *(f"gain in {name}" for name in names), "parameters", "seconds"):
        table.add_column(escape(name), justify="right")
    table.add_column("settings that are not the default", overflow="fold", min_width=30)
    for trial in sorted(_complete(study), key=lambda each: -(each.value or 0.0))[:most]:
        table.add_row(str(trial.number), number(trial.value), *(escape(cell) for cell in _cells(trial, names)))
    return table


def write_tuning_page(study: Study, path: Path) -> None:
    """Write a study as a page that opens without a network.

    Args:
        study: with a trial that came to its end.
        path: the HTML file.

    Raises:
        RuntimeError: Jinja2 or matplotlib is not installed.
    """
    maximised = study.user_attrs[IDENTITY]["maximise"]
    best, trials, names = study.best_trial, counted_trials(study), _objectives(study)
    lead = (
        f"{len(trials)} trials, {len(_complete(study))} of which came to their end; the best has {maximised} "
        f"{best.value:.4f} on the validation rows."
    )
    sections = [
        Section(
            "The best trial",
            "These settings are in best.yaml, which `steelyard fit --options` takes. The best of many is partly luck: "
            "judge the ranker on a later log with `steelyard evaluate`.",
            tables=[PageTable(f"trial {best.number}", ("setting", "value"), sorted(_flat(best).items()))],
        ),
        Section(
            "History",
            f"Each point is a trial's {maximised}; the line is the best so far. Where it is flat for long, more trials "
            "will hardly help. Trial 0 has the default settings.",
            charts=[_history(study)],
        ),
        _importance(study),
        _trade_offs(study),
        Section(
            "All trials",
            "A pruned trial was below the median of earlier trials at the same epoch; a failed one says why. The "
            "objectives' columns are gains, 1 minus the normalised loss: 0 knows the base rate alone.",
            tables=[
                PageTable(
                    "by number",
                    ("trial", "ended", *names, "parameters", "seconds", "settings that are not the default"),
                    [(trial.number, ended(study, trial), *_cells(trial, names)) for trial in trials],
                )
            ],
        ),
    ]
    write_page(path, f"Search for the most {maximised}", lead, sections)


def _complete(study: Study) -> list[FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]


def _objectives(study: Study) -> list[str]:
    return list(next((trial.user_attrs["gains"] for trial in _complete(study)), {}))


def _cells(trial: FrozenTrial, names: Sequence[str]) -> list[str]:
    """Return a trial's gains, the ranker's size, the time it took and its settings."""
    gains, parameters = trial.user_attrs.get("gains", {}), trial.user_attrs.get("parameters")
    seconds = trial.duration.total_seconds() if trial.duration else None
    defaults = default_parameters(Shop(len(names)))
    own = [f"{name} {_short(value)}" for name, value in trial.params.items() if defaults.get(name) != value]
    size = "" if parameters is None else f"{parameters:,}"
    return [*(number(gains.get(name)) for name in names), size, number(seconds, 1), ", ".join(own)]


def _short(value: Any) -> str:
    """Return a value of a setting in few characters; widths of no layer are none."""
    return f"{value:.3g}" if isinstance(value, float) else str(value) or "none"


def _flat(trial: FrozenTrial) -> dict[str, Any]:
    options: Mapping[str, Any] = trial.user_attrs["options"]
    own = {name: value for name, value in options.items() if name != "ranker"}
    return own | {f"ranker {name}": value for name, value in options.get("ranker", {}).items()}


def _history(study: Study) -> Svg:
    complete = sorted(_complete(study), key=lambda trial: trial.number)
    numbers = [trial.number for trial in complete]
    values = np.array([trial.value for trial in complete], dtype=np.float64)
    series = {"trial": (numbers, values), "best so far": (numbers, np.maximum.accumulate(values))}
    return lines(series, x="trial", y="value", whole=True, dots=("trial",))


def _importance(study: Study) -> Section:
    reading = (
        "How much each setting decides whether a trial is among the best tenth (PED-ANOVA; Watanabe et al., IJCAI "
        "2023), as a share of all; with few trials it is a hint, no more."
    )
    complete = _complete(study)
    if len(complete) < LEAST_TRIALS:
        return Section("Importance of settings", reading, [f"It takes {LEAST_TRIALS} trials that come to their end."])
    from optuna.importance import get_param_importances

    shares = get_param_importances(study)
    return Section("Importance of settings", reading, charts=[bars(shares, x="share")])


def _trade_offs(study: Study) -> Section:
    reading = (
        "Each point is a trial's gain in two objectives. No trial is better in every objective than one of the front; "
        "a front that falls steeply says that these two objectives pull apart."
    )
    complete = _complete(study)
    names = list(complete[0].user_attrs["gains"]) if complete else []
    gains = np.array([list(trial.user_attrs["gains"].values()) for trial in complete], dtype=np.float64)
    complete_rows = np.isfinite(gains).all(axis=1) if len(gains) else np.zeros(0, dtype=bool)
    if len(names) < 2 or not complete_rows.any():
        return Section("Trade-offs", reading, ["It takes two objectives with labels among the validation rows."])
    gains = gains[complete_rows]
    front = non_dominated(gains)
    charts = [
        scatter(
            {
                "dominated": (gains[~front, one], gains[~front, other]),
                "Pareto front": (gains[front, one], gains[front, other]),
            },
            x=f"gain in {names[one]}",
            y=f"gain in {names[other]}",
        )
        for one, other in combinations(range(len(names)), 2)
    ]
    return Section("Trade-offs", reading, charts=charts)
