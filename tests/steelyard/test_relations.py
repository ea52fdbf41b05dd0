"""What a schema says of features beside each other reaches the ranker, and a history has its target's ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from feature_eng.layout import NO_NUMBER, Layout, Slot
from feature_eng.plan_files import load_plan
from feature_eng.schema import SchemaError, _without_new_defaults
from feature_eng.schema_file import parse_schema
from models.ranker import load_ranker
from steelyard.pipeline import FitOptions, fit, train_prepared
from steelyard.relations import relations

SCHEMA = """
name: shop
time: timestamp
columns:
  - {name: item_id, role: item, kind: categorical, min_count: 2}
  - {name: viewed, role: user, kind: categorical_list, max_length: 3, history_of: item_id}
  - {name: hour, kind: time_part, part: hour, of: timestamp}
  - {name: age, role: user, kind: continuous}
objectives:
  - {name: click, kind: binary, label: click}
"""


def test_a_history_has_the_ids_the_vectors_and_the_target_of_its_column(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    items = rng.choice(["a", "a", "a", "b", "b", "c"], 200)
    items[0] = "d"  # once: rare
    log = pd.DataFrame(
        {
            "item_id": items,
            "viewed": [["c", "zzz", "a"], ["d", "a", "b", "c"]] * 100,
            "timestamp": pd.date_range("2026-01-01", periods=200, freq="h"),
            "age": rng.normal(size=200),
            "click": rng.integers(0, 2, 200),
        }
    )
    log.to_parquet(tmp_path / "log.parquet")
    training = {"epochs": 1, "loggers": (), "progress": False, "ranker": {"histories": "attention"}}
    schema = parse_schema(SCHEMA)
    fit(str(tmp_path / "log.parquet"), schema, tmp_path / "bundle", FitOptions(training=training))
    plan = load_plan(tmp_path / "bundle" / "plan")
    ids = dict(zip(("a", "b", "c"), (4, 5, 6), strict=True))  # by falling frequency
    told = {
        "item_id": np.array(["a", "b", "c"], object),
        "timestamp": np.zeros(3, np.int64),
        "age": np.zeros(3, np.float32),
    }
    lists = {"viewed__values": np.array(["c", "zzz", "a", "b"], object), "viewed__offsets": np.array([0, 3, 3, 4])}
    categorical, _ = plan.run(told | lists, 3)
    assert categorical[:, 0].tolist() == [4, 5, 6]
    assert categorical[:, 1:4].tolist() == [[ids["c"], 2, ids["a"]], [0, 0, 0], [ids["b"], 0, 0]]
    options = json.loads((tmp_path / "bundle" / "ranker" / "ranker.json").read_text())
    assert options["history_targets"] == options["slot_tables"] == [-1, 0, -1]
    assert options["slot_sides"] == ["item", "user", "context"]
    assert options["continuous_sides"] == ["user"]
    ranker = load_ranker(tmp_path / "bundle" / "ranker")
    assert ranker.histories is not None
    assert ranker.embedding.tables[0].weight.shape[0] == 7 + plan.layout.categorical[2].cardinality


LIST = "{name: viewed, role: user, kind: categorical_list, "


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ("history_of: item_ids}", r"history_of.* must name a declared column \(did you mean item_id\?\); got item_ids"),
        ("history_of: age}", "history_of.* must name a categorical feature; got age"),
        ("history_of: item_id, min_count: 2}", "min_count.* must be left out for a history, .* that of item_id; got 2"),
        ("history_of: item_id, embedding: 4}", "embedding.* must be None, as that of item_id; got 4"),
    ],
)
def test_a_history_that_cannot_have_its_columns_vocabulary_is_refused(told: str, error: str) -> None:
    lines = [f"  - {LIST}{told}" if "viewed" in line else line for line in SCHEMA.splitlines()]
    with pytest.raises(SchemaError, match=error):
        parse_schema("\n".join(lines))


def test_a_history_must_have_the_dtype_of_its_column() -> None:
    text = SCHEMA.replace("min_count: 2", "dtype: int64").replace("max_length: 3", "dtype: string")
    with pytest.raises(SchemaError, match=r"dtype.* must be int64, as that of item_id; got string"):
        parse_schema(text)


def test_features_without_a_history_have_sides_alone() -> None:
    schema = parse_schema(SCHEMA.replace(", history_of: item_id", ""))
    layout = Layout((Slot("hour", 26), Slot("item_id", 9), Slot("viewed", 9, 3)), ("age",))
    sides = {"slot_sides": ["context", "item", "user"], "continuous_sides": ["user"]}
    assert relations(schema, layout) == sides
    assert relations(schema, Layout(layout.categorical, (NO_NUMBER,)))["continuous_sides"] == ["context"]
    both = {"history_targets": [-1, -1, 1], "slot_tables": [-1, -1, 1]}
    assert relations(parse_schema(SCHEMA), layout) == sides | both


def test_a_schema_without_a_history_keeps_its_fingerprint() -> None:
    column = {"name": "viewed", "role": "user", "kind": "categorical_list", "history_of": None}
    told = _without_new_defaults({"columns": [column], "objectives": []})
    assert told["columns"] == [{"name": "viewed", "role": "user", "kind": "categorical_list"}]


def test_only_columns_with_a_vocabulary_are_shown_as_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr("steelyard.pipeline.train", lambda *paths, **given: told.update(given))
    train_prepared(parse_schema(SCHEMA), Layout((), ()), Path("work"), {}, out=Path("out"))
    assert told["listed"] == ["item_id", "viewed"]
