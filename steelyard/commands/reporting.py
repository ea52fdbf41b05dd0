"""The command that writes what is known of a bundle: report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from steelyard.commands.logs import PolicyOption, policies


def report(
    bundle: Annotated[Path, typer.Argument(help="Folder that `fit` wrote.")],
    log: Annotated[list[str], typer.Option("--log", help="Parquet or CSV that the ranker has not seen; repeatable.")],
    output: Annotated[Path | None, typer.Option(help="The HTML file; BUNDLE/report.html by default.")] = None,
    against: Annotated[Path | None, typer.Option(help="A former bundle, judged on the same rows.")] = None,
    by: Annotated[
        list[str] | None, typer.Option("--by", help="Column that slices the log, besides time and cold; repeatable.")
    ] = None,
    group: Annotated[
        list[str] | None, typer.Option("--group", help="Column between whose values fairness is judged; repeatable.")
    ] = None,
    policy: PolicyOption = None,
    replicates: Annotated[int, typer.Option(min=0, help="Bootstrap replicates behind the intervals.")] = 100,
    k: Annotated[int, typer.Option("--k", min=1, help="Places that NDCG and value captured count.")] = 10,
) -> None:
    """Write a bundle's report on a log: one HTML file that opens without a network.

    Example: `steelyard report bundle --log shop/test --output report.html --by device --group category`
    """
    from steelyard.bundle import open_bundle
    from steelyard.report import write_report

    console = Console(stderr=True, soft_wrap=True)
    written = output or bundle / "report.html"
    write_report(
        open_bundle(bundle),
        log,
        written,
        against=open_bundle(against) if against else None,
        by=by or (),
        groups=group or (),
        policies=policies(policy),
        k=k,
        replicates=replicates,
        report=lambda line: console.print(line, markup=False, highlight=False),
    )
    console.print(f"report: {written}", markup=False, highlight=False)
