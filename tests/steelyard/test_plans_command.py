import json
import re
import shlex
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from feature_eng.inputs import NULL_INT
from feature_eng.keys import combined_keys, int_keys, string_keys
from feature_eng.plan_files import load_plan, save_plan
from steelyard.cli import app, run
from steelyard.commands import plans
from tests.conftest import Shop
from tests.feature_eng.every_operation import ITEMS, every_operation_plan

Steelyard = Callable[..., Any]

ROW: dict[str, Any] = {
    "user": "word3",
    "item": int(ITEMS[6]),
    "brand": 104,
    "price": 3.5,
    "weight": None,
    "now": 1_700_000_000_000,  # Tuesday, 14 November 2023, 22:13:20 UTC
    "born": 1_700_000_000_000 - 86_400_000,
    "history": [1, int(ITEMS[6]), None, 5, 7],
    "tags": ["word1", "x"],
    "title": "Red SHOES",
    "click": 1,
}


@pytest.fixture
def steelyard(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Steelyard:
    """Return what runs a command line, and gives its exit code, what it printed, and its errors."""
    monkeypatch.setenv("COLUMNS", "220")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["steelyard", "plan", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run()
        return int(ended.value.code or 0), *capfd.readouterr()

    return call


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan") / "plan"
    save_plan(every_operation_plan(), folder)
    return folder


@pytest.fixture
def explained(steelyard: Steelyard, plan: Path) -> Callable[..., dict[str, Any]]:
    """Return what explains a row like ROW, by register."""

    def call(**changes: Any) -> dict[str, Any]:
        code, out, err = steelyard("explain", plan, "--row", json.dumps(ROW | changes), "--json")
        assert code == 0, err
        told = json.loads(out)
        return {each["register"]: each for each in told["instructions"]} | {"packed": told}

    return call


def test_show_tells_what_a_plan_holds(steelyard: Steelyard, plan: Path) -> None:
    code, out, err = steelyard("show", plan, "--json")
    assert code == 0, err
    about = json.loads(out)
    assert about["fingerprint"] == "abc"
    assert about["inputs"][7] == {"name": "history", "role": "user", "dtype": "int64 list"}
    written = {each["writes"]: each for each in about["instructions"]}
    assert list(written)[:3] == ["user.key", "item.key", "pair.key"]
    assert written["pair.key"]["reads"] == ["user.key", "item.key"]
    # 30 words and the null; 200 items and the null; brands 100 to 159.
    assert written["user.id"]["table"] == {"kind": "hash", "keys": 31, "slots": 55}
    assert written["history.ids"]["table"] == {"kind": "hash", "keys": 201, "slots": 340}
    assert written["brand.id"]["table"] == {"kind": "dense", "keys": 60, "slots": 60}
    assert written["brand.rate"]["table"]["kind"] == "dense"
    assert written["price.number"]["arithmetic"] == [
        "infinite becomes missing",
        "missing becomes 2.5",
        "at least 0.5",
        "log(x + 1)",
        "(x − 1.5) / 0.7",
        "(x − 0.1) · 3",
    ]
    outputs = {each["name"]: each for each in about["outputs"]}
    assert outputs["history"] == {
        "name": "history",
        "array": "categorical",
        "columns": [4, 7],
        "register": "history.ids",
        "cardinality": 204,
        "width": 4,
        "embedding": None,
    }
    assert outputs["one"] == {"name": "one", "array": "continuous", "columns": [6, 6], "register": "one"}
    arrays = {each["name"]: each for each in about["arrays"]}
    assert arrays["items_table"] == {"name": "items_table", "dtype": "uint64", "shape": [68, 8], "bytes": 4352}
    assert about["bytes"] == sum(each["bytes"] for each in about["arrays"])


def test_show_prints_tables(steelyard: Steelyard, plan: Path) -> None:
    code, out, err = steelyard("show", plan)
    assert code == 0, err
    for line in (
        r"│ history +│ user +│ int64 list +│",
        r"│ user.id +│ id +│ vocabulary +│ user.key +│ +│ hash, 31 keys in 55 slots +│",
        r"│ age.log +│ number +│ numbers +│ age.days +│ in float64; missing becomes 0; log\(x \+ 1\) +│",
        r"│ categorical +│ +4–7 │ history +│ history.ids +│ +204 │ +│",
        r"│ items_table +│ uint64 +│ 68 × 8 +│ +4,352 │",
        r"│ in all +│ +│ +│ +6,264 │",
    ):
        assert re.search(line, out), out


def test_explain_shows_keys_in_hexadecimal(explained: Callable[..., dict[str, Any]]) -> None:
    told = explained()
    user, item = string_keys(["word3"]), int_keys(np.array([ITEMS[6]]))
    assert told["user.key"]["value"] == f"0x{user[0]:016x}" == "0x9840e05f6974a7cc"
    assert told["item.key"]["value"] == f"0x{item[0]:016x}"
    assert told["pair.key"]["value"] == f"0x{combined_keys(user, item)[0]:016x}"
    assert told["pair.key"]["reads"] == ["user.key", "item.key"]


def test_explain_says_what_ids_stand_for(explained: Callable[..., dict[str, Any]]) -> None:
    told = explained()
    assert (told["user.id"]["value"], told["user.id"]["meaning"]) == ([7], ["listed"])
    assert (told["history.ids"]["value"], told["history.ids"]["meaning"]) == (
        [10, 1, 2, 2],
        ["listed", "null", "unseen", "unseen"],
    )
    assert told["tags.ids"]["meaning"] == ["listed", "unseen", "padding"]
    assert told["title.ids"]["meaning"][2:] == ["padding"] * 3
    assert told["pair.id"]["meaning"] == [f"bucket {told['pair.id']['value'][0] - 1}"]
    assert (told["now.hour"]["value"], told["now.hour"]["meaning"]) == ([23], ["22:00 to 22:59 UTC"])
    assert (told["now.weekday"]["value"], told["now.weekday"]["meaning"]) == ([2], ["Tuesday"])
    assert (told["price.bin"]["value"], told["price.bin"]["meaning"]) == ([1], ["1 ≤ x < 10"])
    assert (told["brand.id"]["value"], told["brand.id"]["meaning"]) == ([8], ["listed"])
    assert told["pair.rate"]["meaning"] == ["unseen"]
    assert told["brand.rate"]["meaning"] == ["listed"]


def test_explain_says_what_nulls_and_unknown_values_become(explained: Callable[..., dict[str, Any]]) -> None:
    told = explained(user=None, item=-3, brand=None, now=None, price=None, history=None)
    assert (told["user.id"]["value"], told["user.id"]["meaning"]) == ([1], ["null"])
    assert (told["item.id"]["value"], told["item.id"]["meaning"]) == ([2], ["unseen"])
    assert (told["brand.id"]["value"], told["brand.id"]["meaning"]) == ([1], ["null"])
    assert (told["brand.rate"]["value"], told["brand.rate"]["meaning"]) == (0.5, ["null"])
    assert told["now.hour"]["meaning"] == told["now.weekday"]["meaning"] == ["null"]
    assert told["price.bin"]["meaning"] == ["100 ≤ x, or missing"]
    assert told["history.ids"]["meaning"] == ["padding"] * 4
    assert told["age.days"]["value"] is None
    assert explained(brand=99)["brand.rate"]["meaning"] == ["unseen"]
    assert explained(price=0.5)["price.bin"]["meaning"] == ["x < 1"]
    pair = explained(user="word0", item=int(ITEMS[0]))["pair.rate"]
    assert (pair["value"], pair["meaning"]) == (-1.0, ["listed"])


def test_explain_shows_a_number_after_each_step(explained: Callable[..., dict[str, Any]]) -> None:
    steps = explained(price=float("3.5"))["price.number"]["steps"]
    assert [words for words, _ in steps][:3] == ["as read", "infinite becomes missing", "missing becomes 2.5"]
    values = [value for _, value in steps]
    assert values[:4] == [3.5] * 4
    logged = np.log(np.float32(4.5))
    assert values[4] == logged
    assert values[5] == (logged - np.float32(1.5)) / np.float32(0.7)
    assert values[6] == (np.float32(values[5]) - np.float32(0.1)) * np.float32(3)
    missing = explained(price=None)["price.number"]["steps"]
    assert [value for _, value in missing][:4] == [None, None, 2.5, 2.5]


def test_explain_ends_with_the_row_as_it_is_packed(explained: Callable[..., dict[str, Any]], plan: Path) -> None:
    packed = explained()["packed"]
    ids = {each["name"]: each["value"] for each in packed["categorical"]}
    assert (ids["user"], ids["user_again"], ids["history[0]"], ids["history_again[3]"], ids["hour"]) == (
        7,
        7,
        10,
        2,
        23,
    )
    numbers = {each["name"]: each["value"] for each in packed["continuous"]}
    assert (numbers["pair_rate"], numbers["weight"], numbers["one"]) == (0.25, 0.0, 1.0)
    assert numbers["age"] == np.float32(np.log(2.0))


def test_explain_prints_tables(steelyard: Steelyard, plan: Path) -> None:
    code, out, err = steelyard("explain", plan, "--row", json.dumps(ROW))
    assert code == 0, err
    assert re.search(r"│ user.key +│ string_keys +│ user +│ 0x9840e05f6974a7cc │", out), out
    assert re.search(r"│ +│ +missing becomes 2.5 +│ +3.5 │", out), out
    assert re.search(r"│ +4 │ history\[0\] +│ +10 │", out), out


@pytest.mark.parametrize("form", ["file", "parquet"])
def test_a_row_is_read_from_a_file_of_json_or_parquet(
    steelyard: Steelyard, plan: Path, tmp_path: Path, form: str
) -> None:
    if form == "file":
        (tmp_path / "row.json").write_text(json.dumps(ROW))
        asked = [f"@{tmp_path / 'row.json'}"]
    else:
        moment = datetime(2023, 11, 14, 22, 13, 20, tzinfo=timezone.utc)
        rows = [ROW | {"user": "word0", "now": moment, "item": None}, ROW | {"now": moment}]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
        asked = [str(tmp_path / "rows.parquet"), "--index", "1"]
    code, out, err = steelyard("explain", plan, "--json", "--row", *asked)
    assert code == 0, err
    _, expected, _ = steelyard("explain", plan, "--json", "--row", json.dumps(ROW))
    assert json.loads(out) == json.loads(expected)


def test_a_bundle_s_rows_are_explained_as_its_plan_computes_them(steelyard: Steelyard, shop: Shop) -> None:
    plan = load_plan(shop.bundle.plan)
    code, out, err = steelyard("explain", shop.bundle.folder, "--row", shop.test, "--index", 700, "--json")
    assert code == 0, err
    told = json.loads(out)
    log = pq.read_table(shop.test).slice(700, 1)
    columns: dict[str, Any] = {}
    for given in plan.inputs:
        value = log.column(given.name)[0].as_py()
        if given.is_list:
            columns |= {given.tensors[0]: np.array(value or []), given.tensors[1]: [0, len(value or [])]}
        else:
            null = {"string": "", "int64": NULL_INT}.get(given.dtype, np.nan)
            columns[given.name] = np.array([null if value is None else value])
    categorical, continuous = plan.run(columns, 1)
    assert [each["value"] for each in told["categorical"]] == categorical[0].tolist()
    assert [each["value"] for each in told["continuous"]] == continuous[0].tolist()
    code, out, _ = steelyard("show", shop.bundle.folder, "--json")
    assert {each["name"] for each in json.loads(out)["inputs"]} == {given.name for given in plan.inputs}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"price": "cheap"}, "price must be float32 or null; got 'cheap'"),
        ({"price": True}, "price must be float32 or null; got True"),
        ({"item": 1.5}, "item must be int64 or null; got 1.5"),
        ({"item": 2**63}, "item must be an integer of at most 64 bits; got 9223372036854775808"),
        ({"user": 7}, "user must be string or null; got 7"),
        ({"history": 7}, "history must be a list of int64 or null; got 7"),
        ({"tags": ["a", 7]}, "tags must be string or null; got 7"),
    ],
)
def test_a_value_of_another_type_is_named(
    steelyard: Steelyard, plan: Path, changes: dict[str, Any], message: str
) -> None:
    code, _, err = steelyard("explain", plan, "--row", json.dumps(ROW | changes))
    assert (code, err.strip()) == (2, f"error: {message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "TMP"], "path must be a bundle's folder or a plan's, which holds plan.json; got .*, which has none"),
        (["explain", "PLAN", "--row", "{"], "row must be a JSON object; got Expecting property name"),
        (["explain", "PLAN", "--row", "@LIST"], r"row must be a JSON object; got \[1\]"),
        (["explain", "PLAN", "--row", "@nowhere"], "nowhere"),
        (
            ["explain", "PLAN", "--row", "nowhere"],
            "row must be a JSON object, @file with one, or a Parquet .*; got n",
        ),
        (["explain", "PLAN", "--row", "LIST"], "row must be a JSON object, @file with one, or a Parquet file; got /"),
        (["explain", "PLAN", "--row", "{}"], "row must hold user, item, brand, .*, title; got nothing"),
        (["explain", "PLAN", "--row", "ROWS", "--index", "1"], "index must be below the 1 rows of .*; got 1"),
        (["explain", "PLAN", "--row", "ROWS"], "row must hold item, brand, .*; got user"),
    ],
)
def test_a_mistake_is_one_sentence(
    steelyard: Steelyard, plan: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "list.json").write_text("[1]")
    pq.write_table(pa.table({"user": ["a"]}), tmp_path / "rows.parquet")
    paths = {"TMP": tmp_path, "PLAN": plan, "LIST": tmp_path / "list.json", "@LIST": f"@{tmp_path / 'list.json'}"}
    paths |= {"ROWS": tmp_path / "rows.parquet"}
    code, _, err = steelyard(*(paths.get(argument, argument) for argument in arguments))
    assert code == 2
    assert re.search(message, err), err
    assert "Traceback" not in err


@pytest.mark.parametrize("name", ["show", "explain"])
def test_the_help_has_an_example_that_the_command_takes(name: str) -> None:
    examples = re.findall(r"`(steelyard [^`]*)`", getattr(plans, name).__doc__ or "")
    assert examples
    for example in examples:
        _, _, command, *arguments = shlex.split(example)
        get_command(plans.app).commands[command].make_context(command, arguments)  # type: ignore[attr-defined]
    assert "Example" in CliRunner().invoke(app, ["plan", name, "--help"]).output
