"""Commands that make and judge a ranker: fit, evaluate and export."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from steelyard.commands.logs import JsonOption, PolicyOption, SchedulerOption, WorkersOption, policies


class Logger(str, Enum):
    """Where a training's figures go."""

    tensorboard = "tensorboard"
    wandb = "wandb"


def fit(
    log: Annotated[list[str], typer.Argument(help="Parquet or CSV: files, folders or globs.")],
    schema: Annotated[Path, typer.Option(help="Schema of the log.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle; must not exist yet.")],
    split: Annotated[
        Literal["time", "request", "user"], typer.Option(help="How validation rows are split off.")
    ] = "time",
    validation: Annotated[float, typer.Option(help="Share that validates, in [0, 1).")] = 0.1,
    policy: PolicyOption = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Most passes over the log.")] = None,
    batch_rows: Annotated[int | None, typer.Option(min=1, help="Rows of a training batch.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0, help="Highest learning rate.")] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Epochs without a better validation before stopping.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of weights, order and dropout; 0 if absent.")] = None,
    balancing: Annotated[
        str | None,
        typer.Option(help="What weighs the objectives' losses: fixed, uncertainty, dwa, gradnorm, pcgrad, …"),
    ] = None,
    devices: Annotated[int | None, typer.Option(min=1, help="Processes, or GPUs, that train together.")] = None,
    ranker: Annotated[
        list[str] | None, typer.Option("--ranker", help="The ranker's own settings: `experts=8`; repeatable.")
    ] = None,
    options: Annotated[
        Path | None, typer.Option(help="Settings as a YAML file, such as the best that `tune` wrote; flags count more.")
    ] = None,
    calibration: Annotated[
        Literal["none", "platt", "temperature", "beta", "isotonic", "auto"],
        typer.Option(
            help="How predictions are mapped to what validation rows show; `auto` chooses for each objective."
        ),
    ] = "none",
    calibrate_by: Annotated[
        str | None, typer.Option(help="Categorical column whose values get maps of their own.")
    ] = None,
    refit: Annotated[
        bool,
        typer.Option("--refit", help="Then fit on all rows, the newest too, for as many epochs as validated best."),
    ] = False,
    logger: Annotated[list[Logger] | None, typer.Option(help="Where figures go; repeatable.")] = None,
    workers: WorkersOption = 0,
    scheduler: SchedulerOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a fit that was stopped.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn a log into a bundle: features, trained ranker, plan, metrics.

    Example: `steelyard fit shop/log --schema shop/schema.yaml --out bundle`
    """
    from feature_eng.cluster import connect
    from feature_eng.schema_file import load_schema
    from models.search_space import merged
    from steelyard.options_file import read_options
    from steelyard.pipeline import FitOptions
    from steelyard.pipeline import fit as fit_once
    from steelyard.refitting import fit_twice

    console = Console(stderr=True)
    told: dict[str, Any] = {
        "epochs": epochs,
        "batch_rows": batch_rows,
        "lr": learning_rate,
        "patience": patience,
        "seed": seed,
    }
    told |= {"balancing": balancing, "devices": devices}
    arguments: dict[str, Any] = {name: value for name, value in told.items() if value is not None}
    arguments |= {"ranker": settings(ranker)} | ({"loggers": [each.value for each in logger]} if logger else {})
    training = merged({"seed": 0, **(read_options(options) if options else {})}, arguments)
    fitting = FitOptions(policies(policy), split, validation, training, calibration, calibrate_by)
    fit_bundle = fit_twice if refit else fit_once
    with connect(workers, scheduler):
        bundle = fit_bundle(log, load_schema(schema), out, fitting, resume=resume, report=console.print)
    metrics = json.loads((bundle.folder / "metrics.json").read_text(encoding="utf-8"))
    if as_json:
        typer.echo(json.dumps(metrics))
    elif "validation" in metrics:
        from models.evaluation import Evaluation
        from steelyard.tables import evaluation_tables

        for table in evaluation_tables(Evaluation.from_json(metrics["validation"])):
            Console().print(table)
    console.print(f"bundle: {bundle.folder}")


def settings(given: list[str] | None) -> dict[str, Any]:
    """Parse `name=value` options, the values as JSON.

    Raises:
        ValueError: an option has another form, or its value is not JSON.
    """
    parsed = {}
    for option in given or []:
        name, _, value = option.partition("=")
        try:
            parsed[name] = json.loads(value)
        except ValueError:
            raise ValueError(f"ranker must be name=number or name=[numbers]; got {option}") from None
    return parsed


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Folder that `fit` wrote.")],
    log: Annotated[list[str], typer.Argument(help="Parquet or CSV that the ranker has not seen.")],
    policy: PolicyOption = None,
    replicates: Annotated[int, typer.Option(min=0, help="Bootstrap replicates behind the intervals.")] = 100,
    k: Annotated[int, typer.Option("--k", min=1, help="Places that NDCG and value captured count.")] = 10,
    by: Annotated[
        str | None, typer.Option(help="Judge slices too: by a column of the log, by `time`, or by who is `cold`.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw reliability diagrams here; needs matplotlib.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Judge a bundle on a log: every objective beside popularity, and beside the truth where a log has it.

    Example: `steelyard evaluate bundle shop/test`
    """
    from steelyard.bundle import open_bundle
    from steelyard.evaluating import judge_log
    from steelyard.tables import evaluation_tables

    rows = judge_log(open_bundle(bundle), log, policies(policy), by=by)
    evaluation = rows.evaluate(k=k, replicates=replicates)
    masks = {name: mask for name, mask in rows.slices(by).items() if mask.any()} if by else {}
    slices = {name: rows.evaluate(mask, k=k, replicates=replicates) for name, mask in masks.items()}
    if plot:
        from steelyard.reliability import plot_reliability

        plot_reliability(rows, plot, replicates=replicates)
    if as_json:
        listed = {"slices": {name: each.to_json() for name, each in slices.items()}} if by else {}
        typer.echo(json.dumps(evaluation.to_json() | listed, indent=1))
        return
    for name, each in {"": evaluation, **slices}.items():
        if name:
            Console().print(f"[bold]{name}[/]: {each.rows:,} rows")
        for table in evaluation_tables(each):
            Console().print(table)


def export(
    bundle: Annotated[Path, typer.Argument(help="Folder that `fit` wrote.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the model repository; BUNDLE/triton by default.")] = None,
    max_candidates: Annotated[int, typer.Option(min=1, help="Most candidates that one request may rank.")] = 4096,
    backend: Annotated[
        Literal["python", "libtorch"], typer.Option(help="What runs the ranker; libtorch needs an NGC image.")
    ] = "python",
) -> None:
    """Write the Triton model repository of a bundle: preprocess → rank → blend.

    Example: `steelyard export bundle`
    """
    from steelyard.bundle import open_bundle
    from steelyard.exporting import export_bundle

    written = export_bundle(open_bundle(bundle), out, max_candidates=max_candidates, backend=backend)
    Console(stderr=True).print(f"model repository: {written}")
