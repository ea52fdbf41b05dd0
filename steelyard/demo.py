"""The whole line in one go, on a simulated shop."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from feature_eng.schema import Schema
from feature_eng.schema_file import save_schema
from feature_eng.simulator import shop_schema, simulate, simulate_after
from steelyard.evaluating import evaluate_log
from steelyard.exporting import export_bundle
from steelyard.pipeline import FitOptions, fit
from steelyard.report import write_report
from steelyard.tables import evaluation_tables, ranking_table
from triton_repo.client import RankingClient
from triton_repo.server import find_tritonserver, start_server

WEIGHTINGS: dict[str, dict[str, float]] = {"clicks": {"click": 1.0}, "revenue": {"revenue": 1.0}}
SHOWN_REQUESTS, SHOWN_PLACES = 2, 8
LEFT = {"log", "test", "schema.yaml", "bundle", "bundle.partial", "report.html", "tritonserver.log"}


def run_demo(out: Path, rows: int) -> None:
    """Simulate, fit, evaluate, export, serve and rank; everything is left in `out`, nothing is left running.

    Args:
        out: a new folder, or an earlier demo's, which is replaced.
        rows: impressions to simulate.

    Raises:
        FileExistsError: `out` holds what no demo left there.
    """
    _clear(out)
    console = Console()
    started = time.monotonic()

    def step(title: str) -> None:
        console.print(f"[bold]{time.monotonic() - started:5.0f} s  {title}[/]")

    step(f"simulating a shop: {rows:,} impressions")
    simulate(out / "log", rows=rows, seed=0)
    simulate_after(out / "log", out / "test", rows=max(rows // 5, 1))
    schema = shop_schema()
    save_schema(schema, out / "schema.yaml")
    step("fitting features and ranker")
    bundle = fit(
        str(out / "log"), schema, out / "bundle", FitOptions(), report=lambda line: console.print(f"         {line}")
    )
    step("evaluating on what the shop logs next")
    for table in evaluation_tables(evaluate_log(bundle, out / "test")):
        console.print(table)
    step("writing a report")
    try:
        write_report(
            bundle,
            out / "test",
            out / "report.html",
            by=["device"],
            groups=["category"],
            replicates=50,
            sampled_rows=10_000,
        )
        console.print(f"         {out / 'report.html'}")
    except RuntimeError as error:  # what draws it is an extra
        console.print(f"         none: {error}", markup=False)
    step("exporting the Triton repository")
    repository = export_bundle(bundle)
    found = find_tritonserver()
    step(f"starting {found}")
    with start_server(repository, http_port=0, grpc_port=0, metrics_port=0, log=out / "tritonserver.log") as server:
        server.wait_ready()
        step(f"ranking through {server.grpc_url}")
        with RankingClient(server.grpc_url) as client:
            for user, items in requests_of(out / "test", bundle.schema, SHOWN_REQUESTS):
                console.print(side_by_side(client, user, items))
    step("stopped the server; done")


def _clear(out: Path) -> None:
    foreign = sorted({path.name for path in out.iterdir()} - LEFT) if out.exists() else []
    if foreign:
        raise FileExistsError(f"out must be a new folder or an earlier demo's; got {out}, which holds {foreign[0]}")
    shutil.rmtree(out, ignore_errors=True)


def requests_of(log: Path, schema: Schema, count: int) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Return the first requests of a log, each as its user (with context) and its candidates."""
    rows = pq.read_table(log).slice(0, 200 * count).to_pylist()
    wanted = {i.name: i.role for i in schema.inputs}
    grouped: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row[schema.request], []).append(row)
    return [
        (
            {name: group[0][name] for name, role in wanted.items() if role != "item"},
            [{name: row[name] for name, role in wanted.items() if role == "item"} for row in group],
        )
        for group in list(grouped.values())[:count]
    ]


def side_by_side(client: RankingClient, user: Mapping[str, Any], items: list[dict[str, Any]]) -> Table:
    """Return one request's candidates as each weighting ranks them, next to each other."""
    both = Table.grid(padding=(0, 3))
    tables = []
    for name, weights in WEIGHTINGS.items():
        ranking = client.rank(user=user, items=items, weights=weights)[:SHOWN_PLACES]
        rows = [{"item": ranked.item, **ranked.predictions} for ranked in ranking]
        tables.append(ranking_table(f"ranked for {name}", list(rows[0]), rows))
    both.add_row(*tables)
    both.title = f"user {user['user_id']}, {len(items)} candidates"
    return both
