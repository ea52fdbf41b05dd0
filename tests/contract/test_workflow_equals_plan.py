"""The plan gives what the fitted workflow gives: ids exactly, floats within 1e-6."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_eng.arrow_columns import plan_columns
from feature_eng.inputs import NULL_INT
from feature_eng.lowering import lower
from feature_eng.packing import pack
from feature_eng.plan import Plan
from feature_eng.plan_files import load_plan, save_plan
from feature_eng.schema import Schema
from feature_eng.schema_file import parse_schema
from feature_eng.workflow import FOLD_COLUMN, fit_workflow, serving_frame
from tests.contract.hand_written import examples

RAW = """
  - {name: user, role: user, kind: categorical, dtype: int64, min_count: 2}
  - {name: item, role: item, kind: categorical, dtype: string}
  - {name: price, role: item, kind: continuous}
  - {name: born, role: item, kind: timestamp}
  - {name: history, role: user, kind: categorical_list, dtype: int64, max_length: 3}
  - {name: tags, role: item, kind: categorical_list, dtype: string, max_length: 2, min_count: 2}
  - {name: title, role: item, kind: text, buckets: 64, max_length: 3}
"""
FEATURES = {
    "filled and clipped": "{name: rating, role: item, kind: continuous, transform: [{fill: 3}, {clip: [1, 4]}, log]}",
    "median and log": "{name: rating, role: item, kind: continuous, transform: [fill_median, log, normalize]}",
    "bucketized": "{name: rating, role: item, kind: continuous, transform: [{bucketize: [-1, 0, 0.7, 2.5]}]}",
    "clipped to an edge": (
        "{name: rating, role: item, kind: continuous, transform: [{clip: [0.3, 0.7]}, {bucketize: [0.3, 0.7]}]}"
    ),
    "hashed": "{name: f, kind: hashed, of: item, buckets: 9}",
    "crossed": "{name: f, kind: hashed, of: [user, item], buckets: 99}",
    "hour": "{name: f, kind: time_part, of: now, part: hour}",
    "weekday": "{name: f, kind: time_part, of: born, part: weekday}",
    "age": "{name: f, kind: time_part, of: [now, born], part: age_days, transform: [log, normalize]}",
    "target encoding": "{name: f, kind: target_encoding, of: item, target: click, smooth: 5}",
    "crossed encoding": "{name: f, kind: target_encoding, of: [user, item], target: click, smooth: 0}",
    "count": "{name: f, kind: group_statistic, of: item, statistic: count, transform: [log, normalize]}",
    "mean of a number": "{name: f, kind: group_statistic, of: user, statistic: mean, column: price}",
    "deviation of a number": "{name: f, kind: group_statistic, of: user, statistic: std, column: price}",
    "bucketized count": "{name: f, kind: group_statistic, of: user, statistic: count, transform: [{bucketize: [2]}]}",
}


def schema_of(*features: str) -> Schema:
    listed = "".join(f"  - {feature}\n" for feature in features)
    goals = "objectives:\n  - {name: click, kind: binary, label: click}\n"
    return parse_schema(f"name: shop\nuser: user\nitem: item\ntime: now\ncolumns:{RAW}{listed}{goals}")


def training_log(seed: int, rows: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    words = ["red", "Größe", "", "中文", "x y"]
    log = pd.DataFrame(
        {
            "user": rng.choice([NULL_INT, NULL_INT + 1, 2**63 - 1, 0, *range(20)], rows),
            "item": rng.choice(["", "a", "b", "ß", "\0", *map(str, range(9))], rows),
            "price": rng.lognormal(1, 2, rows).astype(np.float32),
            "rating": rng.normal(1, 3, rows).astype(np.float32),
            "born": rng.choice([NULL_INT, -(10**12), 0, 10**12, 10**12 + 1], rows),
            "now": rng.integers(-(10**12), 2 * 10**12, rows),
            "history": [rng.integers(-3, 9, rng.integers(0, 6)) for _ in range(rows)],
            "tags": [list(rng.choice(words, rng.integers(0, 5))) for _ in range(rows)],
            "title": [" ".join(rng.choice(words, rng.integers(0, 6))) for _ in range(rows)],
            "click": rng.integers(0, 2, rows).astype(np.float32),
            FOLD_COLUMN: rng.integers(0, 5, rows).astype(np.int8),
        }
    )
    log.loc[::7, "price"] = np.nan
    log.loc[::5, "rating"] = np.nan
    return log


def compiled(schema: Schema, log: pd.DataFrame, folder: Path) -> tuple[Any, Plan]:
    parts = folder / "log"
    parts.mkdir()
    for index in range(2):
        log[index::2].to_parquet(parts / f"part-{index:05d}.parquet", index=False)
    workflow = fit_workflow(schema, parts)
    save_plan(lower(workflow, schema), folder / "plan")
    return workflow, load_plan(folder / "plan")


def check_equal(workflow: Any, plan: Plan, schema: Schema, rows: pd.DataFrame) -> None:
    frame = rows[[given.name for given in schema.inputs]].reset_index(drop=True)
    by_workflow = pack(workflow.transform(serving_frame(schema, frame.copy())), plan.layout)
    by_plan = plan.run(plan_columns(pa.Table.from_pandas(frame, preserve_index=False), plan.inputs), len(frame))
    np.testing.assert_array_equal(by_plan[0], by_workflow[0])
    np.testing.assert_allclose(by_plan[1], by_workflow[1], rtol=1e-6, atol=1e-6)
    assert np.isfinite(by_plan[1]).all()


@pytest.mark.parametrize("kind", FEATURES)
def test_every_kind_of_feature_is_compiled_to_the_same_numbers(kind: str, tmp_path: Path) -> None:
    schema = schema_of(FEATURES[kind])
    workflow, plan = compiled(schema, training_log(0), tmp_path)
    unseen = training_log(1).assign(user=lambda log: log["user"] + (log["user"] != NULL_INT), item="never seen")
    for rows in (training_log(0), unseen[:100], unseen[:1]):
        check_equal(workflow, plan, schema, rows)


INTS = st.one_of(st.sampled_from([NULL_INT, NULL_INT + 1, -1, 0, 2**63 - 1]), st.integers(-5, 30))
EDGES = [0.7, 0.3, -0.0, 0.0, 3.4e38, -3.4e38, 1e-45]
FLOATS = st.one_of(st.floats(width=32, allow_infinity=False), st.sampled_from(np.float32(EDGES).tolist()))
TEXTS = st.one_of(st.sampled_from(["", "a", "b", "red red", "\0", "a\0", "İ\u2028ſ"]), st.text(max_size=12))
MOMENTS = st.one_of(st.just(NULL_INT), st.integers(-(10**13), 10**13))
DTYPES = {"price": np.float32, "rating": np.float32, "user": np.int64, "now": np.int64, "born": np.int64}
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "user": INTS,
            "item": TEXTS,
            "price": FLOATS,
            "rating": FLOATS,
            "born": MOMENTS,
            "now": MOMENTS,
            "history": st.lists(INTS, max_size=6),
            "tags": st.lists(TEXTS, max_size=5),
            "title": TEXTS,
        }
    ),
    min_size=1,
    max_size=20,
)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Plan, Schema]:
    named = [feature.replace("name: f,", f"name: f{i},") for i, feature in enumerate(FEATURES.values())]
    schema = schema_of(*(feature for feature in named if "name: rating" not in feature), FEATURES["median and log"])
    return *compiled(schema, training_log(0), tmp_path_factory.mktemp("everything")), schema


@examples(40)
@given(rows=ROWS)
def test_whatever_the_rows_hold_workflow_and_plan_agree(rows: list[dict[str, Any]], everything: Any) -> None:
    workflow, plan, schema = everything
    check_equal(workflow, plan, schema, pd.DataFrame(rows).astype(DTYPES))


EDGE_STEP, CLIP_STEP = {"bucketize": [0.1, 0.7]}, {"clip": [0.3, 5]}
FILLS = st.sampled_from([[], ["fill_median"], [{"fill": 0.7}]])
CHAINS = st.sampled_from(
    [[], ["normalize"], ["log"], ["log", "normalize"], [CLIP_STEP], [EDGE_STEP], [CLIP_STEP, "log", EDGE_STEP]]
)
KEYS = st.lists(st.sampled_from(["user", "item"]), min_size=1, max_size=2, unique=True)
MOMENT_PAIRS = st.permutations(["now", "born"])


def column(kind: str, **fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Return columns of a kind, whose fields are fixed or drawn."""
    drawn = {n: f if isinstance(f, st.SearchStrategy) else st.just(f) for n, f in fields.items()}
    return st.fixed_dictionaries({"kind": st.just(kind), **drawn})


COUNTS, LENGTHS, SERVED = st.integers(1, 4), st.integers(2, 5), st.booleans()
RAW_COLUMNS = st.tuples(
    column("categorical", name="user", role="user", dtype="int64", min_count=COUNTS, feature=SERVED),
    column("categorical", name="item", role="item", dtype="string", min_count=COUNTS),
    column("continuous", name="price", role="item", feature=SERVED, transform=st.builds(list.__add__, FILLS, CHAINS)),
    column("continuous", name="rating", role="item", feature=SERVED, transform=CHAINS),
    column("timestamp", name="born", role="item"),
    column("categorical_list", name="history", role="user", dtype="int64", max_length=LENGTHS, min_count=COUNTS),
    column("categorical_list", name="tags", role="item", dtype="string", max_length=LENGTHS, feature=SERVED),
    column("text", name="title", role="item", buckets=st.integers(2, 99), max_length=LENGTHS, feature=SERVED),
)
DERIVED_COLUMN = st.one_of(
    column("hashed", of=KEYS, buckets=st.integers(2, 2**30)),
    column("target_encoding", of=KEYS, target="click", smooth=st.sampled_from([0, 0.5, 20]), transform=CHAINS),
    column("group_statistic", of=KEYS, statistic="count", transform=CHAINS),
    column("group_statistic", of=KEYS, statistic=st.sampled_from(["mean", "std", "min", "max"]), column="price"),
    column("time_part", of=st.sampled_from(["now", "born"]), part=st.sampled_from(["hour", "weekday"])),
    column("time_part", of=MOMENT_PAIRS, part="age_days", transform=st.builds(list.__add__, FILLS, CHAINS)),
)


STEEP = {"kind": "target_encoding", "of": ["user"], "target": "click", "smooth": 20, "transform": ["log", "normalize"]}


def test_a_logarithm_that_is_normalized_keeps_its_last_bit(tmp_path: Path) -> None:
    schema = schema_of(json.dumps({"name": "f", **STEEP}))
    log = training_log(282, 60)
    workflow, plan = compiled(schema, log, tmp_path)
    frame = log[[given.name for given in schema.inputs]]
    expected = pack(workflow.transform(serving_frame(schema, frame.copy())), plan.layout)[1]
    given = plan_columns(pa.Table.from_pandas(frame, preserve_index=False), plan.inputs)
    np.testing.assert_array_equal(plan.run(given, len(frame))[1], expected)


@examples(8)
@given(RAW_COLUMNS, st.lists(DERIVED_COLUMN, max_size=5), st.integers(0, 999), st.sampled_from([1, 2, 60]), ROWS)
def test_whatever_the_schema_and_the_log_hold_workflow_and_plan_agree(
    raw: tuple[Any, ...], derived: list[Any], seed: int, log_rows: int, rows: list[Any]
) -> None:
    named = [{"name": f"f{index}", **feature} for index, feature in enumerate(derived)]
    goals = [{"name": "click", "kind": "binary", "label": "click"}]
    schema = parse_schema(json.dumps({"name": "s", "time": "now", "columns": [*raw, *named], "objectives": goals}))
    with TemporaryDirectory() as folder:
        log = training_log(seed, log_rows)
        workflow, plan = compiled(schema, log, Path(folder))
        for given_rows in (log, pd.DataFrame(rows).astype(DTYPES)):
            check_equal(workflow, plan, schema, given_rows)


def test_infinity_counts_as_missing_in_a_plan(everything: Any) -> None:
    _, plan, schema = everything
    rows = training_log(0)[:2]
    columns = {name: pa.array(rows[name]) for name in rows.columns}
    for missing in (np.inf, -np.inf):
        spoiled = columns | {"price": pa.array(np.full(2, missing, np.float32))}
        nulled = columns | {"price": pa.array(np.full(2, np.nan, np.float32))}
        packed = [plan.run(plan_columns(given, schema.inputs), 2) for given in (spoiled, nulled)]
        for one, other in zip(*packed, strict=True):
            np.testing.assert_array_equal(one, other)
