"""A small plan with every operation, list inputs, dense tables, shared registers and a register packed twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_eng.inputs import NULL_INT, NULL_STRING, Input
from feature_eng.keys import combined_keys, int_keys, string_keys
from feature_eng.layout import Layout, Slot
from feature_eng.plan import Plan
from feature_eng.program import Instruction
from feature_eng.tables import dense_table, hash_table

WORDS = [f"word{i}" for i in range(30)]
ITEMS = np.arange(1, 201, dtype=np.int64) * 7**15
BRANDS = np.arange(100, 160, dtype=np.int64)


def _bits(values: Sequence[float]) -> NDArray[np.int32]:
    return np.array(values, dtype=np.float32).view(np.int32)


def _arrays() -> dict[str, NDArray[Any]]:
    unseen, default = np.int32(2), np.float32(0.25).view(np.int32)
    words, items = string_keys([NULL_STRING, *WORDS]), int_keys(np.array([NULL_INT, *ITEMS]))
    ids = np.arange(3, 3 + len(items), dtype=np.int32)
    ids[:2] = 1, 4
    pairs = combined_keys(words[1:], items[1 : len(words)])
    dense = dense_table(BRANDS, np.arange(4, 4 + len(BRANDS), dtype=np.int32), unseen)
    rates = dense_table(BRANDS, _bits(np.linspace(0, 1, len(BRANDS)).tolist()), default)
    if dense is None or rates is None:
        raise ValueError("brands must fit a dense table; got too many gaps")
    return {
        "words_table": hash_table(words, ids[: len(words)], unseen),
        "items_table": hash_table(items, ids, unseen),
        "pairs_table": hash_table(pairs, _bits(np.linspace(-1, 1, len(pairs)).tolist()), default),
        "brands_table": dense[0],
        "rates_table": rates[0],
        "price_edges": np.array([1.0, 10.0, 100.0]),
    }


def _table(name: str) -> dict[str, str]:
    return {"table": f"{name}_table"}


def every_operation_plan(fingerprint: str = "abc") -> Plan:
    """Return the plan; `columns_of` gives it rows."""
    chain = (
        ("finite",),
        ("fill", 2.5),
        ("clip", 0.5, None),
        ("log", 1.0),
        ("normalize", 1.5, 0.7),
        ("scale", 0.1, 3.0),
    )
    low = int(BRANDS[0])
    return Plan(
        fingerprint=fingerprint,
        inputs=(
            Input("user", "user", "string"),
            Input("item", "item", "int64"),
            Input("brand", "item", "int64"),
            Input("price", "item", "float32"),
            Input("weight", "item", "float64"),
            Input("now", "context", "int64"),
            Input("born", "item", "int64"),
            Input("history", "user", "int64", is_list=True),
            Input("tags", "item", "string", is_list=True),
            Input("title", "item", "string"),
        ),
        instructions=(
            Instruction("string_keys", ("user",), "user.key"),
            Instruction("int_keys", ("item",), "item.key"),
            Instruction("combined_keys", ("user.key", "item.key"), "pair.key"),
            Instruction("vocabulary", ("user.key",), "user.id", arrays=_table("words")),
            Instruction("vocabulary", ("item.key",), "item.id", arrays=_table("items")),
            Instruction("buckets", ("pair.key",), "pair.id", {"buckets": 50}),
            Instruction("statistic", ("pair.key",), "pair.rate", {"default": 0.25}, _table("pairs")),
            Instruction("dense_vocabulary", ("brand",), "brand.id", {"low": low, "null": 1}, {"table": "brands_table"}),
            Instruction(
                "dense_statistic",
                ("brand",),
                "brand.rate",
                {"low": low, "default": 0.25, "null": 0.5},
                {"table": "rates_table"},
            ),
            Instruction("list_vocabulary", ("history",), "history.ids", {"keep_last": 1}, _table("items")),
            Instruction("list_vocabulary", ("tags",), "tags.ids", {"keep_last": 0}, _table("words")),
            Instruction("words", ("title",), "title.ids", {"buckets": 40}),
            Instruction("hour", ("now",), "now.hour"),
            Instruction("weekday", ("now",), "now.weekday"),
            Instruction("age_days", ("now", "born"), "age.days"),
            Instruction("numbers", ("age.days",), "age.log", {"double": 1}, steps=(("fill", 0.0), ("log", 1.0))),
            Instruction("numbers", ("price",), "price.number", {"double": 0}, steps=chain),
            Instruction("numbers", ("weight",), "weight.number", {"double": 1}, steps=(("fill", 0.0),)),
            Instruction("bucketize", ("price",), "price.bin", {"first": 0}, {"edges": "price_edges"}),
            Instruction("bucketize", ("brand.rate",), "rate.bin", {"first": 1}, {"edges": "price_edges"}),
            Instruction("constant", (), "one", {"value": 1.0}),
            Instruction("float_keys", ("weight",), "weight.key"),
            Instruction("buckets", ("weight.key",), "weight.id", {"buckets": 50}),
            Instruction("int_keys", ("item.id",), "item.id.key"),
            Instruction("combined_keys", ("item.id.key", "weight.key"), "ids.key"),
            Instruction("vocabulary", ("ids.key",), "ids.id", {"default": 33}, _table("words")),
            Instruction("statistic", ("ids.key",), "ids.rate", {"default": None}, _table("pairs")),
            Instruction("is_null", ("user",), "user.null"),
            Instruction("is_null", ("weight",), "weight.null"),
            Instruction("list_slice", ("tags",), "tags.slice", {"start": 1, "end": -1, "padding": 33}, _table("words")),
            Instruction("difference_lag", ("born", "user", "price", "item"), "born.lag", {"shift": 1}),
            Instruction(
                "bucketize",
                ("weight",),
                "weight.bin",
                {"first": 0},
                {"edges": "price_edges"},
                (("null",), ("over_twice",)),
            ),
        ),
        layout=Layout(
            (
                Slot("user", 34),
                Slot("item", 204, embedding=16),
                Slot("pair", 51),
                Slot("brand", 64),
                Slot("history", 204, width=4),
                Slot("tags", 34, width=3),
                Slot("history_again", 210, width=4),
                Slot("title", 41, width=5),
                Slot("hour", 26),
                Slot("weekday", 9),
                Slot("bin", 5),
                Slot("rate_bin", 5),
                Slot("user_again", 50),
                Slot("weight_id", 51),
                Slot("ids", 34),
                Slot("user_null", 2),
                Slot("weight_null", 2),
                Slot("tags_slice", 34, width=2),
                Slot("weight_bin", 4),
            ),
            ("pair_rate", "brand_rate", "age", "price", "weight", "price_again", "one", "ids_rate", "lag"),
        ),
        categorical=(
            "user.id",
            "item.id",
            "pair.id",
            "brand.id",
            "history.ids",
            "tags.ids",
            "history.ids",
            "title.ids",
            "now.hour",
            "now.weekday",
            "price.bin",
            "rate.bin",
            "user.id",
            "weight.id",
            "ids.id",
            "user.null",
            "weight.null",
            "tags.slice",
            "weight.bin",
        ),
        continuous=(
            "pair.rate",
            "brand.rate",
            "age.log",
            "price.number",
            "weight.number",
            "price.number",
            "one",
            "ids.rate",
            "born.lag",
        ),
        arrays=_arrays(),
    )


def columns_of(inputs: Sequence[Input], rows: int, rng: np.random.Generator) -> dict[str, Any]:
    """Return a request's columns: values that tables list and others, nulls, empty and long lists."""
    columns: dict[str, Any] = {}
    for given in inputs:
        count = 1 if given.role != "item" else rows
        lengths = rng.integers(0, 9, count)
        total = int(lengths.sum()) if given.is_list else count
        values: Any
        if given.dtype == "string":
            values = rng.choice([*WORDS, NULL_STRING, "Other Words that\tgo ON and on", "Ünseen"], total)
        elif given.dtype == "int64":
            values = rng.choice(np.concatenate([ITEMS, BRANDS, [NULL_INT, 2**63 - 1, -1, 0, 10**12]]), total)
        else:
            values = rng.choice([0.0, -5.0, 3.5, 1e30, np.nan, np.inf], total).astype(given.dtype)
        columns[given.tensors[0]] = values
        if given.is_list:
            columns[given.tensors[1]] = np.concatenate([[0], np.cumsum(lengths)])
    return columns
