"""Do losses that undo a log's biases predict better where the biases are strong?

Selection: clicks of a confounded shop convert otherwise than its other impressions would. ESMM, ESCM² with inverse
propensities and ESCM² doubly robust predict p(purchase | click) of random impressions, clicked or not, whose truth is
known; the figure is the divergence from it. A loss of clicked rows alone, without weights, stands beside them.
Position: what an earlier ranker liked was shown first and clicked more. A ranker with a position tower and one
without order random impressions without a position bias; the figure is the AUC of clicks. The earlier ranker follows
the items' appeal by one half, or almost wholly, when a position tells little but the appeal and the two can hardly be
told apart. Each system trains with several seeds, and intervals of the mean over them draw requests.

    python benchmarks/objectives.py --quick --json objectives.json
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from benchmarks.harness import bar_plot, benchmark_parser, report
from feature_eng.arrow_columns import plan_columns
from feature_eng.layout import Layout
from feature_eng.log_passes import encode_piece
from feature_eng.logs import open_log, prepare_log
from feature_eng.lowering import lower
from feature_eng.packing import as_served, out_of_fold, write_features
from feature_eng.schema import Schema
from feature_eng.shop import DAY_MS, Dials, make_shop
from feature_eng.simulator import shop_schema, simulate, simulate_part
from feature_eng.workflow import fit_workflow
from models.bootstrap import draw_groups, interval
from models.metrics import auc_draws, ratio
from models.training import train

REPLICATES = 200
# what each question's systems tell the losses, and the first of them is what the others are measured against
SELECTION: dict[str, dict[str, Any]] = {
    "ESMM": {},
    "ESCM² IPW": {"estimators": ["esmm", "ipw", "esmm"]},
    "ESCM² DR": {"estimators": ["esmm", "dr", "esmm"]},
    "clicks alone": {
        "estimators": ["esmm", "ipw", "esmm"],
        "propensity_floors": [1.0, 1.0, 1.0],
        "entire_space_weights": [0.0, 0.0, 0.0],
    },
}
POSITION: dict[str, dict[str, Any]] = {"no tower": {}, "position tower": {}}


@dataclass(frozen=True)
class Packed:
    """A shop ready to train on: its folder of features, their layout, and random impressions to judge by."""

    features: Path
    schema: Schema
    layout: Layout
    test: pa.Table
    arrays: tuple[NDArray[np.int32], NDArray[np.float32]]


def main() -> None:
    """Run the benchmark from the command line."""
    parser = benchmark_parser(__doc__, quick="100,000 rows and 2 seeds instead of 400,000 and 4")
    parser.add_argument("--rows", type=int, help="rows to train on")
    parser.add_argument("--seeds", type=int, help="trainings of each system")
    arguments = parser.parse_args()
    rows = arguments.rows or (100_000 if arguments.quick else 400_000)
    seeds = arguments.seeds or (2 if arguments.quick else 4)
    results = measure(rows, seeds)
    report(results, arguments.json)
    if arguments.plot:
        bars = {f"{r['question']}: {r['system']}": r["better_by"] for r in results if r["better_by"] is not None}
        bar_plot(arguments.plot, bars, title="What undoing a bias gains", y="better by")


def measure(rows: int, seeds: int) -> list[dict[str, Any]]:
    """Return each system's figure, and how much better it is than the first, with 95 % intervals."""
    with tempfile.TemporaryDirectory(prefix="steelyard-objectives-") as name:
        folder = Path(name)
        confounded = pack(folder / "selection", rows, {"confounding": 1.5, "selection": 0.9})
        selection = compare(confounded, SELECTION, seeds, conversion_divergence)
        results = [{"question": "selection", "figure": "divergence, nats / 1000", **result} for result in selection]
        for question, followed in (("position", 0.5), ("position, sorted", 0.9)):
            dials = {"position_bias": 1.0, "selection": followed}
            biased = pack(folder / question, rows, dials, position="position")
            position = compare(biased, POSITION, seeds, click_auc)
            results += [{"question": question, "figure": "AUC of clicks, %", **result} for result in position]
    return results


def pack(folder: Path, rows: int, dials: Mapping[str, Any], position: str | None = None) -> Packed:
    """Simulate a biased log and random impressions of the same shop, fit the workflow and write features."""
    schema = shop_schema()
    schema = schema.model_copy(update={"position": position})
    log = simulate(folder / "log", rows=rows, progress=False, **dials)
    prepared = prepare_log(str(log), schema, folder / "clean", progress=False)
    workflow = fit_workflow(prepared.schema, prepared.train)
    plan = lower(workflow, prepared.schema)
    labels = [objective.label for objective in schema.objectives]
    for side, compute in (("train", out_of_fold(workflow, plan.layout)), ("validation", as_served(plan, schema))):
        write_features(compute, folder / "clean" / side, labels, plan.layout, folder / side, position=position)
    test = random_impressions(rows, dials)
    pq.write_table(test, folder / "test.parquet")
    opened = open_log(str(folder / "test.parquet"), prepared.schema, labels=False)
    columns = [encode_piece(piece, opened.forms)[0].columns for piece in opened.pieces]
    table = pa.concat_tables(pa.table(c) for c in columns)
    arrays = plan.run(plan_columns(table, prepared.schema.inputs), table.num_rows)
    return Packed(folder, prepared.schema, plan.layout, test, arrays)


def random_impressions(rows: int, dials: Mapping[str, Any]) -> pa.Table:
    """Return later impressions of the same shop, chosen and ordered by chance and without a position bias."""
    candidates, days = 20, 28.0
    requests = -(-rows // candidates)
    made: dict[str, Any] = {
        "seed": 0,
        "conflict": "medium",
        "drift": 0.1,
        "cold_rate": 0.1,
        "users": max(rows // 100, 10),
        "items": min(max(rows // 500, 200), 50_000),
        "candidates": candidates,
        "request_ms": max(int(days * DAY_MS) // requests, 1),
        "days": days,
    }
    shop = make_shop(replace(Dials(**{"position_bias": 0.0, **made, **dials}), position_bias=0.0, selection=0.0))
    return simulate_part(shop, requests, min(rows // 2, 200_000))


Figure = Callable[[Packed, NDArray[np.float32], Any], NDArray[np.float64]]


def compare(
    packed: Packed, systems: Mapping[str, Mapping[str, Any]], seeds: int, figure: Figure
) -> list[dict[str, Any]]:
    """Train each system with each seed, and return the mean figures and what they gain on the first system's."""
    requests = packed.test["request_id"].to_numpy()
    draws = draw_groups(np.unique(requests, return_inverse=True)[1], REPLICATES, seed=0)
    found: dict[str, NDArray[np.float64]] = {}
    for system, told in systems.items():
        drawn = [figure(packed, predict(packed, system, told, seed), draws) for seed in range(seeds)]
        found[system] = np.mean(drawn, axis=0)
    first = next(iter(found.values()))
    sign = -1.0 if figure is conversion_divergence else 1.0
    results = []
    for system, drawn in found.items():
        gains = None if drawn is first else sign * (drawn - first)
        low, high = interval(drawn[1:])
        results.append(
            {
                "system": system,
                "value": float(drawn[0]),
                "low": low,
                "high": high,
                "better_by": None if gains is None else float(gains[0]),
                "better_low": None if gains is None else interval(gains[1:])[0],
                "better_high": None if gains is None else interval(gains[1:])[1],
            }
        )
    return results


def predict(packed: Packed, system: str, told: Mapping[str, Any], seed: int) -> NDArray[np.float32]:
    """Train one ranker and return its predictions (B, K) of the random impressions."""
    features = packed.features / "train"
    if system == "no tower" and (features / "positions.npy").exists():
        bare = packed.features / "without"
        shutil.copytree(features, bare, ignore=shutil.ignore_patterns("positions.npy"), dirs_exist_ok=True)
        features = bare
    trained = train(
        features,
        packed.features / "validation",
        layout=packed.layout,
        objective_kinds=[objective.kind for objective in packed.schema.objectives],
        parents=packed.schema.parents,
        objectives=told,
        out=packed.features / "training",
        seed=seed,
        loggers=(),
        progress=False,
    )
    with torch.inference_mode():
        predictions: NDArray[np.float32] = trained.ranker(*(torch.from_numpy(array) for array in packed.arrays)).numpy()
    return predictions


def conversion_divergence(packed: Packed, predictions: NDArray[np.float32], draws: Any) -> NDArray[np.float64]:
    """Return the mean divergence of predicted p(purchase | click) from the truth in each draw, nats / 1000."""
    truth = [packed.test[f"true_{name}"].to_numpy().astype(np.float64) for name in ("click", "purchase")]
    q = np.clip(truth[1] / truth[0], 1e-7, 1 - 1e-7)
    predicted = np.clip(predictions[:, 1].astype(np.float64) / predictions[:, 0], 1e-7, 1 - 1e-7)
    divergence = q * np.log(q / predicted) + (1 - q) * np.log((1 - q) / (1 - predicted))
    return 1e3 * ratio(draws.totals(divergence), draws.totals(np.ones(len(q))))


def click_auc(packed: Packed, predictions: NDArray[np.float32], draws: Any) -> NDArray[np.float64]:
    """Return the AUC of clicks in each draw, in per cent."""
    return 100 * auc_draws(packed.test["click"].to_numpy(), predictions[:, 0], draws)


if __name__ == "__main__":
    main()
