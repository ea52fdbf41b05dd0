"""How long do features take, compiled and not?

Twelve categorical columns, whose vocabularies grow from 1,000 keys to 1,000,000, and eight continuous ones that are
filled, logged and normalized. `plan` is the compiled plan, `workflow` the fitted NVTabular workflow that it was
compiled from, on a DataFrame; `limit` does no more than the hash, the read and the write of every cell. Peers give the
same features in the ways that people use instead. Requests ask for keys uniformly, one in thirty unknown or null, and
no two consecutive ones are alike. Each system is given the rows in its own form; what is measured begins there.

    python benchmarks/plan.py --quick --json plan.json --plot plan.png
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.harness import Result, benchmark_parser, median_seconds, panel_plot, report
from benchmarks.peers.dictionary_features import dictionary_system
from benchmarks.peers.features import Columns, Packed, System, Tables, outputs
from benchmarks.peers.limit import limit_system
from benchmarks.peers.numpy_features import numpy_system
from feature_eng.inputs import NULL_INT, NULL_STRING
from feature_eng.lowering import lower
from feature_eng.operators import FillMedian, Normalize
from feature_eng.packing import pack
from feature_eng.plan import Plan
from feature_eng.plan_files import load_plan, save_plan
from feature_eng.schema import Schema
from feature_eng.schema_file import parse_schema
from feature_eng.strings import encoded
from feature_eng.workflow import fit_workflow, serving_frame

KINDS = ("int", "mixed")
CATEGORICAL = tuple(f"c{index}" for index in range(12))
CONTINUOUS = tuple(f"x{index}" for index in range(8))
SMALLEST = 1_000
FEW_ROWS = 4_096  # up to which it makes sense to go through rows one by one
SYSTEMS = ("plan", "workflow", "limit", "numpy", "polars", "dictionary", "sklearn")
PARTS = 4  # of the log
REQUEST_ROWS, MOST_REQUESTS = 100_000, 2_000
UNKNOWN, MISSING = 0.02, 0.013

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Extent:
    """How much is measured: keys of the largest vocabulary, rows of requests, and time for each system and size."""

    largest: int
    sizes: tuple[int, ...]
    seconds: float
    rounds: int


FULL = Extent(largest=1_000_000, sizes=(1, 64, 512, FEW_ROWS, 1_000_000), seconds=4.0, rounds=4)
QUICK = Extent(largest=100_000, sizes=(1, 64, 512, FEW_ROWS), seconds=0.6, rounds=3)


def main() -> None:
    """Run the benchmark from the command line."""
    quick = "under 2 minutes: vocabularies to 100,000 keys, requests to 4,096 rows"
    arguments = benchmark_parser(__doc__, quick).parse_args()
    results = measure(QUICK if arguments.quick else FULL, Console(stderr=True).log)
    report(results, arguments.json)
    if arguments.plot:
        panels = {f"{kind} keys": lines_of(results, kind) for kind in KINDS}
        panel_plot(arguments.plot, panels, x="rows", y="median, ms")


def lines_of(results: Sequence[Result], kind: str) -> dict[str, tuple[list[float], list[float]]]:
    """Return each system's rows and milliseconds, without what was not measured."""
    lines = {}
    for system in SYSTEMS:
        points = [
            (r["rows"], r[f"{system}_ms"]) for r in results if r["keys"] == kind and r[f"{system}_ms"] is not None
        ]
        if points:
            lines[system] = ([rows for rows, _ in points], [ms for _, ms in points])
    return lines


def measure(extent: Extent, progress: Progress) -> list[Result]:
    """Measure every system at every size, with integers alone and with strings among them."""
    results = []
    for kind in KINDS:
        with tempfile.TemporaryDirectory(prefix="steelyard-plan-") as folder:
            results += measure_kind(kind, extent, Path(folder), progress)
    return results


def measure_kind(kind: str, extent: Extent, folder: Path, progress: Progress) -> list[Result]:
    """Measure every system at every size with keys of one kind.

    Raises:
        RuntimeError: plan and workflow give different features.
    """
    rng = np.random.default_rng(0)
    keys = vocabularies(kind, extent.largest, rng)
    schema = schema_of(keys)
    progress(f"{kind} keys: a log with {sum(map(len, keys.values())):,} keys")
    write_log(keys, folder / "log", rng)
    progress(f"{kind} keys: fitting")
    workflow = fit_workflow(schema, folder / "log")
    progress(f"{kind} keys: compiling")
    save_plan(lower(workflow, schema), folder / "plan")
    plan = load_plan(folder / "plan")
    progress(f"{kind} keys: peers")
    systems = {"plan": plan_system(plan), "workflow": workflow_system(workflow, schema)}
    tables = fitted_tables(workflow, schema, keys)
    systems |= {"limit": limit_system(tables, table_bytes(plan))} | peer_systems(tables)
    requests = request_columns(keys, max(*extent.sizes, REQUEST_ROWS), rng)
    check_equal(systems["plan"], systems["workflow"], plan, part_of(requests, 0, 10_000))
    results = []
    for rows in extent.sizes:
        progress(f"{kind} keys: rows a request: {rows:,}")
        rowwise = rows <= FEW_ROWS
        timed = {name: s for name, s in systems.items() if rowwise or name not in ("dictionary", "sklearn")}
        calls = {name: caller(system, requests, rows) for name, system in timed.items()}
        rounds = extent.rounds if rowwise else min(extent.rounds, 2)
        results.append(result_of(kind, rows, median_seconds(calls, extent.seconds, rounds)))
    return results


def result_of(kind: str, rows: int, seconds: Mapping[str, float]) -> Result:
    """Return one row of results; a system that was not measured has None."""
    ms: dict[str, float | None] = {f"{name}_ms": seconds[name] * 1e3 if name in seconds else None for name in SYSTEMS}
    return {
        "keys": kind,
        "rows": rows,
        "plan_ms": ms.pop("plan_ms"),
        "workflow_ms": ms.pop("workflow_ms"),
        "ratio": seconds["workflow"] / seconds["plan"],
        "limit_ms": ms.pop("limit_ms"),
        "plan_over_limit": seconds["plan"] / seconds["limit"],
        **ms,
    }


def vocabularies(kind: str, largest: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Return each categorical column's distinct keys (V,), V rising geometrically from `SMALLEST` to `largest`.

    Every fourth column has the integers from 1 up, the others integers of 63 bits; of `mixed` keys every second column
    has strings of 10 to 16 characters.

    Raises:
        ValueError: `kind` is unknown, or `largest` too small.
    """
    if kind not in KINDS:
        raise ValueError(f"keys must be one of {', '.join(KINDS)}; got {kind}")
    if largest < SMALLEST:
        raise ValueError(f"largest must be at least {SMALLEST}; got {largest}")
    sizes = np.geomspace(SMALLEST, largest, len(CATEGORICAL)).round().astype(int).tolist()
    keys: dict[str, NDArray[Any]] = {}
    for index, (name, size) in enumerate(zip(CATEGORICAL, sizes, strict=True)):
        if index % 4 == 0:
            keys[name] = np.arange(1, size + 1)
        else:
            sparse = np.unique(sparse_ints(size + 100, rng))
            values = as_text(sparse) if kind == "mixed" and index % 2 else sparse
            keys[name] = rng.permutation(np.unique(values))[:size]
    return keys


def sparse_ints(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return random positive integers (count,) of up to 63 bits."""
    return rng.integers(2**40, 2**63 - 1, count)


def as_text(ints: NDArray[np.int64]) -> NDArray[Any]:
    """Return strings (n,) of 10 to 16 characters, one of each integer."""
    return np.array([f"{value:016x}"[-10 - value % 7 :] for value in ints.tolist()], dtype=object)


def schema_of(keys: Mapping[str, NDArray[Any]]) -> Schema:
    """Return the schema of the columns."""
    columns: list[dict[str, Any]] = [
        {"name": name, "role": "item", "kind": "categorical", "dtype": "string" if values.dtype == object else "int64"}
        for name, values in keys.items()
    ]
    steps = ["fill_median", "log", "normalize"]
    columns += [{"name": name, "role": "item", "kind": "continuous", "transform": steps} for name in CONTINUOUS]
    goals = [{"name": "click", "kind": "binary", "label": "click"}]
    return parse_schema(json.dumps({"name": "features", "columns": columns, "objectives": goals}))


def write_log(keys: Mapping[str, NDArray[Any]], folder: Path, rng: np.random.Generator) -> None:
    """Write a log in which every key stands at least once."""
    rows = max(map(len, keys.values()))
    columns: dict[str, NDArray[Any]] = {n: rng.permutation(np.resize(values, rows)) for n, values in keys.items()}
    log = pa.table(columns | continuous_columns(rows, rng))
    folder.mkdir()
    for part in range(PARTS):
        start, stop = rows * part // PARTS, rows * (part + 1) // PARTS
        pq.write_table(log.slice(start, stop - start), folder / f"part-{part:05d}.parquet")


def continuous_columns(rows: int, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """Return positive numbers with a long tail (rows,), some of them missing."""
    columns = {}
    for index, name in enumerate(CONTINUOUS):
        values = rng.lognormal(index / 2, 1.0, rows).astype(np.float32)
        values[rng.random(rows) < MISSING] = np.nan
        columns[name] = values
    return columns


def request_columns(keys: Mapping[str, NDArray[Any]], rows: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Return rows (rows,) whose keys are nearly all known, the others unknown or null."""
    columns: dict[str, NDArray[Any]] = {}
    for name, known in keys.items():
        is_text = known.dtype == object
        values = rng.choice(known, rows)
        unknown = np.flatnonzero(rng.random(rows) < UNKNOWN)
        strangers = sparse_ints(len(unknown), rng)
        values[unknown] = as_text(strangers) if is_text else strangers
        values[rng.random(rows) < MISSING] = NULL_STRING if is_text else NULL_INT
        columns[name] = values
    return columns | continuous_columns(rows, rng)


def part_of(columns: Columns, number: int, rows: int) -> dict[str, NDArray[Any]]:
    """Return request number `number` of `rows` rows."""
    return {name: values[number * rows : (number + 1) * rows] for name, values in columns.items()}


def caller(system: System, columns: Columns, rows: int) -> Callable[[int], Callable[[], object]]:
    """Return what makes a system's call number i ready; a request is formed once and comes again when all have been."""
    requests = min(max(REQUEST_ROWS // rows, 1), MOST_REQUESTS)

    @cache
    def formed(number: int) -> Any:
        return system.form(part_of(columns, number, rows))

    def prepare(number: int) -> Callable[[], object]:
        request = formed(number % requests)
        return lambda: system.run(request)

    return prepare


def plan_system(plan: Plan) -> System:
    """Return the plan as a system; it takes strings as their bytes, and writes into the same output again."""
    text = {given.name for given in plan.inputs if given.dtype == "string"}
    output = outputs(plan.layout.categorical_width, len(plan.layout.continuous))

    def form(columns: Columns) -> tuple[dict[str, Any], int, Packed]:
        rows = len(columns[CONTINUOUS[0]])
        given = {name: encoded(values) if name in text else values for name, values in columns.items()}
        return given, rows, output(rows)

    return System(form, lambda request: plan.run(*request))


def workflow_system(workflow: Any, schema: Schema) -> System:
    """Return the workflow as a system, whose answer is a DataFrame."""
    names = [given.name for given in schema.inputs]

    def form(columns: Columns) -> Any:
        return pd.DataFrame({name: columns[name] for name in names})

    return System(form, lambda frame: workflow.transform(serving_frame(schema, frame)))


def peer_systems(tables: Tables) -> dict[str, System]:
    """Return the other systems, of those whose package is installed."""
    systems = {"numpy": numpy_system(tables), "dictionary": dictionary_system(tables)}
    if find_spec("polars"):
        from benchmarks.peers.polars_features import polars_system

        systems["polars"] = polars_system(tables)
    if find_spec("sklearn"):
        from benchmarks.peers.sklearn_features import sklearn_system

        systems["sklearn"] = sklearn_system(tables)
    return systems


def fitted_tables(workflow: Any, schema: Schema, keys: Mapping[str, NDArray[Any]]) -> Tables:
    """Return what the workflow knows: the ids that it gives to all keys, and the numbers that it found."""
    nulls = {name: NULL_STRING if values.dtype == object else NULL_INT for name, values in keys.items()}
    listed = {name: np.sort(np.append(values, nulls[name])) for name, values in keys.items()}
    rows = max(map(len, listed.values()))
    frame = pd.DataFrame({name: np.resize(values, rows) for name, values in listed.items()})
    given = workflow.transform(serving_frame(schema, frame.assign(**dict.fromkeys(CONTINUOUS, np.float32(1)))))
    medians = _numbers_of(workflow, FillMedian, "medians")
    means, deviations = (_numbers_of(workflow, Normalize, numbers) for numbers in ("means", "stds"))
    ids = {name: given[name].to_numpy()[: len(values)].astype(np.int32) for name, values in listed.items()}
    vocabularies = {name: (values, ids[name]) for name, values in listed.items()}
    return Tables(vocabularies, CONTINUOUS, medians, means, deviations)


def _numbers_of(workflow: Any, operator: type, attribute: str) -> NDArray[np.float32]:
    """Return what operators of one type found (D,), in the order of the continuous columns."""
    nodes = workflow.graph.get_nodes_by_op_type([workflow.output_node], operator)
    found = {name: number for node in nodes for name, number in getattr(node.op, attribute).items()}
    return np.array([found[name] for name in CONTINUOUS], dtype=np.float32)


def table_bytes(plan: Plan) -> dict[str, int]:
    """Return the size of the arrays in which the plan looks up each categorical column."""
    sizes = dict.fromkeys(CATEGORICAL, 0)
    for step in plan.instructions:
        name = step.output.split(".")[0]
        if name in sizes:
            sizes[name] += sum(plan.arrays[key].nbytes for key in step.arrays.values())
    return sizes


def check_equal(ours: System, theirs: System, plan: Plan, columns: Columns) -> None:
    """Hold the plan's features against the workflow's.

    Raises:
        RuntimeError: an id is another, or a number differs by more than 1e-6.
    """
    ids, numbers = ours.run(ours.form(columns))
    wanted_ids, wanted_numbers = pack(theirs.run(theirs.form(columns)), plan.layout)
    wrong = int((ids != wanted_ids).sum() + (~np.isclose(numbers, wanted_numbers, 1e-6, 1e-6)).sum())
    if wrong:
        raise RuntimeError(f"plan and workflow must give equal features; got {wrong:,} cells that differ")


if __name__ == "__main__":
    main()
