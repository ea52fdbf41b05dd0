"""How long does one ranking request take, and where does the time go?

One server holds three ensembles of the same tensors: `steelyard`, the product; `floor`, the same steps computing
nothing; `workflow`, whose preprocess step runs the NVTabular workflow on a DataFrame per request, as Merlin serves it.
They are called in turn, so that what else the machine does falls on all alike.

    python benchmarks/latency.py --quick --json latency.json --plot latency.png
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tritonclient.grpc as grpc
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from benchmarks.harness import Load, benchmark_parser, closed_loop, joined, line_plot, report
from benchmarks.shop import bundle_of_shop, request_rows
from steelyard.bundle import Bundle
from steelyard.exporting import export_bundle
from triton_repo.client import OUTPUTS, RankingClient
from triton_repo.repository import ENSEMBLE
from triton_repo.server import Running, start_server

CANDIDATES = (1, 16, 64, 256, 512)
CONCURRENCY = (1, 4)
SYSTEMS = {"steelyard": ENSEMBLE, "floor": "floor", "workflow": "workflow"}
STEPS = {
    "steelyard": ("preprocess", "rank", "blend"),
    "floor": ("floor_preprocess", "floor_rank", "floor_blend"),
    "workflow": ("workflow_preprocess", "rank", "blend"),
}
PEERS = Path(__file__).resolve().parent / "peers"


def main() -> None:
    """Run the benchmark from the command line."""
    parser = benchmark_parser(__doc__, quick="under 2 minutes, with wider error")
    parser.add_argument("--bundle", type=Path, help="bundle and log of `steelyard demo`; a small shop by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="steelyard-latency-") as folder:
        shop = arguments.bundle or Path(folder) / "shop"
        bundle, log = bundle_of_shop(shop, rows=50_000 if arguments.quick else 200_000)
        repository = comparison_repository(bundle, Path(folder) / "repository")
        with start_server(repository, http_port=0, grpc_port=0, metrics_port=0) as server:
            server.wait_ready(300)
            rounds, seconds = (2, 0.6) if arguments.quick else (4, 3.0)
            results, steps = measure(server, bundle, log, rounds, seconds)
    report(steps, None)
    report(results, arguments.json, steps=steps)
    if arguments.plot:
        alone = [r for r in results if r["concurrency"] == 1]
        lines = {
            system: (
                [r["candidates"] for r in alone if r["system"] == system],
                [r["p50_ms"] for r in alone if r["system"] == system],
            )
            for system in SYSTEMS
        }
        line_plot(arguments.plot, lines, title="One request at a time", x="candidates", y="p50, ms")


def comparison_repository(bundle: Bundle, folder: Path) -> Path:
    """Write a repository with the product's ensemble and the two that it is compared with."""
    export_bundle(bundle, folder, max_candidates=max(CANDIDATES))
    item = next(i for i in bundle.schema.inputs if i.role == "item" and not i.is_list)
    for step, counted in (("preprocess", item.name), ("rank", "categorical"), ("blend", "predictions")):
        config = read_config(folder, step)
        config.parameters["rows_of"].string_value = counted
        add_model(folder, f"floor_{step}", config, PEERS / "floor.py")
    add_model(folder, "workflow_preprocess", read_config(folder, "preprocess"), PEERS / "workflow.py")
    version = folder / "workflow_preprocess" / "1"
    shutil.copytree(bundle.workflow, version / "workflow")
    shutil.copytree(bundle.plan, version / "plan")
    shutil.copyfile(bundle.folder / "schema.yaml", version / "schema.yaml")
    for system in ("floor", "workflow"):
        config = read_config(folder, ENSEMBLE)
        for step, model in zip(config.ensemble_scheduling.step, STEPS[system], strict=True):
            step.model_name = model
        add_model(folder, system, config, None)
    return folder


def read_config(folder: Path, model: str) -> pb.ModelConfig:
    """Return a model's configuration."""
    return text_format.Parse((folder / model / "config.pbtxt").read_text(encoding="utf-8"), pb.ModelConfig())


def add_model(folder: Path, name: str, config: pb.ModelConfig, source: Path | None) -> None:
    """Add a model to a repository, with a Python step's source where it has one."""
    config.name = name
    version = folder / name / "1"
    version.mkdir(parents=True)
    (folder / name / "config.pbtxt").write_text(text_format.MessageToString(config), encoding="utf-8")
    if source:
        shutil.copyfile(source, version / "model.py")


def measure(
    server: Running, bundle: Bundle, log: Path, rounds: int, seconds: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Call every system at every size and concurrency; return the results and the time in each step."""
    results, steps = [], []
    with RankingClient(server.grpc_url) as client:
        sizes = {n: client.served.tensors(*request_rows(log, bundle.schema, n), None) for n in CANDIDATES}
    for candidates, tensors in sizes.items():
        for concurrency in CONCURRENCY:
            callers = {s: [caller(server.grpc_url, m, tensors) for _ in range(concurrency)] for s, m in SYSTEMS.items()}
            loads: dict[str, list[Load]] = {system: [] for system in SYSTEMS}
            for system in SYSTEMS:
                closed_loop(callers[system], 0.2)
            before = step_times(server.grpc_url)
            for _ in range(rounds):
                for system in SYSTEMS:
                    loads[system].append(closed_loop(callers[system], seconds))
            after = step_times(server.grpc_url)
            for system, listed in loads.items():
                about = {"system": system, "candidates": candidates, "concurrency": concurrency}
                results.append(about | joined(listed).summary(candidates))
            if concurrency == 1:
                steps += step_rows(candidates, before, after)
    return results, steps


def caller(url: str, model: str, tensors: dict[str, Any]) -> Callable[[], None]:
    """Return a function that sends one request and takes its answer, over a connection of its own."""
    client = grpc.InferenceServerClient(url)
    inputs = []
    for name, (array, datatype) in tensors.items():
        tensor = grpc.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    outputs = [grpc.InferRequestedOutput(name) for name in OUTPUTS]

    def call() -> None:
        client.infer(model, inputs, outputs=outputs).as_numpy("scores")

    return call


def step_times(url: str) -> dict[str, tuple[int, int, int]]:
    """Return each model's count of answers, and nanoseconds in the queue and at work."""
    client = grpc.InferenceServerClient(url)
    statistics = client.get_inference_statistics(as_json=True)["model_stats"]
    client.close()
    return {model["name"]: _times(model["inference_stats"]) for model in statistics}


def _times(stats: dict[str, Any]) -> tuple[int, int, int]:
    def ns(name: str) -> int:
        return int(stats.get(name, {}).get("ns", 0))

    work = ns("compute_input") + ns("compute_infer") + ns("compute_output")
    return int(stats.get("success", {}).get("count", 0)), ns("queue"), work


def step_rows(candidates: int, before: dict[str, Any], after: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """Return the mean milliseconds that each step took between two readings."""
    rows = []
    for name in dict.fromkeys(name for steps in STEPS.values() for name in steps):
        count, queue, work = (b - a for a, b in zip(before.get(name, (0, 0, 0)), after[name], strict=True))
        per_answer = 1e6 * max(count, 1)
        rows.append(
            {"step": name, "candidates": candidates, "queue_ms": queue / per_answer, "work_ms": work / per_answer}
        )
    return rows


if __name__ == "__main__":
    main()
