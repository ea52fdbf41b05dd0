"""The command that says which rows to label."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def label(
    bundle: Annotated[Path, typer.Argument(help="Folder that `fit` wrote.")],
    log: Annotated[list[str], typer.Option(help="Parquet or CSV without labels: files, folders or globs; repeatable.")],
    suggest: Annotated[int, typer.Option(min=1, help="How many rows to suggest.")],
    out: Annotated[Path, typer.Option(help="File for the rows, .parquet or .csv.")],
) -> None:
    """Suggest rows to label: those whose labels the ranker is least sure of.

    Example: `steelyard label bundle --log shop/unlabelled --suggest 500 --out to-label.csv`
    """
    from steelyard.bundle import open_bundle
    from steelyard.labelling import check_suggestions_file, suggest_rows, write_suggestions

    opened = open_bundle(bundle)
    check_suggestions_file(out, [given.name for given in opened.schema.inputs if given.is_list])
    rows = suggest_rows(opened, log, suggest)
    write_suggestions(rows, out)
    Console(stderr=True).print(f"{rows.num_rows:,} rows to label: {out}", markup=False, highlight=False)
