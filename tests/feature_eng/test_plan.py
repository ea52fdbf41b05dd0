import dataclasses
import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from feature_eng.digests import BLOCK_BYTES, file_sha256
from feature_eng.inputs import NULL_INT, Input
from feature_eng.keys import int_keys, string_keys
from feature_eng.layout import Layout, Slot
from feature_eng.plan import ROWS_A_THREAD, Plan
from feature_eng.plan_files import load_plan, save_plan
from feature_eng.program import Instruction, PlanError
from feature_eng.strings import Strings, encoded, from_wire
from feature_eng.tables import hash_table
from tests.feature_eng import plain_reader


def table_of(values: list[int], ids: list[int]) -> dict[str, Any]:
    return {"keys": hash_table(int_keys(np.array(values, dtype=np.int64)), np.array(ids, np.int32), np.int32(2))}


TABLE = {"table": "keys"}


def small_plan() -> Plan:
    return Plan(
        fingerprint="abc",
        inputs=(Input("price", "item", "float32"), Input("item", "item", "int64")),
        instructions=(
            Instruction("numbers", ("price",), "price.0", {"double": 0}, steps=(("finite",), ("fill", 2.0))),
            Instruction("int_keys", ("item",), "item.1"),
            Instruction("vocabulary", ("item.1",), "item.2", arrays=TABLE),
        ),
        layout=Layout((Slot("item", 5),), ("price",)),
        categorical=("item.2",),
        continuous=("price.0",),
        arrays=table_of([1, NULL_INT], [4, 1]),
    )


def test_a_plan_read_back_computes_the_same(tmp_path: Path) -> None:
    save_plan(small_plan(), tmp_path / "plan")
    plan = load_plan(tmp_path / "plan")
    columns = {"price": np.array([np.nan, 5.0], np.float32), "item": np.array([1, 2])}
    for one, other in zip(plan.run(columns, 2), small_plan().run(columns, 2), strict=True):
        np.testing.assert_array_equal(one, other)
    assert plan.run(columns, 2)[1].tolist() == [[2.0], [5.0]]
    assert not list(tmp_path.glob("*.partial"))


def large_plan() -> Plan:
    """A plan whose table takes more than one of the blocks that are checked apart."""
    keys = int_keys(np.arange(5_000_000))
    table = hash_table(keys, np.arange(5_000_000, dtype=np.int32) % 5, np.int32(2))
    return dataclasses.replace(small_plan(), arrays={"keys": table})


def test_a_table_of_several_blocks_is_read_and_each_of_its_bytes_is_checked(tmp_path: Path) -> None:
    folder = tmp_path / "plan"
    save_plan(large_plan(), folder)
    file = folder / "arrays" / "keys.npy"
    assert file.stat().st_size > BLOCK_BYTES
    columns = {"price": np.zeros(3, np.float32), "item": np.array([4_999_999, 3, -1])}
    assert load_plan(folder).run(columns, 3)[0].tolist() == [[4], [3], [2]]
    _, arrays = plain_reader.read(folder)
    np.testing.assert_array_equal(arrays["keys"], np.load(file))
    for place in (0, BLOCK_BYTES - 1, BLOCK_BYTES, file.stat().st_size - 1):
        data = bytearray(file.read_bytes())
        data[place] ^= 1
        (folder / "arrays" / "keys.npy").write_bytes(data)
        with pytest.raises(PlanError, match=r"arrays/keys\.npy must be as it was written; got another checksum"):
            load_plan(folder)
        data[place] ^= 1
        file.write_bytes(data)


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
            Instruction("combined_keys", ("user.0", "item.1"), "cross.2"),
            Instruction("buckets", ("cross.2",), "cross.3", {"buckets": 1000}),
            Instruction("list_vocabulary", ("history",), "history.6", {"keep_last": 1}, TABLE),
            Instruction("age_days", ("now", "born"), "age.7"),
        ),
        layout=Layout((Slot("cross", 1001), Slot("history", 5, width=3)), ("age",)),
        categorical=("cross.3", "history.6"),
        continuous=("age.7",),
        arrays=table_of([NULL_INT], [1]),
    )


def test_a_user_s_and_context_s_single_row_holds_for_every_candidate(tmp_path: Path) -> None:
    save_plan(every_row_s_plan(), tmp_path / "plan")
    plan = load_plan(tmp_path / "plan")
    items = {"item": np.array(["a", "b", "a"]), "born": np.array([0, 86_400_000, 0])}
    one = {"user": [7], "history__values": [5, NULL_INT], "history__offsets": [0, 2], "now": [2 * 86_400_000]}
    three = {"user": [7] * 3, "history__values": [5, NULL_INT] * 3, "history__offsets": [0, 2, 4, 6]}
    categorical, continuous = plan.run(items | one, 3)
    assert categorical[:, 1:].tolist() == [[2, 1, 0]] * 3  # unseen, since the vocabulary is empty, null, padding
    assert categorical[0, 0] == categorical[2, 0] != categorical[1, 0]
    assert continuous.tolist() == [[2.0], [1.0], [2.0]]
    for once, thrice in zip((categorical, continuous), plan.run(items | one | three, 3), strict=True):
        np.testing.assert_array_equal(once, thrice)


def test_a_text_s_words_are_lowered_and_its_key_is_not() -> None:
    keys = (
        Instruction("string_keys", ("title",), "title.key"),
        Instruction("buckets", ("title.key",), "title.id", {"buckets": 1000}),
        Instruction("is_null", ("title",), "title.null"),
    )
    words = Instruction("words", ("title",), "title.words", {"buckets": 1000})
    apart = Plan(
        fingerprint="abc",
        inputs=(Input("title", "item", "string"),),
        instructions=keys,
        layout=Layout((Slot("title", 1001), Slot("null", 2)), ()),
        categorical=("title.id", "title.null"),
        continuous=(),
        arrays={},
    )
    together = dataclasses.replace(
        apart,
        instructions=(*keys, words),
        layout=Layout((*apart.layout.categorical, Slot("words", 1001, width=2)), ()),
        categorical=(*apart.categorical, "title.words"),
    )
    texts = {"title": np.array(["GRÖSSE m", "größe\u2003M", "\u2003", ""], dtype=object)}
    ids = together.run(texts, 4)[0]
    np.testing.assert_array_equal(ids[:, :2], apart.run(texts, 4)[0])
    assert ids[:, 1].tolist() == [0, 0, 0, 1]
    assert ids[0, 3] == ids[1, 3] > 0
    assert ids[2:, 2:].tolist() == [[0, 0], [0, 0]]


def test_saving_replaces_an_earlier_plan(tmp_path: Path) -> None:
    for _ in range(2):
        save_plan(small_plan(), tmp_path / "plan")
    assert load_plan(tmp_path / "plan").fingerprint == "abc"


def change(folder: Path, **changes: Any) -> None:
    """Change fields of plan.json and sign it anew, as another program might write it."""
    path = folder / "plan.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | changes))
    sign(folder)


def sign(folder: Path) -> None:
    digest = hashlib.sha256((folder / "plan.json").read_bytes()).hexdigest()
    (folder / "plan.json.sha256").write_text(f"{digest}  plan.json\n")


def write(folder: Path, data: bytes) -> None:
    (folder / "plan.json").write_bytes(data)
    sign(folder)


def changed_array(folder: Path, **changes: Any) -> None:
    raw = json.loads((folder / "plan.json").read_text())
    raw["arrays"]["keys"] |= changes
    change(folder, arrays=raw["arrays"])


def replace_array(folder: Path, name: str, array: np.ndarray) -> None:
    """Write another array in an array's place, with its checksum."""
    path = folder / "arrays" / f"{name}.npy"
    np.save(path, array)
    about = {"dtype": array.dtype.str, "shape": list(array.shape), "sha256": file_sha256(path)}
    arrays = json.loads((folder / "plan.json").read_text())["arrays"]
    change(folder, arrays=arrays | {name: about})


def chain(**changes: Any) -> list[dict[str, Any]]:
    return [{"op": "numbers", "inputs": ["price"], "output": "price.0", "numbers": {"double": 0}} | changes]


NOTHING: dict[str, Any] = {
    "instructions": [],
    "layout": {"categorical": [], "continuous": []},
    "categorical": [],
    "continuous": [],
}


def alone(**changes: Any) -> dict[str, Any]:
    """Return fields of a plan that computes one chain and packs nothing."""
    return NOTHING | {"instructions": chain(**changes)}


SPOILED = {
    "no plan.json": (lambda f: (f / "plan.json").unlink(), "must hold plan.json; got none"),
    "no checksum": (lambda f: (f / "plan.json.sha256").unlink(), "must hold plan.json.sha256; got none"),
    "no JSON": (lambda f: write(f, b"{"), "plan.json must be JSON"),
    "no text": (lambda f: write(f, b"\xff"), "plan.json must be JSON"),
    "another checksum": (lambda f: (f / "plan.json").write_bytes(b"{}"), "plan.json must be as it was written"),
    "an empty array": (lambda f: (f / "arrays" / "keys.npy").write_bytes(b""), "must be as it was written"),
    "arrays that are a list": (lambda f: change(f, arrays=[]), r"arrays must be an object; got \[\]"),
    "a list": (lambda f: write(f, b"[]"), r"must have format 4; got \[\]"),
    "another format": (lambda f: change(f, format=9), "must have format 4; got 9"),
    "no array": (lambda f: (f / "arrays" / "keys.npy").unlink(), "keys.npy must exist; got none"),
    "a cut array": (lambda f: (f / "arrays" / "keys.npy").write_bytes(b"\x93NUMPY"), "must be as it was written"),
    "another dtype": (
        lambda f: changed_array(f, dtype="<f8"),
        r"keys.npy must be <f8 \[1, 8\] .*; got .*<u8.* 64 bytes",
    ),
    "a dtype that no array has": (
        lambda f: changed_array(f, dtype="|O"),
        r"array keys must be one of <u8, <i4, <f8 in 1 or 2 dimensions; got \|O \[1, 8\]",
    ),
    "another shape": (
        lambda f: changed_array(f, shape=[2]),
        r"keys.npy must be <u8 \[2\] in C order .*; got .*\(1, 8\)",
    ),
    "signed keys": (
        lambda f: replace_array(f, "keys", np.ones((3, 8), np.int64)),
        r"array keys must be one of <u8, .*; got <i8 \[3, 8\]",
    ),
    "no lines": (
        lambda f: replace_array(f, "keys", np.zeros((0, 8), np.uint64)),
        r"array keys must be one of .* 1 or 2 dimensions; got <u8 \[0, 8\]",
    ),
    "lines of another length": (
        lambda f: replace_array(f, "keys", np.zeros((3, 2), np.uint64)),
        r"array keys must be contiguous <u8 \[n, 8\]; got uint64 \[3, 2\]",
    ),
    "an id out of range": (
        lambda f: replace_array(f, "keys", table_of([1], [9])["keys"]),
        "arrays/keys.npy must hold ids from 0 to 4; got 9",
    ),
    "an unknown operation": (lambda f: change(f, instructions=chain(op="eval")), "must be one of .*; got eval"),
    "a register from nowhere": (
        lambda f: change(f, instructions=chain(inputs=["cost"])),
        "instruction price.0 must read registers written before it; got cost",
    ),
    "an array from nowhere": (
        lambda f: change(f, **alone(op="bucketize", arrays={"edges": "nowhere"})),
        "instruction price.0 must use arrays of the plan; got nowhere",
    ),
    "an array of another name": (
        lambda f: change(f, **alone(op="bucketize", arrays={"table": "keys"})),
        "instruction price.0 must have edges; got none",
    ),
    "another kind of operand": (
        lambda f: change(f, instructions=chain(op="hour")),
        "instruction price.0 must read int64; got float32",
    ),
    "an operand too many": (
        lambda f: change(f, instructions=chain(inputs=["price", "price"])),
        "instruction price.0 must read .*number; got float32, float32",
    ),
    "packing from nowhere": (lambda f: change(f, continuous=["x"]), "x as number; got nothing"),
    "packing too much": (lambda f: change(f, continuous=["price.0", "price.0"]), "as many registers as its layout has"),
    "ids as numbers": (
        lambda f: change(f, categorical=["price.0"], continuous=["item.2"]),
        "must pack ids as categorical, numbers as continuous; got price.0 otherwise",
    ),
    "keys as ids": (lambda f: change(f, categorical=["item.1"]), "must pack .*got item.1 otherwise"),
    "a missing field": (lambda f: change(f, inputs=None), "inputs must be a list; got null"),
    "an input twice": (
        lambda f: change(f, inputs=[{"name": "price", "role": "item", "dtype": "float32"}] * 2),
        "must have inputs of different names; got price, price",
    ),
    "a list like an input": (
        lambda f: change(
            f,
            inputs=[
                {"name": "price", "role": "item", "dtype": "float32"},
                {"name": "item", "role": "item", "dtype": "int64"},
                {"name": "x", "role": "item", "dtype": "int64", "is_list": True},
                {"name": "x__values", "role": "item", "dtype": "int64"},
            ],
        ),
        "must have inputs of different names; got .*x__values, x__offsets, x__values",
    ),
    "an unknown step": (
        lambda f: change(f, **alone(steps=[["cube"]])),
        r"steps of price.0 must be of finite \(0 numbers\), .*; got \['cube'\]",
    ),
    "a step with a number too few": (lambda f: change(f, **alone(steps=[["clip", 1]])), r"got \['clip', 1\]"),
    "a step of words": (lambda f: change(f, **alone(steps=[["fill", "x"]])), "fill of price.0 must be a finite number"),
    "a number too few": (lambda f: change(f, **alone(numbers={})), "price.0 must have double; got none"),
    "a register twice": (
        lambda f: change(f, **(NOTHING | {"instructions": chain() * 2})),
        "must write each register once; got price.0 twice",
    ),
    "a number out of range": (
        lambda f: change(f, **alone(numbers={"double": 2})),
        "double of price.0 must be an integer from 0 to 1; got 2",
    ),
    "another width": (
        lambda f: change(f, layout=Layout((Slot("item", 5, width=2),), ("price",)).to_json()),
        "instruction item.2 must fill its slot's 2 columns; got 1",
    ),
    "a dtype that no input has": (
        lambda f: change(f, **(NOTHING | {"inputs": [{"name": "price", "role": "item", "dtype": "float16"}]})),
        "input price must be one of int64, .*; got float16",
    ),
    "an array outside": (
        lambda f: change(f, arrays={"../../x": {"dtype": "<i4", "shape": [1], "sha256": ""}}),
        r"array must have a name of letters, digits and _; got '../../x'",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_plan_is_refused_with_its_reason(tmp_path: Path, case: str) -> None:
    spoil, message = SPOILED[case]
    save_plan(small_plan(), tmp_path / "plan")
    spoil(tmp_path / "plan")
    with pytest.raises(PlanError, match=message):
        load_plan(tmp_path / "plan")


def test_a_plan_of_another_schema_is_refused(tmp_path: Path) -> None:
    save_plan(small_plan(), tmp_path / "plan")
    assert load_plan(tmp_path / "plan", "abc").fingerprint == "abc"
    with pytest.raises(PlanError, match="must be of the schema def; got abc"):
        load_plan(tmp_path / "plan", "def")


def test_edges_must_ascend(tmp_path: Path) -> None:
    step = Instruction("bucketize", ("price",), "b", {"first": 0}, {"edges": "edges"})
    plan = dataclasses.replace(
        small_plan(), instructions=(*small_plan().instructions, step), arrays={"edges": np.array([2.0, 1.0])}
    )
    with pytest.raises(PlanError, match=r"plan array edges must ascend; got \[2.0, 1.0\]"):
        save_plan(dataclasses.replace(plan, arrays={**small_plan().arrays, **plan.arrays}), tmp_path / "plan")


def test_a_plan_writes_into_given_arrays() -> None:
    plan, columns = small_plan(), {"price": np.array([1.0, 5.0], np.float32), "item": np.array([1, 2])}
    out = np.empty((2, 1), np.int32), np.empty((2, 1), np.float32)
    assert plan.run(columns, 2, out=out)[0] is out[0]
    assert out[0].tolist() == [[4], [2]]
    with pytest.raises(
        ValueError, match=r"out must hold continuous float32 \[2, 1\], contiguous; got float64 \[2, 1\]"
    ):
        plan.run(columns, 2, out=(out[0], np.empty((2, 1))))


def test_what_cannot_be_written_to_is_refused() -> None:
    plan, columns = small_plan(), {"price": np.array([1.0, 5.0], np.float32), "item": np.array([1, 2])}
    fixed = np.empty((2, 1), np.int32)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="out must hold a categorical that can be written to; got a read-only array"):
        plan.run(columns, 2, out=(fixed, np.empty((2, 1), np.float32)))


def test_rows_and_threads_cannot_be_too_few() -> None:
    with pytest.raises(ValueError, match="rows must be at least 0; got -1"):
        small_plan().run({"price": np.ones(1, np.float32), "item": np.array([1])}, -1)
    with pytest.raises(ValueError, match="threads must be at least 1; got 0"):
        small_plan().run({"price": np.ones(1, np.float32), "item": np.array([1])}, 1, threads=0)


def test_a_plan_that_ran_does_not_take_its_arrays_addresses_along() -> None:
    """A table of the copy lies elsewhere, and what lay at the old address may be gone."""
    plan, columns = small_plan(), {"price": np.ones(1, np.float32), "item": np.array([1])}
    plan.run(columns, 1)
    copied = pickle.loads(pickle.dumps(plan))
    assert copied.arrays["keys"].ctypes.data in copied.program.code
    assert plan.arrays["keys"].ctypes.data not in copied.program.code
    assert copied.run(columns, 1)[0].tolist() == [[4]]


def test_a_plan_keeps_the_arrays_that_it_reads() -> None:
    plan, columns = small_plan(), {"price": np.ones(1, np.float32), "item": np.array([1])}
    table = plan.arrays["keys"]
    plan.run(columns, 1)
    plan.arrays.clear()  # type: ignore[attr-defined]
    assert any(array is table for array in plan.program.arrays)
    assert plan.run(columns, 1)[0].tolist() == [[4]]


def test_a_register_may_be_packed_twice() -> None:
    layout = Layout((Slot("item", 5), Slot("again", 5)), ("price", "same"))
    twice = dataclasses.replace(small_plan(), layout=layout, categorical=("item.2",) * 2, continuous=("price.0",) * 2)
    categorical, continuous = twice.run({"price": np.array([3.0], np.float32), "item": np.array([1, 7])}, 2)
    assert categorical.tolist() == [[4, 4], [2, 2]]
    assert continuous.tolist() == [[3, 3], [3, 3]]


def test_rows_shared_by_threads_are_the_rows_of_one() -> None:
    rows = 5 * ROWS_A_THREAD + 3
    rng = np.random.default_rng(0)
    columns = {"price": rng.normal(size=rows).astype(np.float32), "item": rng.integers(0, 3, rows)}
    for one, shared in zip(
        small_plan().run(columns, rows, threads=1), small_plan().run(columns, rows, threads=3), strict=True
    ):
        np.testing.assert_array_equal(one, shared)


def test_no_rows_give_no_features() -> None:
    categorical, continuous = small_plan().run({"price": np.array([], np.float32), "item": np.array([])}, 0)
    assert (categorical.shape, continuous.shape) == ((0, 1), (0, 1))


def test_a_plan_needs_numpy_and_numba_alone() -> None:
    heavy = ("torch", "pandas", "nvtabular", "pydantic", "pyarrow", "dask")
    script = f"import sys, feature_eng.plan_files; print([m for m in {heavy} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_big_table_is_read_without_staying_in_the_process_s_memory(tmp_path: Path) -> None:
    table = np.zeros((2**20, 8), np.uint64)
    save_plan(dataclasses.replace(small_plan(), arrays={**small_plan().arrays, "keys": table}), tmp_path / "plan")
    process = psutil.Process()
    before = process.memory_info().rss
    plan = load_plan(tmp_path / "plan")
    assert plan.arrays["keys"].nbytes == 2**26
    assert process.memory_info().rss - before < 2**24


def wired(texts: list[str]) -> Strings:
    data = b"".join(len(text).to_bytes(4, "little") + text.encode() for text in texts)
    return from_wire("user", np.frombuffer(data, np.uint8), len(texts))


def checked(texts: list[str]) -> Strings:
    made = encoded(texts)
    return Strings(made.data, made.starts, made.ends)


@pytest.mark.parametrize("made", [encoded, wired, checked])
def test_strings_are_taken_from_where_they_lie(
    made: Callable[[list[str]], Strings], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(
        fingerprint="abc",
        inputs=(Input("user", "user", "string"), Input("age", "user", "int64")),
        instructions=(
            Instruction("string_keys", ("user",), "user.key"),
            Instruction("vocabulary", ("user.key",), "user.id", arrays={"table": "table"}),
            Instruction("is_null", ("age",), "age.null"),
        ),
        layout=Layout((Slot("user", 6), Slot("age", 2)), ()),
        categorical=("user.id", "age.null"),
        continuous=(),
        arrays={"table": hash_table(string_keys(["ann", "bob"]), np.array([4, 5], np.int32), np.int32(2))},
    )
    monkeypatch.setattr("feature_eng.plan.bound_columns", None)  # which looks at each column, at some length
    ids, _ = plan.run({"age": np.array([3]), "user": made(["bob", "", "ann"])}, 3)
    assert ids.tolist() == [[5, 0], [2, 0], [4, 0]]
