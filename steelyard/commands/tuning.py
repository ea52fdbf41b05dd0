"""The command that searches for a training's settings: tune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from steelyard.commands.logs import JsonOption, PolicyOption, SchedulerOption, WorkersOption, policies
from steelyard.commands.training import settings


def tune(
    log: Annotated[list[str], typer.Argument(help="Parquet or CSV: files, folders or globs.")],
    schema: Annotated[Path, typer.Option(help="Schema of the log.")],
    out: Annotated[Path, typer.Option(help="Folder of the search; must not exist yet, unless resumed.")],
    maximise: Annotated[
        str, typer.Option(help="An objective's name, `value` (captured under the blend) or `hypervolume`.")
    ] = "value",
    search: Annotated[
        str, typer.Option(help="What is chosen: groups of settings, with commas between.")
    ] = "sharing,width,embedding,optimizer,balancing",
    trials: Annotated[int, typer.Option(min=1, help="Trials that the study has at the end.")] = 30,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that run trials at once.")] = 1,
    pruner: Annotated[Literal["median", "none"], typer.Option(help="What stops hopeless trials early.")] = "median",
    k: Annotated[int, typer.Option("--k", min=1, help="Places that `value` and `hypervolume` count.")] = 10,
    split: Annotated[
        Literal["time", "request", "user"], typer.Option(help="How validation rows are split off.")
    ] = "time",
    validation: Annotated[float, typer.Option(help="Share that validates, in (0, 1).")] = 0.1,
    policy: PolicyOption = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Most passes over the log in a trial.")] = None,
    options: Annotated[Path | None, typer.Option(help="Settings that stay as they are: a YAML file.")] = None,
    ranker: Annotated[
        list[str] | None, typer.Option("--ranker", help="A setting of the ranker that stays: `crosses=2`; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the search and of every trial.")] = 0,
    fit: Annotated[bool, typer.Option("--fit", help="Fit a bundle with the best settings: OUT/bundle.")] = False,
    workers: WorkersOption = 0,
    scheduler: SchedulerOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a search that was stopped, or ended.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Search for the settings that are worth most on validation rows; a later log stays untouched for `evaluate`.

    Example: `steelyard tune shop/log --schema shop/schema.yaml --out tuned --trials 40 --jobs 2 --fit`
    """
    import json

    from feature_eng.cluster import connect
    from feature_eng.schema_file import load_schema
    from models.search_space import merged
    from steelyard.options_file import read_options
    from steelyard.pages import check_installed
    from steelyard.pipeline import FitOptions
    from steelyard.pipeline import fit as fit_bundle
    from steelyard.tuning import BEST, PREPARED, Search
    from steelyard.tuning import tune as run_search
    from steelyard.tuning_page import best_trials_table, write_tuning_page

    check_installed("tune", "tune", ("optuna", "jinja2", "matplotlib"))
    console = Console(stderr=True, soft_wrap=True)

    def report(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    told: dict[str, Any] = {"seed": seed, "ranker": settings(ranker)} | ({"epochs": epochs} if epochs else {})
    training = merged(read_options(options) if options else {}, told)
    fitting = FitOptions(policies(policy), split, validation, training)
    searching = Search(maximise, tuple(filter(None, search.split(","))), trials, jobs, k, pruner, seed)
    read = load_schema(schema)
    if fit and (out / "bundle").exists():
        raise FileExistsError(f"out must hold no bundle yet where one is to be fitted; got {out / 'bundle'}")
    with connect(workers, scheduler):
        study = run_search(log, read, out, fitting, searching, resume=resume, report=report)
        write_tuning_page(study, out / "tuning.html")
        if as_json:
            best = study.best_trial
            typer.echo(json.dumps({"trial": best.number, "value": best.value, **best.user_attrs}))
        else:
            Console().print(best_trials_table(study))
        report(f"best settings: {out / BEST}; page: {out / 'tuning.html'}")
        if fit:
            best_options = FitOptions(fitting.policies, split, validation, study.best_trial.user_attrs["options"])
            bundle = fit_bundle(log, read, out / "bundle", best_options, prepared=out / PREPARED, report=report)
            report(f"bundle: {bundle.folder}")
