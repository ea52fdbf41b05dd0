import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_eng.inputs import NULL_INT, Input
from feature_eng.layout import Layout, Slot
from feature_eng.plan import Instruction, Plan, PlanError


def small_plan() -> Plan:
    return Plan(
        fingerprint="abc",
        inputs=(Input("price", "item", "float32"), Input("item", "item", "int64")),
        instructions=(
            Instruction("fill", ("price",), "price.0", {"value": 2.0}),
            Instruction("int_keys", ("item",), "item.1"),
            Instruction("vocabulary", ("item.1",), "item.2", {}, {"listed": "keys", "ids": "ids"}),
        ),
        layout=Layout((Slot("item", 5),), ("price",)),
        categorical=("item.2",),
        continuous=("price.0",),
        arrays={"keys": np.array([1], dtype=np.uint64), "ids": np.array([4], dtype=np.int32)},
    )


def test_a_plan_read_back_computes_the_same(tmp_path: Path) -> None:
    small_plan().save(tmp_path / "plan")
    plan = Plan.load(tmp_path / "plan")
    columns = {"price": np.array([np.nan, 5.0], np.float32), "item": np.array([1, 2])}
    for one, other in zip(plan.run(columns, 2), small_plan().run(columns, 2), strict=True):
        np.testing.assert_array_equal(one, other)
    assert plan.run(columns, 2)[1].tolist() == [[2.0], [5.0]]
    assert not list(tmp_path.glob("*.partial"))


def every_row_s_plan() -> Plan:
    """A plan that crosses a user's column with an item's, and pads a user's list."""
    return Plan(
        fingerprint="abc",
        inputs=(
            Input("user", "user", "int64"),
            Input("item", "item", "string"),
            Input("history", "user", "int64", is_list=True),
            Input("now", "context", "int64"),
            Input("born", "item", "int64"),
        ),
        instructions=(
            Instruction("int_keys", ("user",), "user.0"),
            Instruction("string_keys", ("item",), "item.1"),
            Instruction("combine_keys", ("user.0", "item.1"), "cross.2"),
            Instruction("buckets", ("cross.2",), "cross.3", {"buckets": 1000}),
            Instruction("int_keys", ("history__values",), "history.4"),
            Instruction("vocabulary", ("history.4",), "history.5", {}, {"listed": "keys", "ids": "ids"}),
            Instruction("pad", ("history.5", "history__offsets"), "history.6", {"width": 3}),
            Instruction("age_days", ("now", "born"), "age.7"),
        ),
        layout=Layout((Slot("cross", 1001), Slot("history", 5, width=3)), ("age",)),
        categorical=("cross.3", "history.6"),
        continuous=("age.7",),
        arrays={"keys": np.array([], dtype=np.uint64), "ids": np.array([], dtype=np.int32)},
    )


def test_a_user_s_and_context_s_single_row_holds_for_every_candidate(tmp_path: Path) -> None:
    every_row_s_plan().save(tmp_path / "plan")
    plan = Plan.load(tmp_path / "plan")
    items = {"item": np.array(["a", "b", "a"]), "born": np.array([0, 86_400_000, 0])}
    one = {"user": [7], "history__values": [5, NULL_INT], "history__offsets": [0, 2], "now": [2 * 86_400_000]}
    three = {"user": [7] * 3, "history__values": [5, NULL_INT] * 3, "history__offsets": [0, 2, 4, 6]}
    categorical, continuous = plan.run(items | one, 3)
    assert categorical[:, 1:].tolist() == [[2, 1, 0]] * 3  # unseen, since the vocabulary is empty, null, padding
    assert categorical[0, 0] == categorical[2, 0] != categorical[1, 0]
    assert continuous.tolist() == [[2.0], [1.0], [2.0]]
    for once, thrice in zip((categorical, continuous), plan.run(items | one | three, 3), strict=True):
        np.testing.assert_array_equal(once, thrice)


def test_saving_replaces_an_earlier_plan(tmp_path: Path) -> None:
    for _ in range(2):
        small_plan().save(tmp_path / "plan")
    assert Plan.load(tmp_path / "plan").fingerprint == "abc"


def change(folder: Path, **changes: Any) -> None:
    raw = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(raw | changes))


def changed_array(folder: Path, **changes: Any) -> None:
    raw = json.loads((folder / "plan.json").read_text())
    raw["arrays"]["ids"] |= changes
    (folder / "plan.json").write_text(json.dumps(raw))


def instruction(**changes: Any) -> list[dict[str, Any]]:
    fill = {"op": "fill", "inputs": ["price"], "output": "price.0", "numbers": {"value": 2.0}, "arrays": {}}
    return [fill | changes]


NOTHING: dict[str, Any] = {
    "instructions": [],
    "layout": {"categorical": [], "continuous": []},
    "categorical": [],
    "continuous": [],
}

SPOILED = {
    "no plan.json": (lambda f: (f / "plan.json").unlink(), "must hold plan.json; got none"),
    "no JSON": (lambda f: (f / "plan.json").write_text("{"), "plan.json must be JSON"),
    "no text": (lambda f: (f / "plan.json").write_bytes(b"\xff"), "plan.json must be JSON"),
    "an empty array": (lambda f: (f / "arrays" / "ids.npy").write_bytes(b""), "must be as it was written"),
    "arrays that are a list": (lambda f: change(f, arrays=[]), "plan.json must have every field"),
    "a list": (lambda f: (f / "plan.json").write_text("[]"), r"must have format 1; got \[\]"),
    "another format": (lambda f: change(f, format=9), "must have format 1; got 9"),
    "no array": (lambda f: (f / "arrays" / "ids.npy").unlink(), "ids.npy must exist; got none"),
    "a cut array": (lambda f: (f / "arrays" / "ids.npy").write_bytes(b"\x93NUMPY"), "must be as it was written"),
    "another dtype": (lambda f: changed_array(f, dtype="<i8"), r"ids.npy must be <i8 \[1\]; got <i4 \[1\]"),
    "another shape": (lambda f: changed_array(f, shape=[2]), r"ids.npy must be <i4 \[2\]; got <i4 \[1\]"),
    "an unknown operation": (lambda f: change(f, instructions=instruction(op="eval")), "must be one of .*; got eval"),
    "a register from nowhere": (
        lambda f: change(f, instructions=instruction(inputs=["cost"])),
        "instruction price.0 must read registers written before it; got cost",
    ),
    "an array from nowhere": (
        lambda f: change(f, instructions=instruction(arrays={"edges": "nowhere"})),
        "instruction price.0 must use arrays of the plan; got nowhere",
    ),
    "packing from nowhere": (lambda f: change(f, continuous=["x"]), "must pack registers that it writes; got x"),
    "packing too much": (lambda f: change(f, continuous=["price.0", "price.0"]), "as many registers as its layout has"),
    "a missing field": (lambda f: change(f, inputs=None), "plan.json must have every field"),
    "an input twice": (
        lambda f: change(f, inputs=[{"name": "price", "role": "item", "dtype": "float32"}] * 2),
        "plan must have inputs of different names; got price, price",
    ),
    "numbers that are none": (
        lambda f: change(f, **(NOTHING | {"instructions": instruction(numbers={"value": "much"})})),
        "must run on a row of nulls; got ValueError",
    ),
    "a number too few": (
        lambda f: change(f, **(NOTHING | {"instructions": instruction(numbers={})})),
        "must run on a row of nulls; got TypeError.*'value'",
    ),
    "another width": (
        lambda f: change(f, layout=Layout((Slot("item", 5, width=2),), ("price",)).to_json()),
        "must run on a row of nulls; got ValueError",
    ),
    "a dtype that no input has": (
        lambda f: change(f, **(NOTHING | {"inputs": [{"name": "price", "role": "item", "dtype": "float16"}]})),
        "must run on a row of nulls; got KeyError.*float16",
    ),
    "an array outside": (
        lambda f: change(f, arrays={"../../x": {"dtype": "<i4", "shape": [1], "sha256": ""}}),
        r"plan array must have a name of letters, digits and _; got '../../x'",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_plan_is_refused_with_its_reason(tmp_path: Path, case: str) -> None:
    spoil, message = SPOILED[case]
    small_plan().save(tmp_path / "plan")
    spoil(tmp_path / "plan")
    with pytest.raises(PlanError, match=message):
        Plan.load(tmp_path / "plan")


@pytest.mark.parametrize("name", ["keys", "ids"])
def test_a_flipped_bit_in_an_array_is_found(tmp_path: Path, name: str) -> None:
    small_plan().save(tmp_path / "plan")
    path = tmp_path / "plan" / "arrays" / f"{name}.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(PlanError, match=f"{name}.npy must be as it was written; got another checksum"):
        Plan.load(tmp_path / "plan")


def test_a_plan_needs_numpy_alone() -> None:
    heavy = ("torch", "pandas", "nvtabular", "pydantic", "pyarrow", "dask")
    script = f"import sys, feature_eng.plan; print([m for m in {heavy} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
