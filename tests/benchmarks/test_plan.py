import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.harness import report
from benchmarks.peers.features import Packed, System, Tables
from benchmarks.peers.limit import ROWS_A_THREAD, limit_system
from benchmarks.plan import (
    CATEGORICAL,
    CONTINUOUS,
    KINDS,
    SYSTEMS,
    Extent,
    caller,
    check_equal,
    fitted_tables,
    lines_of,
    measure,
    part_of,
    peer_systems,
    plan_system,
    request_columns,
    schema_of,
    table_bytes,
    vocabularies,
    workflow_system,
    write_log,
)
from feature_eng.lowering import lower
from feature_eng.plan import Plan
from feature_eng.plan_files import load_plan, save_plan
from feature_eng.workflow import fit_workflow

PROJECT = Path(__file__).resolve().parents[2]
FIELDS = ["keys", "rows", "plan_ms", "workflow_ms", "ratio", "limit_ms", "plan_over_limit"]
FIELDS += ["numpy_ms", "polars_ms", "dictionary_ms", "sklearn_ms"]
LARGEST = 1_200


@pytest.fixture(scope="module", params=KINDS)
def fitted(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, System, Tables, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("plan")
    rng = np.random.default_rng(1)
    keys = vocabularies(request.param, LARGEST, rng)
    schema = schema_of(keys)
    write_log(keys, folder / "log", rng)
    workflow = fit_workflow(schema, folder / "log")
    save_plan(lower(workflow, schema), folder / "plan")
    tables = fitted_tables(workflow, schema, keys)
    columns = request_columns(keys, 3 * ROWS_A_THREAD, rng)
    return load_plan(folder / "plan"), workflow_system(workflow, schema), tables, columns


def answer(system: System, columns: dict[str, Any]) -> Packed:
    categorical, continuous = system.run(system.form(columns))
    return categorical.copy(), continuous.copy()


def test_vocabularies_grow_geometrically_and_hold_every_key_once() -> None:
    keys = vocabularies("mixed", 100_000, np.random.default_rng(0))
    sizes = [len(np.unique(values)) for values in keys.values()]
    assert (sizes[0], sizes[-1]) == (1_000, 100_000)
    assert np.allclose(np.diff(np.log(sizes)), np.log(100) / 11, atol=1e-3)
    assert [values.dtype == object for values in keys.values()] == [False, True] * 6
    assert {len(text) for text in keys["c11"]} == set(range(10, 17))


def test_the_log_lists_every_key(fitted: Any) -> None:
    plan, _, tables, _ = fitted
    assert [slot.cardinality - 4 for slot in plan.layout.categorical] == [
        len(k) - 1 for k, _ in tables.vocabularies.values()
    ]
    for _, ids in tables.vocabularies.values():
        assert sorted(ids) == [1, *range(4, len(ids) + 3)]


def test_requests_are_nearly_all_known_with_a_few_unknown_and_null(fitted: Any) -> None:
    plan, _, _, columns = fitted
    categorical, continuous = plan_system(plan).run(plan_system(plan).form(columns))
    assert 0.005 < (categorical == 1).mean() < 0.03
    assert 0.01 < (categorical == 2).mean() < 0.03
    assert 0.94 < (categorical > 3).mean() < 0.98
    assert 0.005 < np.isnan(np.stack([columns[name] for name in CONTINUOUS])).mean() < 0.03
    assert np.isfinite(continuous).all()


@pytest.mark.parametrize("name", ["numpy", "polars", "dictionary", "sklearn"])
def test_every_peer_gives_the_features_of_the_plan(name: str, fitted: Any) -> None:
    plan, _, tables, columns = fitted
    systems = peer_systems(tables)
    if name not in systems:
        pytest.skip(f"needs {name}")
    for rows in (1, 700):
        part = part_of(columns, 1, rows)
        ours, theirs = answer(plan_system(plan), part), answer(systems[name], part)
        assert [array.dtype for array in theirs] == [np.int32, np.float32]
        np.testing.assert_array_equal(theirs[0], ours[0])
        np.testing.assert_allclose(theirs[1], ours[1], rtol=1e-5, atol=1e-5)


def test_the_limit_computes_the_numbers_and_reads_from_all_of_the_tables(fitted: Any) -> None:
    plan, _, tables, columns = fitted
    sizes = table_bytes(plan)
    assert all(sizes[name] >= 4 * LARGEST for name in CATEGORICAL[-1:])
    system = limit_system(tables, sizes)
    categorical, continuous = answer(system, columns)
    np.testing.assert_allclose(continuous, answer(plan_system(plan), columns)[1], rtol=1e-5, atol=1e-5)
    for column, name in enumerate(CATEGORICAL):
        distinct = len(np.unique(columns[name]))
        cells = sizes[name] // 4
        assert len(np.unique(categorical[:, column])) > 0.5 * cells * (1 - np.exp(-distinct / cells))


def test_threads_change_nothing_of_the_limit(fitted: Any) -> None:
    plan, _, tables, columns = fitted
    one, three = (answer(limit_system(tables, table_bytes(plan), threads), columns) for threads in (1, 3))
    np.testing.assert_array_equal(one[0], three[0])
    np.testing.assert_array_equal(one[1], three[1])


def test_features_that_differ_stop_the_benchmark(fitted: Any) -> None:
    plan, workflow, _, columns = fitted
    part = part_of(columns, 0, 50)
    check_equal(plan_system(plan), workflow, plan, part)

    def spoiled(request: Any) -> Packed:
        categorical, continuous = plan_system(plan).run(request)
        categorical[0, 0] += 1
        continuous[1, 1] += np.float32(0.001)
        return categorical, continuous

    with pytest.raises(RuntimeError, match="plan and workflow must give equal features; got 2 cells that differ"):
        check_equal(System(plan_system(plan).form, spoiled), workflow, plan, part)


def test_vocabularies_are_of_known_kinds_and_sizes() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="keys must be one of int, mixed; got text"):
        vocabularies("text", 1_000, rng)
    with pytest.raises(ValueError, match="largest must be at least 1000; got 10"):
        vocabularies("int", 10, rng)


def test_requests_follow_each_other_are_formed_once_and_come_again() -> None:
    seen: list[int] = []
    formed: list[int] = []

    def form(columns: Any) -> int:
        formed.append(int(columns["a"][0]))
        return formed[-1]

    prepare = caller(System(form, seen.append), {"a": np.arange(100_000)}, 40_000)
    for number in range(5):
        prepare(number)()
    assert seen == [0, 40_000, 0, 40_000, 0]
    assert formed == [0, 40_000]


def test_results_have_one_form_and_name_what_was_not_measured(tmp_path: Path) -> None:
    told: list[str] = []
    results = measure(Extent(LARGEST, sizes=(1, 5_000), seconds=0.001, rounds=1), told.append)
    report(results, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["results"] == results
    assert all(list(result) == FIELDS for result in results)
    assert [(r["keys"], r["rows"]) for r in results] == [("int", 1), ("int", 5_000), ("mixed", 1), ("mixed", 5_000)]
    for result in results:
        assert result["ratio"] == pytest.approx(result["workflow_ms"] / result["plan_ms"])
        assert result["plan_over_limit"] == pytest.approx(result["plan_ms"] / result["limit_ms"])
        assert (result["dictionary_ms"] is None) == (result["sklearn_ms"] is None) == (result["rows"] == 5_000)
    assert lines_of(results, "int")["dictionary"][0] == [1]
    assert lines_of(results, "mixed")["plan"][0] == [1, 5_000]
    assert set(lines_of(results, "int")) <= set(SYSTEMS)
    assert told[0].startswith("int keys: a log with")


@pytest.mark.parametrize("argument", ["--rows", "--quickly"])
def test_an_unknown_argument_is_refused(argument: str) -> None:
    command = [sys.executable, str(PROJECT / "benchmarks" / "plan.py"), argument]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"unrecognized arguments: {argument}" in done.stderr
