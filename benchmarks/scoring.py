"""How fast does a batch job score, how far is that from the bare ranker, and where does the time go?

A job of `steelyard score` runs over a simulated log; then, on the same rows and one piece at a time, reading, plan,
ranker, blend and writing are timed apart. The limit is the ranker alone, on features that lie in memory.

    python benchmarks/scoring.py --quick --json scoring.json --plot scoring.png
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.harness import bar_plot, benchmark_parser, report
from benchmarks.shop import bundle_of_shop
from feature_eng.arrow_columns import plan_columns
from feature_eng.log_encoding import key_columns, text_inputs
from feature_eng.log_passes import encode_piece
from feature_eng.logs import open_log
from feature_eng.simulator import simulate
from models.blending import blend
from models.prediction import load_predictor
from models.scoring import scored_table, write_part
from steelyard.bundle import Bundle
from steelyard.scoring_jobs import score_with_bundle

STAGES = ("reading", "plan", "ranker", "blend", "writing")


def main() -> None:
    """Run the benchmark from the command line."""
    parser = benchmark_parser(__doc__, quick="500,000 rows instead of 4,000,000")
    parser.add_argument("--rows", type=int, help="rows to score")
    parser.add_argument("--ranker", type=json.loads, default={}, help='its settings in JSON, such as {"experts": 4}')
    arguments = parser.parse_args()
    rows = arguments.rows or (500_000 if arguments.quick else 4_000_000)
    with tempfile.TemporaryDirectory(prefix="steelyard-scoring-") as folder:
        known = 50_000 if arguments.quick else 200_000
        bundle, _ = bundle_of_shop(Path(folder) / "shop", known, **arguments.ranker)
        log = Path(folder) / "log"
        simulate(log, rows=rows, seed=1)
        results = measure(bundle, log, Path(folder))
    report(results, arguments.json)
    if arguments.plot:
        stages = {r["part"]: r["share"] for r in results if r["part"] in STAGES}
        bar_plot(arguments.plot, stages, title="Where a scoring job's time goes", y="share of the time")


def measure(bundle: Bundle, log: Path, folder: Path) -> list[dict[str, Any]]:
    """Return rows per second of the job, the stages and the bare ranker, with each one's share of the stages' time."""
    score_with_bundle(bundle, str(log), folder / "warm")
    rows, seconds = score_with_bundle(bundle, str(log), folder / "scored")
    apart = stage_seconds(bundle, log, folder / "apart")
    whole = sum(apart.values())
    rates = {"job": seconds, **apart}
    limit = rows / apart["ranker"]
    return [
        {
            "part": part,
            "rows": rows,
            "rows_per_s": rows / spent,
            "share": spent / whole if part in STAGES else None,
            "of_bare_ranker": rows / spent / limit if part == "job" else None,
        }
        for part, spent in rates.items()
    ]


def stage_seconds(bundle: Bundle, log: Path, folder: Path) -> dict[str, float]:
    """Return the seconds that each stage takes over a log, one piece at a time."""
    schema, predictor = bundle.schema, load_predictor(bundle.plan, bundle.ranker)
    folder.mkdir()
    opened = open_log(str(log), schema, labels=False)
    spent: dict[str, float] = defaultdict(float)
    for piece in opened.pieces:
        clock = [time.perf_counter()]
        columns = encode_piece(piece, opened.forms, text_inputs(schema))[0].columns
        clock.append(time.perf_counter())
        packed = predictor.plan.run(plan_columns(columns, schema.inputs), piece.rows)
        clock.append(time.perf_counter())
        predictions = predictor.rank(*packed)
        clock.append(time.perf_counter())
        scores = blend(predictions, np.asarray(schema.default_weights), schema.blend.kind)
        clock.append(time.perf_counter())
        table = scored_table(columns, schema, predictions, scores)
        write_part(table, folder / f"part-{piece.index:05d}.parquet", key_columns(schema))
        clock.append(time.perf_counter())
        for stage, seconds in zip(STAGES, np.diff(clock), strict=True):
            spent[stage] += float(seconds)
    return spent


if __name__ == "__main__":
    main()
