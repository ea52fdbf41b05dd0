"""Commands that use a ranker: serve, rank, score and demo."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from steelyard.commands.logs import JsonOption, SchedulerOption, WorkersOption

WeightOption = Annotated[
    list[str] | None, typer.Option("--weight", help="Weight of an objective: `purchase=1.0`; repeatable.")
]


def serve(
    bundle: Annotated[Path, typer.Argument(help="Folder that `fit` wrote, or a model repository that `export` wrote.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than loopback let the network in.")
    ] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(help="0 picks a free one.")] = 8000,
    grpc_port: Annotated[int, typer.Option(help="0 picks a free one.")] = 8001,
    metrics_port: Annotated[int, typer.Option(help="0 picks a free one.")] = 8002,
    wait: Annotated[float, typer.Option(help="Seconds that the server may take to become ready.")] = 120.0,
    check: Annotated[bool, typer.Option("--check", help="Stop as soon as the server is ready.")] = False,
) -> None:
    """Serve a bundle with a real Triton until Ctrl-C.

    Example: `steelyard serve bundle`
    """
    from steelyard.bundle import MANIFEST, open_bundle
    from steelyard.exporting import export_bundle
    from triton_repo.server import find_tritonserver, start_server

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it cleans up as Ctrl-C does
    console = Console(stderr=True)
    found = find_tritonserver()
    console.print(f"tritonserver: {found}")
    repository = export_bundle(open_bundle(bundle)) if (bundle / MANIFEST).exists() else bundle
    with start_server(
        repository, host=host, http_port=http_port, grpc_port=grpc_port, metrics_port=metrics_port
    ) as server:
        server.wait_ready(wait)
        console.print(f"ready: grpc {server.grpc_url}, http {server.http_url}, metrics {server.metrics_url}")
        if check:
            return
        try:
            server.wait()
        except KeyboardInterrupt:
            console.print("stopping")


def rank(
    request: Annotated[Path, typer.Argument(help='JSON: {"user": {…}, "items": […]}; - reads standard input.')],
    url: Annotated[
        str, typer.Option(help="Server; grpc:// or http:// before it chooses the protocol.")
    ] = "grpc://localhost:8001",
    weight: WeightOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rank the candidates of one request on a running server.

    Example: `steelyard rank request.json --weight click=0.2 --weight purchase=1`
    """
    from triton_repo.client import RankingClient

    text = typer.get_text_stream("stdin").read() if str(request) == "-" else request.read_text(encoding="utf-8")
    asked = parse_request(text)
    with RankingClient(url) as client:
        ranking = client.rank(user=asked["user"], items=asked["items"], weights=weights(weight))
    answers = [{"item": r.item, "score": r.score, **r.predictions} for r in ranking]
    if as_json:
        typer.echo(json.dumps(answers, indent=1))
        return
    from steelyard.tables import ranking_table

    Console().print(ranking_table("ranking", list(answers[0]), answers))


def parse_request(text: str) -> dict[str, Any]:
    """Return the user and the items of a request in JSON.

    Raises:
        ValueError: it is not JSON, or has no user or no items.
    """
    try:
        asked = json.loads(text)
    except ValueError as error:
        raise ValueError(f"request must be JSON; got {error}") from None
    if not isinstance(asked, dict) or not {"user", "items"} <= asked.keys():
        raise ValueError(
            f"request must have user and items; got {', '.join(asked) if isinstance(asked, dict) else asked}"
        )
    return asked


def weights(given: list[str] | None) -> dict[str, float] | None:
    """Parse `objective=weight` options; None where there are none.

    Raises:
        ValueError: an option has another form.
    """
    if not given:
        return None
    parsed = {}
    for option in given:
        name, _, value = option.partition("=")
        try:
            parsed[name] = float(value)
        except ValueError:
            raise ValueError(f"weight must be objective=number; got {option}") from None
    return parsed


def score(
    bundle: Annotated[Path, typer.Argument(help="Folder that `fit` wrote.")],
    log: Annotated[list[str], typer.Argument(help="Parquet or CSV: files, folders or globs; needs no labels.")],
    out: Annotated[Path, typer.Option(help="Folder for the scored Parquet parts; must not exist yet.")],
    weight: WeightOption = None,
    workers: WorkersOption = 0,
    scheduler: SchedulerOption = None,
) -> None:
    """Score a log's rows; called again after a kill, it goes on where it was.

    Example: `steelyard score bundle shop/test --out scored --weight purchase=1 --workers 2`
    """
    from feature_eng.cluster import connect
    from steelyard.bundle import open_bundle
    from steelyard.scoring_jobs import score_with_bundle

    with connect(workers, scheduler):
        rows, seconds = score_with_bundle(open_bundle(bundle), log, out, weights(weight))
    Console(stderr=True).print(f"{rows:,} rows in {out}, {rows / max(seconds, 1e-9):,.0f} rows/s")


def demo(
    rows: Annotated[int, typer.Option(min=1, help="Impressions to simulate.")] = 200_000,
    out: Annotated[Path, typer.Option(help="Folder for the shop, the bundle and the server's log; replaced.")] = Path(
        "demo"
    ),
) -> None:
    """Show the whole line: simulate, fit, evaluate, export, serve, and rank under two weightings.

    Example: `steelyard demo`
    """
    from steelyard.demo import run_demo

    run_demo(out, rows)
