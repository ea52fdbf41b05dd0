import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_eng.digests import file_sha256
from feature_eng.plan_checks import HIGHEST
from feature_eng.plan_files import load_plan, save_plan
from feature_eng.program import OPERATIONS, PlanError
from tests.feature_eng.every_operation import every_operation_plan
from tests.feature_eng.spoiling import sign

REPOSITORY = Path(__file__).parents[2]
SPOILINGS = 1_000


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("spoiled")
    plan = every_operation_plan()
    save_plan(plan, folder / "plan")
    reversed_arrays = {name: np.ascontiguousarray(array[::-1]) for name, array in plan.arrays.items()}
    others = reversed_arrays | {name: array for name, array in plan.arrays.items() if name.endswith("edges")}
    save_plan(dataclasses.replace(plan, fingerprint="def", arrays=others), folder / "other")
    command = [sys.executable, "-m", "tests.feature_eng.spoiling", folder / "plan", folder / "other", "0", SPOILINGS]
    ran = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=REPOSITORY, timeout=200)
    assert ran.returncode == 0, ran.stderr[-2000:] + ran.stdout[-500:]
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_the_plan_that_is_spoiled_has_every_operation() -> None:
    plan = every_operation_plan()
    assert {step.op for step in plan.instructions} == set(OPERATIONS)
    assert {name for name, operation in OPERATIONS.items() if operation.writes == "id"} == set(HIGHEST)
    assert {given.dtype for given in plan.inputs} == {"int64", "string", "float32", "float64"}


def test_no_spoiled_plan_takes_the_process_with_it(spoiled: list[dict[str, Any]]) -> None:
    assert len(spoiled) == SPOILINGS
    assert [line for line in spoiled if line["outcome"] == "astray"] == []


def test_a_change_that_was_not_signed_is_always_refused(spoiled: list[dict[str, Any]]) -> None:
    unsigned = [line for line in spoiled if line["way"] in ("on_a_file", "of_another_plan")]
    assert len(unsigned) > 250
    assert [line for line in unsigned if line["outcome"] != "refused"] == []


def test_every_refusal_says_what_must_be_and_what_was_found(spoiled: list[dict[str, Any]]) -> None:
    refused = [line["message"] for line in spoiled if line["outcome"] == "refused"]
    assert len(refused) > 700
    assert [message for message in refused if " must " not in message or "; got " not in message] == []
    assert [message for message in refused if len(message) > 600] == []


def test_a_change_that_was_signed_and_harms_nobody_runs(spoiled: list[dict[str, Any]]) -> None:
    assert sum(line["outcome"] == "ran" for line in spoiled) > 50


Raw = dict[str, Any]


def step(raw: Raw, output: str) -> Raw:
    return next(each for each in raw["instructions"] if each["output"] == output)


def slot(raw: Raw, name: str) -> Raw:
    return next(each for each in raw["layout"]["categorical"] if each["name"] == name)


SIGNED: dict[str, tuple[Callable[[Raw], Any], str]] = {
    "a register packed in two widths": (
        lambda raw: slot(raw, "history_again").update(width=5),
        "plan must pack history.ids in one way; got history_again of another kind or width",
    ),
    "a register packed as ids and as numbers": (
        lambda raw: raw["continuous"].__setitem__(6, "user.id"),
        "plan must pack user.id in one way; got user of another kind or width",
    ),
    "no width": (lambda raw: slot(raw, "title").update(width=0), "width of title must be from 1 to 65536; got 0"),
    "a width that fills the memory": (
        lambda raw: slot(raw, "title").update(width=2**40),
        "width of title must be from 1 to 65536; got 1099511627776",
    ),
    "widths that do so together": (
        lambda raw: [slot(raw, name).update(width=60_000) for name in ("title", "tags")],
        "layout must have at most 65536 categorical columns; got 120024",
    ),
    "an embedding of nothing": (
        lambda raw: slot(raw, "item").update(embedding=0),
        "embedding of item must be from 1 to 2147483647; got 0",
    ),
    "a column twice": (
        lambda raw: slot(raw, "item").update(name="user"),
        "layout must have columns of different names; got user, user",
    ),
    "a column without a name": (lambda raw: slot(raw, "item").update(name=""), "must have columns of different names"),
    "more buckets than ids": (
        lambda raw: step(raw, "pair.id")["numbers"].update(buckets=51),
        "ids of pair.id must be below the cardinality 51; got 51",
    ),
    "more words than ids": (
        lambda raw: step(raw, "title.ids")["numbers"].update(buckets=41),
        "ids of title.ids must be below the cardinality 41; got 41",
    ),
    "more edges than ids": (
        lambda raw: step(raw, "price.bin")["numbers"].update(first=2),
        "ids of price.bin must be below the cardinality 5; got 5",
    ),
    "more hours than ids": (
        lambda raw: slot(raw, "hour").update(cardinality=25),
        "ids of now.hour must be below the cardinality 25; got 25",
    ),
    "more days than ids": (
        lambda raw: slot(raw, "weekday").update(cardinality=8),
        "ids of now.weekday must be below the cardinality 8; got 8",
    ),
    "no id for what is unseen": (
        lambda raw: slot(raw, "user").update(cardinality=2),
        "ids of user.id must be below the cardinality 2; got 2",
    ),
    "a null's id beyond": (
        lambda raw: step(raw, "brand.id")["numbers"].update(null=64),
        "ids of brand.id must be below the cardinality 64; got 64",
    ),
    "a list's ids beyond": (
        lambda raw: slot(raw, "tags").update(cardinality=30),
        "arrays/words_table.npy must hold ids from 0 to 29; got 33",
    ),
    "a division by zero": (
        lambda raw: step(raw, "price.number")["steps"][4].__setitem__(2, 0),
        "normalize of price.number must divide by another number than 0; got 0",
    ),
    "a division by what float32 has as zero": (
        lambda raw: step(raw, "price.number")["steps"][4].__setitem__(2, 1e-50),
        "normalize of price.number must divide by another number than 0; got 1e-50",
    ),
    "a step beyond float32": (
        lambda raw: step(raw, "price.number")["steps"][1].__setitem__(1, 1e39),
        "fill of price.number must have float32 numbers; got 1e.39",
    ),
    "a default beyond float32": (
        lambda raw: step(raw, "pair.rate")["numbers"].update(default=-1e39),
        "default of pair.rate must be a float32 number; got -1e.39",
    ),
    "a number that no float holds": (
        lambda raw: step(raw, "pair.rate")["numbers"].update(default=10**400),
        "instructions.6..numbers.default must be a number of at most 64 bits; got 1000",
    ),
    "steps of what has none": (
        lambda raw: step(raw, "pair.id").update(steps=[["finite"]]),
        "instruction pair.id must have no steps, since it is buckets; got 1",
    ),
    "an empty step": (
        lambda raw: step(raw, "price.number")["steps"].append([]),
        "instructions.16..steps must have a name first; got ..$",
    ),
    "a step without a name": (
        lambda raw: step(raw, "price.number")["steps"].append([1]),
        "instructions.16..steps must have a name first; got .1.$",
    ),
    "a setting that an operation does not have": (
        lambda raw: step(raw, "user.id")["arrays"].update(x="words_table"),
        "settings of user.id must be table; got x too",
    ),
    "a slice so far that places wrap around": (
        lambda raw: step(raw, "tags.slice")["numbers"].update(start=2**63 - 1),
        "start of tags.slice must be from -2147483648 to 2147483648; got 9223372036854775807",
    ),
    "a slice that far from the end": (
        lambda raw: step(raw, "tags.slice")["numbers"].update(end=1 - 2**63),
        "end of tags.slice must be from -2147483648 to 9223372036854775807; got -9223372036854775807",
    ),
    "a key of a list's ids": (
        lambda raw: step(raw, "item.id.key").update(inputs=["history.ids"]),
        "instruction item.id.key must read ids of one column; got history.ids",
    ),
    "a role that no input has": (
        lambda raw: raw["inputs"][0].update(role="owner"),
        "input 'user' must have a name and a role of user, item, context; got owner",
    ),
    "an input without a name": (
        lambda raw: raw["inputs"].append({"name": "", "role": "item", "dtype": "int64"}),
        "input '' must have a name and a role",
    ),
    "a field that is unknown": (
        lambda raw: step(raw, "user.id").update(tables={}),
        r"instructions.3. must have the fields op, inputs\?, .*; got op, inputs, output, arrays, tables",
    ),
    "text for a number": (
        lambda raw: slot(raw, "user").update(cardinality="34"),
        "layout.categorical.0..cardinality must be an integer; got 34",
    ),
    "true for a number": (
        lambda raw: step(raw, "pair.id")["numbers"].update(buckets=True),
        "numbers.buckets must be a number or null; got true",
    ),
    "a name that is a number": (
        lambda raw: raw["inputs"][0].update(name=5),
        "inputs.0..name must be a string; got 5",
    ),
    "a list for an object": (lambda raw: raw.update(layout=[]), r"layout must be an object; got \[\]"),
    "no number": (
        lambda raw: step(raw, "one")["numbers"].update(value=float("nan")),
        "plan.json must be JSON; got NaN, which JSON does not have",
    ),
}


@pytest.mark.parametrize("case", SIGNED)
def test_a_change_that_would_do_harm_is_refused_with_its_reason(tmp_path: Path, case: str) -> None:
    change, message = SIGNED[case]
    save_plan(every_operation_plan(), tmp_path / "plan")
    raw = json.loads((tmp_path / "plan" / "plan.json").read_text())
    change(raw)
    sign(tmp_path / "plan", json.dumps(raw))
    with pytest.raises(PlanError, match=message):
        load_plan(tmp_path / "plan")


def replaced(folder: Path, name: str, array: np.ndarray, **about: Any) -> None:
    """Write an array in another's place, described and signed as it is unless told otherwise."""
    path = folder / "arrays" / f"{name}.npy"
    np.save(path, array, allow_pickle=True)
    raw = json.loads((folder / "plan.json").read_text())
    described = {"dtype": array.dtype.str, "shape": list(array.shape), "sha256": file_sha256(path)}
    raw["arrays"][name] = described | about
    sign(folder, json.dumps(raw))


class Opened:
    """What makes a file, once its pickle is read."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("unpickled"),)


@pytest.mark.parametrize("about", [{}, {"dtype": "<f8"}])
def test_an_array_of_objects_is_refused_and_never_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, about: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_plan(every_operation_plan(), tmp_path / "plan")
    replaced(tmp_path / "plan", "price_edges", np.array([Opened()] * 3, dtype=object), **about)
    with pytest.raises(PlanError, match=r"price_edges.* must be .*; got .*O"):
        load_plan(tmp_path / "plan")
    assert not Path("unpickled").exists()


def test_a_table_in_fortran_order_is_refused(tmp_path: Path) -> None:
    save_plan(every_operation_plan(), tmp_path / "plan")
    replaced(tmp_path / "plan", "items_table", np.asfortranarray(every_operation_plan().arrays["items_table"]))
    with pytest.raises(PlanError, match=r"arrays/items_table.npy must be <u8 .* in C order .*; got .*True"):
        load_plan(tmp_path / "plan")


def test_edges_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    save_plan(every_operation_plan(), tmp_path / "plan")
    replaced(tmp_path / "plan", "price_edges", np.array([np.nan]))
    with pytest.raises(PlanError, match="price_edges must hold numbers; got nan"):
        load_plan(tmp_path / "plan")


@pytest.mark.parametrize("reach", [256, 2**31, 2**32 - 1])
def test_a_lookup_that_would_go_on_for_long_is_refused(tmp_path: Path, reach: int) -> None:
    save_plan(every_operation_plan(), tmp_path / "plan")
    table = every_operation_plan().arrays["pairs_table"]
    table.view(np.uint32)[-1, 15] = reach
    replaced(tmp_path / "plan", "pairs_table", table)
    with pytest.raises(PlanError, match=f"arrays/pairs_table.npy must reach 255 lines at most; got {reach}"):
        load_plan(tmp_path / "plan")


@pytest.mark.parametrize("place", [0, -1])
def test_an_id_beyond_its_slot_is_refused_wherever_it_stands(tmp_path: Path, place: int) -> None:
    save_plan(every_operation_plan(), tmp_path / "plan")
    table = every_operation_plan().arrays["brands_table"].copy()
    table[place] = 64
    replaced(tmp_path / "plan", "brands_table", table)
    with pytest.raises(PlanError, match=r"arrays/brands_table\.npy must hold ids from 0 to 63; got 64"):
        load_plan(tmp_path / "plan")


def test_a_field_that_comes_twice_is_refused(tmp_path: Path) -> None:
    save_plan(every_operation_plan(), tmp_path / "plan")
    text = (tmp_path / "plan" / "plan.json").read_text()
    sign(tmp_path / "plan", text.replace('"fingerprint"', '"format": 4, "fingerprint"', 1))
    with pytest.raises(PlanError, match=r"plan.json must be JSON; got a field twice among format, format, fingerprint"):
        load_plan(tmp_path / "plan")


def test_a_plan_that_would_be_refused_is_not_written(tmp_path: Path) -> None:
    plan = every_operation_plan()
    layout = dataclasses.replace(plan.layout, continuous=("pair_rate",) * 7)
    with pytest.raises(PlanError, match="layout must have columns of different names"):
        save_plan(dataclasses.replace(plan, layout=layout), tmp_path / "plan")
    assert not list(tmp_path.iterdir())


def test_an_array_that_is_not_contiguous_is_written_as_it_reads(tmp_path: Path) -> None:
    plan = every_operation_plan()
    fortran = {name: np.asfortranarray(array) for name, array in plan.arrays.items()}
    save_plan(dataclasses.replace(plan, arrays=fortran), tmp_path / "plan")
    for name, array in load_plan(tmp_path / "plan").arrays.items():
        np.testing.assert_array_equal(array, plan.arrays[name])


def test_a_plan_in_memory_whose_array_has_gaps_does_not_run() -> None:
    plan = every_operation_plan()
    gaps = dict(plan.arrays) | {"items_table": np.repeat(plan.arrays["items_table"], 2, axis=0)[::2]}
    message = r"plan array items_table must be contiguous <u8 \[n, 8\]; got uint64 \[68, 8\]"
    with pytest.raises(PlanError, match=message):
        dataclasses.replace(plan, arrays=gaps).program  # noqa: B018 - assembles, which checks
