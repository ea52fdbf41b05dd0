"""Drafted schemas: the right guesses on logs whose meaning is known, and never one that does not parse."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_eng.drafting import draft_schema
from feature_eng.log_profile import constancy, profile_log, separation
from feature_eng.logs import check_log
from feature_eng.schema import Schema
from feature_eng.schema_file import parse_schema

ROWS = 4000


def shop_log() -> dict:
    draw = np.random.default_rng(0)
    request, user, item = np.arange(ROWS) // 10, np.arange(ROWS) // 40, draw.integers(0, 150, ROWS)
    click = draw.random(ROWS) < 0.3
    bought = click & (draw.random(ROWS) < 0.4)
    return {
        "request_id": request,
        "user_id": user,
        "item_id": [f"i{number}" for number in item],
        "timestamp": 1_767_225_600_000 + 60_000 * request,
        "age": 20 + user % 50,
        "device": [("ios", "web", "tv")[number] for number in (request * 7) % 3],
        "title": [f"fine {number} thing of {number % 7}" for number in item],
        "tags": [f"t{number % 3}|t{number % 5}" for number in item],
        "price": np.exp(item / 15.0),
        "position": np.arange(ROWS) % 10,
        "listed_at": 1_600_000_000_000 + 86_400_000 * item,
        "click": click.astype(int),
        "purchase": bought.astype(int),
        "dislike": (draw.random(ROWS) < 0.02).astype(int),
        "order_value": np.where(bought, draw.random(ROWS) * 50, 0.0),
        "receipt_length": bought * draw.random(ROWS),
        "true_click": draw.random(ROWS),
        "page_stay_ms": draw.random(ROWS),
        "constant": np.ones(ROWS),
    }


@pytest.fixture(scope="module")
def draft(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("draft") / "shop log.parquet"
    pq.write_table(pa.table(shop_log()), path)
    return draft_schema(path)


@pytest.fixture(scope="module")
def schema(draft: str) -> Schema:
    return parse_schema(draft)


def test_a_draft_finds_the_keys(schema: Schema) -> None:
    assert (schema.name, schema.request, schema.user, schema.item, schema.time) == (
        "shop_log",
        "request_id",
        "user_id",
        "item_id",
        "timestamp",
    )


def test_a_draft_finds_roles_and_kinds(schema: Schema) -> None:
    found = {column.name: (column.role, column.kind) for column in schema.columns}
    assert found == {
        "user_id": ("user", "categorical"),
        "item_id": ("item", "categorical"),
        "timestamp": ("context", "timestamp"),
        "age": ("user", "continuous"),
        "device": ("context", "categorical"),
        "title": ("item", "text"),
        "tags": ("item", "categorical_list"),
        "price": ("item", "continuous"),
        "position": ("item", "categorical"),
        "listed_at": ("item", "timestamp"),
        "time_hour": (None, "time_part"),
        "time_weekday": (None, "time_part"),
    }


def test_a_draft_takes_the_logarithm_of_long_tails(schema: Schema) -> None:
    steps = {
        column.name: [step.op for step in column.transform] for column in schema.columns if column.kind == "continuous"
    }
    assert steps == {"age": ["normalize"], "price": ["log", "normalize"]}


def test_a_draft_chains_objectives_by_what_the_log_implies(schema: Schema) -> None:
    assert [(o.name, o.kind, o.given) for o in schema.objectives] == [
        ("click", "binary", None),
        ("purchase", "binary", "click"),
        ("order_value", "value", "purchase"),
    ]


def test_a_draft_leaves_out_leaks_and_says_why(draft: str) -> None:
    assert "# review: left out receipt_length, looks like a leak: where it is not 0, click is 1" in draft
    assert "# review: left out dislike, a negative signal: as an objective it needs a weight below 0" in draft
    assert "# review: left out constant, one value only" in draft
    assert "# review: left out page_stay_ms, looks like a leak: named like something that follows" in draft
    assert "true_click" not in draft


def test_every_guess_is_marked_for_review(draft: str) -> None:
    guesses = [line for line in draft.splitlines() if ":" in line and not line.endswith(":") and line[0] != "#"]
    assert [line for line in guesses if "# review: " not in line] == ["name: shop_log"]


def test_the_log_passes_the_checks_of_its_draft(tmp_path, schema: Schema) -> None:
    pq.write_table(pa.table(shop_log()), tmp_path / "log.parquet")
    assert {check.check for check in check_log(tmp_path / "log.parquet", schema).checks} <= {"duplicates"}


def test_csv_and_parquet_give_the_same_draft(tmp_path, draft: str) -> None:
    pa.table(shop_log()).to_pandas().to_csv(tmp_path / "shop log.csv", index=False)
    assert parse_schema(draft_schema(tmp_path / "shop log.csv")) == parse_schema(draft)


def test_names_that_a_schema_cannot_hold_are_left_out(tmp_path) -> None:
    pq.write_table(pa.table(shop_log() | {"list price": np.arange(ROWS)}), tmp_path / "1.parquet")
    draft = draft_schema(tmp_path)
    assert parse_schema(draft).name == "shop"
    assert "# review: left out list price, rename it: letters, digits and _, a letter first" in draft


def test_names_that_yaml_takes_for_truth_values_are_quoted(tmp_path) -> None:
    log = shop_log()
    pq.write_table(pa.table(log | {"on": log["device"]}), tmp_path / "no.parquet")
    schema = parse_schema(draft_schema(tmp_path))
    assert schema.name == "no"
    assert "on" in {column.name for column in schema.columns}


def test_ids_as_large_as_moments_are_ids(tmp_path) -> None:
    log = shop_log()
    log["item_id"] = 1_600_000_000 + np.random.default_rng(0).integers(0, 150, ROWS)
    pq.write_table(pa.table(log), tmp_path / "log.parquet")
    assert parse_schema(draft_schema(tmp_path)).item == "item_id"


def test_equal_labels_are_proposed_once(tmp_path) -> None:
    log = shop_log()
    pq.write_table(pa.table(log | {"is_click": log["click"]}), tmp_path / "log.parquet")
    assert "# review: left out is_click, the same as click" in draft_schema(tmp_path)


def test_a_column_that_tells_a_label_alone_is_a_leak(tmp_path) -> None:
    log = shop_log()
    log["echo"] = log["click"] + np.random.default_rng(1).normal(0, 0.3, ROWS)
    pq.write_table(pa.table(log), tmp_path / "log.parquet")
    assert "# review: left out echo, looks like a leak: it tells click alone, AUC 0.9" in draft_schema(tmp_path)


def test_a_log_without_a_label_is_refused(tmp_path) -> None:
    pq.write_table(pa.table({"item_id": range(9), "price": np.arange(9.0)}), tmp_path / "log.parquet")
    with pytest.raises(ValueError, match="log must have a 0/1 column to be a label; got item_id, price"):
        draft_schema(tmp_path)


def test_a_log_without_a_feature_is_refused(tmp_path) -> None:
    pq.write_table(pa.table({"click": [0, 1] * 9, "constant": [1] * 18}), tmp_path / "log.parquet")
    with pytest.raises(ValueError, match="log must have at least one feature column; got click, constant"):
        draft_schema(tmp_path)


def test_a_log_without_rows_is_refused(tmp_path) -> None:
    pq.write_table(pa.table({"click": pa.array([], pa.int64())}), tmp_path / "log.parquet")
    with pytest.raises(ValueError, match=r"at least one row to draft a schema from; got none in log\.parquet"):
        draft_schema(tmp_path)


def test_constancy_is_beyond_what_chance_explains() -> None:
    group = np.repeat(np.arange(100), 5)
    draw = np.random.default_rng(0)
    assert constancy(group, group % 3) == 1
    assert abs(constancy(group, draw.integers(0, 3, 500))) < 0.05
    assert abs(constancy(group, (draw.random(500) < 0.002).astype(int))) < 0.5
    assert np.isnan(constancy(np.arange(500), group))


def test_separation_is_the_auc(tmp_path) -> None:
    label = np.array([0, 0, 1, 1] * 20)
    pq.write_table(pa.table({"x": [4, 3, 2, 3] * 20, "y": ["a", "b", "b", "c"] * 20}), tmp_path / "log.parquet")
    x, y = profile_log(tmp_path / "log.parquet")
    assert separation(x, label) == pytest.approx(0.875)
    assert separation(y, label) == pytest.approx(0.875)


DATA = Path(os.environ.get("STEELYARD_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.skipif(not (DATA / "kuairand_pure").is_dir(), reason="needs kuairand_pure in $STEELYARD_DATA")
def test_a_draft_of_kuairand_finds_its_funnel_and_no_leak() -> None:
    schema = parse_schema(draft_schema(DATA / "kuairand_pure" / "val.parquet"))
    assert (schema.user, schema.item, schema.time) == ("user_id", "video_id", "time_ms")
    chained = {objective.name: objective.given for objective in schema.objectives}
    assert chained["long_view"] == "is_click"
    assert "play_time_ms" in chained
    leaks = {"watch_ratio", "finish", "like", "long_watch", "is_positive", "comment_stay_time"}
    leaks |= {"profile_stay_time", "is_profile_enter"}
    assert not leaks & {column.name for column in schema.columns}


@pytest.mark.skipif(not (DATA / "online_shoppers").is_dir(), reason="needs online_shoppers in $STEELYARD_DATA")
def test_a_draft_of_online_shoppers_leaves_out_page_values() -> None:
    draft = draft_schema(DATA / "online_shoppers")
    assert [objective.name for objective in parse_schema(draft).objectives] == ["Revenue"]
    assert "# review: left out PageValues, looks like a leak" in draft
