"""Commands on logs: check and simulate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

PolicyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        help="What a check does with rows that it finds: `duplicates=error`, `conversions=fill`, …; repeatable.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
WorkersOption = Annotated[int, typer.Option(help="Local Dask workers; 0 runs in this process.")]
SchedulerOption = Annotated[str | None, typer.Option(help="Address of a Dask scheduler, such as tcp://10.0.0.5:8786.")]


def check(
    log: Annotated[list[str] | None, typer.Argument(help="Parquet or CSV: files, folders or globs.")] = None,
    schema: Annotated[Path | None, typer.Option(help="Schema to hold the log against.")] = None,
    policy: PolicyOption = None,
    draft: Annotated[bool, typer.Option("--draft", help="Propose a schema for the log instead.")] = False,
    json_schema: Annotated[bool, typer.Option("--json-schema", help="Print the JSON Schema of schema files.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Hold a log against a schema, or draft a schema from a log.

    Example: `steelyard check log.parquet --schema schema.yaml`, `steelyard check log.parquet --draft > schema.yaml`
    """
    if json_schema:
        from feature_eng.schema_file import json_schema as editor_schema

        typer.echo(json.dumps(editor_schema(), indent=1))
        return
    if not log:
        raise ValueError("log must name at least one file; got none")
    if draft:
        from feature_eng.drafting import draft_schema

        typer.echo(draft_schema(log))
        return
    if schema is None:
        raise ValueError("schema must be given to hold the log against, or --draft to propose one; got neither")
    from feature_eng.logs import check_log
    from feature_eng.schema_file import load_schema
    from steelyard.tables import log_tables

    report = check_log(log, load_schema(schema), policies(policy))
    if as_json:
        typer.echo(report.model_dump_json(indent=1))
    else:
        console = Console()
        for table in log_tables(report):
            console.print(table)
    if any(found.policy == "error" for found in report.checks):
        raise typer.Exit(2)


def policies(given: list[str] | None) -> Any:
    """Parse `check=policy` options.

    Raises:
        ValueError: an option has another form, or names an unknown check or policy.
    """
    from pydantic import ValidationError

    from feature_eng.log_checks import LogPolicies

    pairs = [option.partition("=") for option in given or []]
    for option, (name, _, action) in zip(given or [], pairs, strict=True):
        if name not in LogPolicies.model_fields or not action:
            raise ValueError(
                f"policy must be one of {', '.join(LogPolicies.model_fields)}, = and a policy; got {option}"
            )
    try:
        return LogPolicies.model_validate({name: action for name, _, action in pairs})
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"policy {first['loc'][0]} must be {first['ctx']['expected']}; got {first['input']}") from None


def simulate(
    out: Annotated[Path, typer.Argument(help="Folder for the log's Parquet parts and the shop's schema.")],
    rows: Annotated[int, typer.Option(min=1, help="Impressions to write.")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same log.")] = 0,
    test_rows: Annotated[int, typer.Option(min=0, help="Later impressions of the same shop to write beside.")] = 0,
    conflict: Annotated[
        Literal["none", "medium", "strong"], typer.Option(help="How far objectives conflict.")
    ] = "medium",
    position_bias: Annotated[
        float, typer.Option(help="Log-odds of a click lost per e-fold of position; 1 is strong.")
    ] = 0.1,
    selection: Annotated[
        float, typer.Option(help="How far an earlier ranker chose and ordered what is shown, 0 (chance) to 1.")
    ] = 0.2,
    confounding: Annotated[
        float, typer.Option(help="Log-odds of a click gained and of a purchase lost by one cause; 1 is strong.")
    ] = 0.0,
    propensities: Annotated[
        bool, typer.Option("--propensities", help="Write how likely the earlier ranker was to show each row.")
    ] = False,
) -> None:
    """Write the log of a shop whose true probabilities are known, with its schema: OUT/log, OUT/test, OUT/schema.yaml.

    Example: `steelyard simulate shop --rows 1000000 --seed 7`
    """
    from feature_eng.schema_file import save_schema
    from feature_eng.simulator import shop_schema, simulate_after
    from feature_eng.simulator import simulate as write_log

    write_log(
        out / "log",
        rows=rows,
        seed=seed,
        conflict=conflict,
        position_bias=position_bias,
        selection=selection,
        confounding=confounding,
        propensities=propensities,
    )
    if test_rows:
        simulate_after(out / "log", out / "test", rows=test_rows)
    save_schema(shop_schema(), out / "schema.yaml")
    Console(stderr=True).print(f"{rows:,} rows in {out / 'log'}, their schema in {out / 'schema.yaml'}")
