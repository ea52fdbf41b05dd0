"""How users and items become tensors, by known answers; no server is needed."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pytest

from feature_eng.inputs import NULL_INT, Input
from triton_repo.served_ranker import ServedRanker

RANKER = ServedRanker(
    inputs=(
        Input("seen", "user", "int64"),
        Input("item_id", "item", "string"),
        Input("price", "item", "float32"),
        Input("stock", "item", "int64"),
        Input("tags", "item", "string", is_list=True),
    ),
    objectives=("click", "purchase"),
    item="item_id",
    weights=(1.0, 1.0),
    max_candidates=10,
)
ITEM = {"item_id": "a", "price": 1.5, "stock": 3, "tags": ["new", "sale"]}


def tensors(items: Any, seen: Any = 0) -> dict[str, list[Any]]:
    return {name: array.tolist() for name, (array, _) in RANKER.tensors({"seen": seen}, items, None).items()}


def test_each_column_becomes_the_tensor_of_its_dtype() -> None:
    made = RANKER.tensors({"seen": 7}, [ITEM], {"purchase": 2.0})
    assert {name: datatype for name, (_, datatype) in made.items()} == {
        "seen": "INT64",
        "item_id": "BYTES",
        "price": "FP32",
        "stock": "INT64",
        "tags__values": "BYTES",
        "tags__offsets": "INT64",
        "objective_weights": "FP32",
    }
    assert made["tags__values"][0].tolist() == [b"new", b"sale"]
    assert made["tags__offsets"][0].tolist() == [0, 2]
    assert made["objective_weights"][0].tolist() == [0.0, 2.0]


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2024, 1, 1, 0, 0, 0, 123_000),
        datetime(2024, 1, 1, 1, 0, 0, 123_000, timezone(timedelta(hours=1))),
        pd.Timestamp("2024-01-01 00:00:00.123"),
        np.datetime64("2024-01-01T00:00:00.123456789"),
    ],
)
def test_moments_are_milliseconds_in_utc(moment: Any) -> None:
    assert tensors([ITEM], seen=moment)["seen"] == [1_704_067_200_123]


def test_a_date_is_its_midnight() -> None:
    assert tensors([ITEM], seen=date(2024, 1, 1))["seen"] == [1_704_067_200_000]


def test_no_millisecond_is_lost_to_rounding() -> None:
    begin = datetime(1970, 1, 1, tzinfo=timezone.utc)
    given = np.random.default_rng(0).integers(0, 2_000_000_000_000, 2000).tolist()
    assert [tensors([ITEM], begin + timedelta(milliseconds=ms))["seen"][0] for ms in given] == given


@pytest.mark.parametrize("null", [None, float("nan"), np.float32("nan"), pd.NaT, np.datetime64("NaT")])
def test_nulls_of_any_kind_are_the_null_of_their_dtype(null: Any) -> None:
    made = tensors([{"item_id": null, "price": null, "stock": null, "tags": None}], seen=null)
    assert made["seen"] == made["stock"] == [NULL_INT]
    assert made["item_id"] == [b""]
    assert np.isnan(made["price"]).all()
    assert (made["tags__values"], made["tags__offsets"]) == ([], [0, 0])


def test_a_frame_with_missing_values_is_the_same_as_rows_with_none() -> None:
    frame = pd.DataFrame(
        {
            "item_id": pd.array(["a", None], dtype="string"),
            "price": pd.array([1.5, None], dtype="Float64"),
            "stock": pd.array([None, 2**60 + 1], dtype="Int64"),
            "tags": [["x"], float("nan")],
        }
    )
    made = tensors(frame)
    assert made["item_id"] == [b"a", b""]
    assert made["price"][0] == 1.5
    assert np.isnan(made["price"][1])
    assert made["stock"] == [NULL_INT, 2**60 + 1]
    assert (made["tags__values"], made["tags__offsets"]) == ([b"x"], [0, 1, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tags": "new"}, "tags must hold lists of string values; got 'new'"),
        ({"tags": 5}, "tags must hold lists of string values; got 5"),
        ({"stock": 1.5}, "stock must hold int64 values; got 1.5, which is no whole number"),
        ({"stock": 2**63}, "stock must hold int64 values; got"),
        ({"price": "cheap"}, "price must hold float32 values; got"),
        ({"item_id": "\ud800"}, "item_id must hold string values; got"),
    ],
)
def test_a_value_that_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tensors([ITEM | change])


def test_equal_scores_keep_the_order_given() -> None:
    items = [{"item_id": name} for name in "abcd"]
    predictions = np.arange(8, dtype=np.float32).reshape(4, 2)
    ranking = RANKER.ranking(items, np.array([1, 2, 1, 2], np.float32), predictions)
    assert [(r.item, r.index, r.score) for r in ranking] == [("b", 1, 2.0), ("d", 3, 2.0), ("a", 0, 1.0), ("c", 2, 1.0)]
    assert ranking[0].predictions == {"click": 2.0, "purchase": 3.0}
