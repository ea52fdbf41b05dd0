from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import nvtabular as nvt
import pandas as pd
import pytest
from nvtabular import ops

from feature_eng.layout import NO_NUMBER, Layout, Slot
from feature_eng.lowering import lower
from feature_eng.operators import Normalize
from feature_eng.plan import Plan
from feature_eng.schema import Schema
from feature_eng.schema_file import parse_schema
from feature_eng.workflow import FOLD_COLUMN, fit_workflow

ITEM = "{name: item, role: item, kind: categorical, dtype: string, embedding: 8}"
USER = "{name: user, role: user, kind: categorical, dtype: int64, min_count: 3}"
PRICE = "{name: price, role: item, kind: continuous}"
LOG = pd.DataFrame(
    {
        "user": [1, 1, 1, 2],
        "item": ["a", "b", "a", ""],
        "price": np.float32([1, 2, 3, np.nan]),
        "tags": [["x"], ["x", "y"], ["z"], ["x"]],
        "title": ["red", "blue", "red", ""],
        "now": [0, 1, 2, 3],
        "born": [0, 0, 0, 0],
        "click": np.float32([1, 0, 0, 1]),
        FOLD_COLUMN: np.int8([0, 1, 2, 3]),
    }
)


def schema_of(*columns: str) -> Schema:
    listed = "".join(f"  - {column}\n" for column in columns)
    return parse_schema(f"name: s\ncolumns:\n{listed}objectives:\n  - {{name: click, kind: binary, label: click}}\n")


def lowered(folder: Path, *columns: str) -> Plan:
    schema = schema_of(*columns)
    LOG.to_parquet(folder / "part-00000.parquet", index=False)
    return lower(fit_workflow(schema, folder), schema)


def test_every_kind_of_feature_has_its_place_in_the_schema_s_order(tmp_path: Path) -> None:
    plan = lowered(
        tmp_path,
        "{name: age, kind: time_part, of: [now, born], part: age_days}",
        "{name: title, role: item, kind: text, buckets: 50, max_length: 3, embedding: 4}",
        USER,
        ITEM,
        "{name: tags, role: item, kind: categorical_list, dtype: string, max_length: 2}",
        "{name: now, role: context, kind: timestamp}",
        "{name: born, role: item, kind: timestamp}",
        "{name: hour, kind: time_part, of: now, part: hour}",
        "{name: day, kind: time_part, of: now, part: weekday}",
        "{name: cross, kind: hashed, of: [user, item], buckets: 9, embedding: 2}",
        "{name: price, role: item, kind: continuous, transform: [{bucketize: [1, 2]}]}",
        "{name: ctr, kind: target_encoding, of: item, target: click}",
    )
    assert plan.layout == Layout(
        categorical=(
            Slot("title", 51, width=3, embedding=4),
            Slot("user", 5),  # four ids without a value, and user 1; user 2 is rare
            Slot("item", 6, embedding=8),
            Slot("tags", 7, width=2),
            Slot("hour", 26),
            Slot("day", 9),
            Slot("cross", 10, embedding=2),
            Slot("price", 4),
        ),
        continuous=("age", "ctr"),
    )
    assert plan.layout.categorical_width == 11
    assert Layout.from_json(plan.layout.to_json()) == plan.layout
    assert plan.fingerprint != lowered(tmp_path, ITEM).fingerprint


def test_every_id_stays_below_its_cardinality(tmp_path: Path) -> None:
    plan = lowered(tmp_path, ITEM, USER, "{name: price, role: item, kind: continuous, transform: [{bucketize: [1]}]}")
    columns: dict[str, Any] = {"item": ["new", "a", "b", ""], "user": [1, 2, 3, 4], "price": [-9.0, 1.0, 9.0, np.nan]}
    ids, zeros = plan.run(columns, 4)
    assert (ids.max(axis=0) < [slot.cardinality for slot in plan.layout.categorical]).all()
    assert plan.layout.continuous == (NO_NUMBER,)
    assert zeros.tolist() == [[0.0]] * 4


def test_a_number_may_be_called_zero(tmp_path: Path) -> None:
    LOG.rename(columns={"price": "zero"}).to_parquet(tmp_path / "part-00000.parquet", index=False)
    schema = schema_of("{name: zero, role: item, kind: continuous, transform: [{fill: 7}]}")
    _, numbers = lower(fit_workflow(schema, tmp_path), schema).run({"zero": [np.nan, 2.0]}, 2)
    assert numbers.tolist() == [[7.0], [2.0]]


def test_the_keys_of_a_column_are_computed_once(tmp_path: Path) -> None:
    statistic = "{{name: {0}, kind: group_statistic, of: [user, item], statistic: {0}, column: price}}"
    statistics = [statistic.format(name) for name in ("mean", "min", "max")]
    cross = "{name: cross, kind: hashed, of: [user, item], buckets: 9}"
    plan = lowered(tmp_path, USER, ITEM, PRICE, cross, *statistics)
    ops_used = Counter(instruction.op for instruction in plan.instructions)
    assert (ops_used["string_keys"], ops_used["int_keys"], ops_used["combined_keys"]) == (1, 1, 1)


@pytest.mark.parametrize("of", ["[user, item]", "[item, user]"])
def test_a_cross_keeps_the_order_of_its_columns(of: str, tmp_path: Path) -> None:
    plan = lowered(tmp_path, USER, ITEM, f"{{name: cross, kind: hashed, of: {of}, buckets: 9}}")
    combined = next(step for step in plan.instructions if step.op == "combined_keys")
    assert [name.split(".")[0] for name in combined.inputs] == of.strip("[]").split(", ")


def lowered_node(node: Any) -> list[Any]:
    workflow = nvt.Workflow(node)
    workflow.fit(nvt.Dataset(pd.DataFrame({"price": np.float32([1, 3])})))
    return [instruction.steps for instruction in lower(workflow, schema_of(PRICE)).instructions]


def test_a_bound_that_is_left_out_is_null() -> None:
    assert lowered_node(["price"] >> ops.Clip(min_value=2)) == [(("finite",), ("clip", 2.0, None))]
    assert lowered_node(["price"] >> ops.Clip(max_value=2)) == [(("finite",), ("clip", None, 2.0))]


def test_a_chain_of_arithmetic_is_one_instruction_with_the_fitted_numbers() -> None:
    chain = ["price"] >> ops.FillMissing(3) >> ops.LogOp() >> Normalize()
    (steps,) = lowered_node(chain)
    assert steps[:3] == (("finite",), ("fill", 3.0), ("log", 1.0))
    assert steps[3] == ("normalize", pytest.approx(np.log([2, 4]).mean()), pytest.approx(np.log([2, 4]).std(ddof=1)))


def test_an_operator_without_a_rule_is_named() -> None:
    message = r"operator UDF on price must be one of AddMetadata, .*WordIds, which have a rule"
    with pytest.raises(TypeError, match=message):
        lowered_node(["price"] >> ops.LambdaOp(lambda column: column + 1))
