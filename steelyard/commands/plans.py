"""Commands on compiled plans: show and explain."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from steelyard.commands.logs import JsonOption

app = typer.Typer(
    no_args_is_help=True,
    help="Look into a compiled plan: what serving computes from a request's raw columns, and how.",
)
PlanArgument = Annotated[Path, typer.Argument(help="Folder of a bundle, or of a plan: one that holds plan.json.")]


@app.command()
def show(path: PlanArgument, as_json: JsonOption = False) -> None:
    """Show a plan: its inputs, its instructions in order, the columns that they pack, its tables and their bytes.

    An instruction reads inputs or registers that earlier ones wrote, and writes one: 64-bit *keys* of values, *ids* of
    keys, or *numbers*. A table is *hash*, looked up by key, or *dense*, indexed by the integer itself. In arithmetic,
    x is what the step before gave.

    Example: `steelyard plan show bundle`
    """
    from feature_eng.describing import describe
    from feature_eng.plan_files import load_plan
    from steelyard.plan_tables import plan_tables

    about = describe(load_plan(plan_folder(path)))
    if as_json:
        typer.echo(json.dumps(about, indent=1))
        return
    for table in plan_tables(about):
        Console().print(table)


@app.command()
def explain(
    path: PlanArgument,
    row: Annotated[
        str, typer.Option(help='JSON, `{"price": 3.5, "tags": ["a"]}`; @file with it; or a Parquet file or folder.')
    ],
    index: Annotated[int, typer.Option(min=0, help="Which row of the Parquet file, from 0.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Follow one row through a plan: what each instruction makes of it, and the row that is packed.

    Keys are shown in hexadecimal, ids with what they stand for: padding, null, unseen (not in the vocabulary), rare,
    listed, a bucket or a bin; in the plan of a workflow that was written by hand, 3 is no rare value but the first
    listed one. Numbers are shown as read and after each step of arithmetic. A row must have a value or
    null for every input of the plan; other columns, such as labels, are left alone.

    Example: `steelyard plan explain bundle --row shop/log/part-00000.parquet --index 7`
    """
    from feature_eng.explaining import columns_of_row
    from feature_eng.explaining import explain as explain_row
    from feature_eng.plan_files import load_plan
    from steelyard.plan_tables import explained_tables

    plan = load_plan(plan_folder(path))
    columns = columns_of_row(plan.inputs, read_row(row, index, [given.name for given in plan.inputs]))
    explained = explain_row(plan, columns)
    categorical, continuous = plan.run(columns, 1)
    names = [
        slot.name if slot.width == 1 else f"{slot.name}[{place}]"
        for slot in plan.layout.categorical
        for place in range(slot.width)
    ]
    packed = {"categorical": _cells(names, categorical[0]), "continuous": _cells(plan.layout.continuous, continuous[0])}
    if as_json:
        typer.echo(json.dumps(_finite({"instructions": [asdict(each) for each in explained], **packed}), indent=1))
        return
    for table in explained_tables(explained, packed):
        Console().print(table)


def plan_folder(path: Path) -> Path:
    """Return the folder of a plan, given it or its bundle.

    Raises:
        ValueError: there is no plan.
    """
    for folder in (path, path / "plan"):
        if (folder / "plan.json").is_file():
            return folder
    raise ValueError(f"path must be a bundle's folder or a plan's, which holds plan.json; got {path}, which has none")


def read_row(given: str, index: int, names: list[str]) -> dict[str, Any]:
    """Return a row's values by column.

    Args:
        given: JSON, `@` and the path of a file with it, or the path of Parquet.
        index: of the row of Parquet.
        names: columns to read of Parquet, those that it has.

    Raises:
        ValueError: it is no JSON object, or no such row is there.
    """
    if given.startswith("@"):
        return _json_row(Path(given[1:]).read_text(encoding="utf-8"))
    if given.lstrip().startswith("{"):
        return _json_row(given)
    if not Path(given).exists():
        raise ValueError(f"row must be a JSON object, @file with one, or a Parquet file; got {given}")
    import pyarrow as pa
    import pyarrow.dataset as ds

    try:
        log = ds.dataset(given, format="parquet")
        count = log.count_rows()
    except pa.ArrowInvalid:
        raise ValueError(f"row must be a JSON object, @file with one, or a Parquet file; got {given}") from None
    if index >= count:
        raise ValueError(f"index must be below the {count} rows of {given}; got {index}")
    row: dict[str, Any] = log.take([index], columns=[name for name in names if name in log.schema.names]).to_pylist()[0]
    return row


def _json_row(text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise ValueError(f"row must be a JSON object; got {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"row must be a JSON object; got {text}")
    return row


def _cells(names: Any, values: Any) -> list[dict[str, Any]]:
    return [
        {"column": column, "name": name, "value": value.item()}
        for column, (name, value) in enumerate(zip(names, values, strict=True))
    ]


def _finite(value: Any) -> Any:
    """Return a value in which what JSON does not have, NaN and infinity, is null."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
