"""What is particular to workflows without a schema: inputs, layout, roles, fingerprint, refusals, one's own rules."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import nvtabular as nvt
import pandas as pd
import pytest
from merlin.schema import Tags
from nvtabular import ops

from feature_eng.inputs import NULL_INT, Input
from feature_eng.keys import string_keys
from feature_eng.layout import NO_NUMBER, Slot
from feature_eng.lowering import lower, rule
from feature_eng.operators import HashedIds
from feature_eng.plan_writer import RULES, Registers, Writer
from tests.contract.hand_written import by_plan, by_workflow, check_equal, compiled, fitted, folder, training_log

LOG = training_log(1)
PROJECT = Path(__file__).resolve().parents[2]


def categorify(**options: Any) -> Any:
    return ops.Categorify(out_path=folder(), **options)


def test_ids_are_categorical_and_numbers_continuous_in_the_workflow_s_order() -> None:
    node = (
        (["f32", "f64"] >> ops.FillMissing(add_binary_cols=True))
        + (["text"] >> categorify(max_size=5))
        + (["ints"] >> categorify() >> ops.ListSlice(4, pad=True))
        + (["i8"] >> ops.Bucketize([3, 5]))
        + (["flag", "i32"] >> ops.Rename(postfix="_raw"))
        + (["text", "i16"] >> HashedIds("pair", 9))
    )
    _, plan = compiled(node, LOG)
    assert plan.layout.categorical == (
        Slot("f32_filled", 2),
        Slot("f64_filled", 2),
        Slot("text", 5),
        Slot("ints", 11, width=4),
        Slot("i8", 3),
        Slot("flag_raw", 3),
        Slot("pair", 10),
    )
    assert plan.layout.continuous == ("f32", "f64", "i32_raw")
    dtypes = {given.name: (given.dtype, given.is_list) for given in plan.inputs}
    assert dtypes == {
        "f32": ("float32", False),
        "f64": ("float64", False),
        "flag": ("int64", False),
        "i16": ("int64", False),
        "i32": ("int64", False),
        "i8": ("int64", False),
        "ints": ("int64", True),
        "text": ("string", False),
    }


def test_a_workflow_without_numbers_has_a_column_of_zeros() -> None:
    _, plan = compiled(["text"] >> categorify(), LOG)
    assert plan.layout.continuous == (NO_NUMBER,)


def test_an_input_has_the_role_of_all_that_depends_on_it() -> None:
    users = ["i8", "text"] >> categorify() >> ops.TagAsUserFeatures()
    moments = ["i16"] >> ops.Bucketize([2]) >> ops.AddMetadata(tags=[Tags.CONTEXT])
    both = ["i8"] >> ops.Normalize() >> ops.Rename(postfix="_n")
    _, plan = compiled(users + moments + both, LOG)
    assert plan.inputs == (
        Input("i16", "context", "int64"),
        Input("i8", "item", "int64"),
        Input("text", "user", "string"),
    )


def test_labels_of_an_encoding_are_no_inputs() -> None:
    _, plan = compiled(["text"] >> ops.TargetEncoding("click", kfold=3, out_path=folder()), LOG)
    assert [given.name for given in plan.inputs] == ["text"]


FINGERPRINT = """
import warnings; warnings.simplefilter("ignore")
import nvtabular as nvt, pandas as pd, tempfile
from nvtabular import ops
from feature_eng.lowering import lower
log = pd.DataFrame({"a": [1, 2, 2], "b": ["x", None, "y"], "c": [0.5, 1.5, 3.0]})
node = (["a", "b"] >> ops.Categorify(out_path=tempfile.mkdtemp())) + (["c"] >> ops.Normalize())
print("fingerprint", lower(nvt.Workflow(node).fit(nvt.Dataset(log))).fingerprint)
"""


def test_the_fingerprint_is_the_same_in_every_process_and_another_for_another_workflow() -> None:
    found = set()
    for seed in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, "-c", FINGERPRINT],
            cwd=PROJECT,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        )
        found |= set(re.findall("fingerprint (.*)", ran.stdout))
    assert len(found) == 1
    means = [lower(fitted(["f64"] >> ops.Normalize(), log)).fingerprint for log in (LOG, LOG[:40])]
    assert means[0] != means[1]


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "HashBucket": (
        lambda: ["text"] >> ops.HashBucket(9),
        r"operator HashBucket on text must be feature_eng.operators.HashedIds, .*; got HashBucket",
    ),
    "HashedCross": (
        lambda: [["text", "i8"]] >> ops.HashedCross(9),
        r"operator HashedCross on text, i8 must be feature_eng.operators.HashedIds",
    ),
    "buckets of rare values": (
        lambda: ["text"] >> categorify(num_buckets=4, max_size=9),
        r"Categorify on text must have num_buckets of 1 or None.*use feature_eng.operators.HashedIds; got 4",
    ),
    "one table for all": (
        lambda: ["text", "i8"] >> categorify(single_table=True),
        "Categorify on text must have single_table=False; got True",
    ),
    "a function": (
        lambda: ["f32"] >> ops.LambdaOp(lambda column: column + 1),
        r"operator UDF on f32 must be one of AddMetadata, .*register a rule with feature_eng.lowering.rule",
    ),
    "rows that are left out": (lambda: ["f32"] >> ops.Dropna(), "operator Dropna on f32 must be one of"),
    "lists of any length": (
        lambda: ["ints"] >> categorify(),
        r"output ints must have lists of one length: add ListSlice\(n, pad=True\); got any length",
    ),
    "lists that are cut alone": (
        lambda: ["ints"] >> categorify() >> ops.ListSlice(2),
        r"ListSlice on ints must give lists of one length: add ListSlice\(n, pad=True\); got ListSlice\(0, 2,",
    ),
    "lists cut before they are ids": (
        lambda: ["ints"] >> ops.ListSlice(2) >> categorify(),
        "ListSlice on ints must come after Categorify; got int64 list",
    ),
    "lists of numbers": (
        lambda: ["ints"] >> ops.Normalize(),
        "Normalize on ints must read numbers; got int64 list",
    ),
    "lists to fill": (
        lambda: ["ints"] >> categorify() >> ops.FillMissing(),
        "FillMissing on ints must read one value a row; got list of ids",
    ),
    "categories of a computed number": (
        lambda: ["i8"] >> ops.Clip(1) >> categorify(),
        "Categorify on i8 must read a column as the request has it, filled or not, or ids; got a computed number",
    ),
    "statistics by a list": (
        lambda: ["ints"] >> categorify() >> ops.ValueCount() >> ops.Rename(postfix="_") >> ops.LogOp(),
        "LogOp on ints_ must read numbers; got list of ids",
    ),
    "numbers of ids": (
        lambda: ["text"] >> categorify() >> ops.Normalize(),
        "Normalize on text must read numbers; got id",
    ),
    "a column as it is": (lambda: ["text"] >> ops.AddTags([]), "output text must be numbers or ids, .*; got string"),
    "ids that a combination puts back": (
        lambda: (["i8", "text"] >> categorify()) + ([["i8", "text"]] >> categorify(encode_type="combo")),
        "output i8 must be numbers or ids, .*come after a Categorify of encode_type='combo'.*; got int64",
    ),
    "no mean": (
        lambda: ["void"] >> ops.Normalize(),
        "Normalize on void must be fitted to a finite number; got nan",
    ),
    "no range": (
        lambda: ["f32"] >> ops.Clip(min_value=-1) >> ops.LogOp() >> ops.NormalizeMinMax(),
        "NormalizeMinMax on f32 must be fitted to a finite number; got inf",
    ),
    "edges that fall": (
        lambda: ["f32"] >> ops.Bucketize([2, 1]),
        r"Bucketize on f32 must have boundaries that ascend; got \[2.0, 1.0\]",
    ),
    "half precision": (
        lambda: ["f64"] >> ops.ReduceDtypeSize(np.float16),
        "ReduceDtypeSize on f64 must have float_dtype float32 or float64; got float16",
    ),
    "folds": (
        lambda: ["text"] >> ops.TargetEncoding("click", kfold=2, drop_folds=False, out_path=folder()),
        "TargetEncoding on text must have drop_folds=True; got False",
    ),
    "differences of what is computed": (
        lambda: ["f32", "flag"] >> ops.FillMissing() >> ops.DifferenceLag("flag"),
        "DifferenceLag on f32 must read a number and columns as the request has them; got number, int64",
    ),
    "hashes of numbers that are no integers": (
        lambda: ["void"] >> HashedIds("f", 9),
        "HashedIds on void must read strings, integers or ids; got float32",
    ),
    "hashes of what is filled": (
        lambda: ["text"] >> ops.FillMissing("x") >> HashedIds("f", 9),
        "HashedIds on text must read strings, integers or ids; got filled string",
    ),
    "moments": (
        lambda: ["moment"] >> ops.Rename(postfix="_"),
        r"column moment must be of integers, strings, or numbers one a row; got datetime64\[ns\]",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_plan_cannot_give_is_refused_with_its_reason(kind: str) -> None:
    node, message = REFUSED[kind]
    log = LOG.assign(void=np.float32(np.nan), moment=pd.Timestamp(0))
    workflow = fitted(node(), log, partitions=1)
    with pytest.raises((TypeError, ValueError), match=message):
        lower(workflow)


def test_a_workflow_must_be_fitted() -> None:
    with pytest.raises(ValueError, match="workflow must be fitted; got one that is not"):
        lower(nvt.Workflow(["f32"] >> ops.Normalize()))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda writer, c, register: writer.emit("words", c, [writer.alias(c, "string")], {"buckets": 9}),
            "words of text must read a column as the request has it; got one that is filled or of lists",
        ),
        (
            lambda writer, c, register: writer.keys([writer.emit("constant", c, [], {"value": 1.0})]),
            r"keys of text.\d+ must be of a column as the request has it or of ids; got number",
        ),
    ],
)
def test_a_rule_that_reads_what_is_not_there_is_told(write: Any, message: str) -> None:
    class Own(ops.Operator):
        """Does nothing."""

    rule(Own)(lambda writer, op, columns, registers: {c: write(writer, c, registers[c]) for c in columns})
    try:
        with pytest.raises(TypeError, match=message):
            lower(fitted(["text"] >> Own(), LOG))
    finally:
        del RULES[Own]


def test_hashes_of_renamed_columns_and_of_ids_are_the_same() -> None:
    ids = ["i8", "flag"] >> categorify() >> ops.Rename(postfix=".1")
    node = (["text"] >> ops.Rename(postfix=".2") >> HashedIds("one", 99)) + (ids >> HashedIds("two", 99))
    workflow, plan = compiled(node, LOG)
    check_equal(workflow, plan, LOG[LOG["text"].notna()].reset_index(drop=True))


def test_lists_are_padded_with_the_value_that_is_asked_for() -> None:
    _, plan = compiled(["words"] >> categorify() >> ops.ListSlice(-3, 2, pad=True, pad_value=7), LOG)
    assert plan.layout.categorical == (Slot("words", 8, width=3),)
    rows = pd.DataFrame({"words": [[], ["unseen"], ["unseen"] * 2, ["unseen"] * 4, ["unseen"] * 9]})
    assert by_plan(plan, rows)["words"].tolist() == [[7, 7, 7], [2, 7, 7], [2, 2, 7], [2, 7, 7], [7, 7, 7]]


def test_columns_may_be_called_as_registers_are() -> None:
    log = LOG[["f32", "f64"]].rename(columns={"f32": "a", "f64": "a.2"}).fillna(0)
    workflow, plan = compiled(["a", "a.2"] >> ops.FillMedian() >> ops.Normalize(), log)
    check_equal(workflow, plan, log, atol=1e-6)


def test_a_workflow_that_was_saved_compiles_to_the_same_plan(tmp_path: Path) -> None:
    node = (["text", "i8"] >> categorify()) + (["i16"] >> ops.TargetEncoding("value", kfold=1, out_path=folder()))
    workflow, plan = compiled(node, LOG)
    workflow.save(str(tmp_path / "workflow"))
    assert lower(nvt.Workflow.load(str(tmp_path / "workflow"))).fingerprint == plan.fingerprint


def test_a_column_that_is_filled_twice_still_has_categories() -> None:
    node = ["f64", "text"] >> categorify()
    filled = ["f64"] >> ops.FillMissing(1) >> ops.FillMissing(2) >> categorify() >> ops.Rename(postfix="_filled")
    workflow, plan = compiled(node + filled, LOG)
    check_equal(workflow, plan, LOG)


def test_an_output_that_a_rule_forgets_is_named() -> None:
    class Forgotten(ops.Operator):
        """Has a rule that returns nothing."""

    rule(Forgotten)(lambda writer, op, columns, registers: {})
    try:
        with pytest.raises(TypeError, match="output f32 must be a column that its operator's rule returns; got none"):
            lower(fitted(["f32"] >> Forgotten(), LOG))
    finally:
        del RULES[Forgotten]


def test_an_operator_of_one_s_own_compiles_by_its_rule() -> None:
    text = (PROJECT / "docs" / "lowering.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    try:
        assert names["continuous"].tolist() == [[1.25], [0.5], [2.0]]
        check_equal(names["workflow"], names["plan"], names["log"])
    finally:
        del RULES[names["Halved"]]


def test_a_rule_can_look_values_up() -> None:
    class Length(ops.Operator):
        """The length of a text of the log, or 0."""

        def transform(self, col_selector: Any, df: Any) -> Any:
            return df[col_selector.names].applymap(lambda t: 0 if pd.isna(t) else len(t)).astype(np.float32)

        @property
        def output_dtype(self) -> Any:
            return np.float32

    @rule(Length)
    def _length(writer: Writer, op: Length, columns: list[str], registers: Registers) -> Registers:
        texts = sorted(set(LOG["text"].dropna()))
        lengths = np.array([len(text) for text in texts], np.float32)
        return {c: writer.statistic(c, [registers[c]], string_keys(texts), lengths, 0.0) for c in columns}

    try:
        workflow, plan = compiled(["text"] >> Length() >> ops.LogOp() >> ops.FillMissing(0.7), LOG.assign(text="abc"))
        check_equal(workflow, plan, LOG[LOG["text"].notna()].reset_index(drop=True))
        assert [step.op for step in plan.instructions] == ["string_keys", "statistic"]
    finally:
        del RULES[Length]


def fails(node: Any, frame: pd.DataFrame) -> dict[str, list[Any]]:
    """Return what a plan gives where NVTabular fails."""
    workflow, plan = compiled(node, LOG)
    with pytest.raises(Exception, match=r"."):
        by_workflow(workflow, frame)
    return {name: values.tolist() for name, values in by_plan(plan, frame).items()}


def test_what_nvtabular_fails_on_has_an_id() -> None:
    three = LOG[:3].reset_index(drop=True)
    assert fails(["text"] >> categorify(), three.assign(text=None))["text"] == [1, 1, 1]
    assert fails(["i8"] >> categorify(), three.assign(i8=[1, np.nan, -99]))["i8"][1:] == [1, 2]
    assert fails(["text"] >> categorify(), three[:0])["text"] == []
    mean = ops.JoinGroupby(cont_cols=["value"], stats=["count"], out_path=folder())
    assert fails(["i8"] >> mean, three.assign(i8=np.int8(99)))["i8_count"] == [0, 0, 0]


def test_an_unseen_key_has_no_number_whatever_its_type_is_reduced_to() -> None:
    statistics = ops.JoinGroupby(cont_cols=["i32"], stats=["sum"], out_path=folder())
    found = fails(["i8"] >> statistics >> ops.ReduceDtypeSize(), LOG[:2].assign(i8=np.int8(99)))
    assert np.isnan(found["i8_i32_sum"]).all()


def test_what_stands_for_a_null_is_the_value_that_is_listed_or_else_null() -> None:
    for empty, listed in (("", True), (None, False)):
        log = LOG.assign(text=LOG["text"].fillna(empty) if listed else LOG["text"])
        workflow, plan = compiled(["text", "i64"] >> categorify(), log)
        (row,) = [{"text": np.array([""], object), "i64": np.array([NULL_INT])}]
        text, number = plan.run(row, 1)[0][0]
        known = by_workflow(workflow, log[:9].assign(text=["", *["a"] * 8]))["text"][0]
        assert (text, number) == (known if listed else 1, 1)


def test_null_rows_are_found_by_their_place() -> None:
    workflow, plan = compiled(["text"] >> categorify(), LOG)
    frame = pd.DataFrame({"text": ["a", None, "b"]}, index=[0, 2, 1])
    found = by_plan(plan, frame)["text"].tolist()
    assert found[1] == 1
    assert found != by_workflow(workflow, frame)["text"].tolist()  # NVTabular puts the null's id by the row's label
    check_equal(workflow, plan, frame.reset_index(drop=True))


def test_small_integers_do_not_wrap_around() -> None:
    wide = LOG.assign(i8=np.where(np.arange(len(LOG)) % 2, 100, -50).astype(np.int16))
    _, plan = compiled(["i8"] >> ops.NormalizeMinMax(), wide)
    assert by_plan(plan, wide)["i8"][:2].tolist() == [0, 1]
    _, reduced = compiled(["i16"] >> ops.ReduceDtypeSize(), LOG)
    assert by_plan(reduced, LOG[:1].assign(i16=300))["i16"].tolist() == [300]


def test_one_value_alone_is_a_half_and_0_is_nothing() -> None:
    log = LOG.assign(f32=np.float32(2))
    workflow, plan = compiled(["f32"] >> ops.NormalizeMinMax(), log)
    frame = log[:4].assign(f32=np.float32([3, 0, np.inf, 3e38]))
    check_equal(workflow, plan, frame)
    np.testing.assert_array_equal(by_plan(plan, frame)["f32"], np.float32([0.5, np.nan, np.nan, 0]))
