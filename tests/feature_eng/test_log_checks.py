"""Each check with each of its policies, on logs of a few rows with known offences."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_eng.keys import int_keys
from feature_eng.log_checks import LogPolicies, refusal
from feature_eng.log_keys import array_keys, duplicate_rows, position_keys, row_keys
from feature_eng.logs import check_log, clean_log
from feature_eng.schema import SchemaError
from feature_eng.schema_file import parse_schema

SCHEMA = parse_schema("""
name: shop
request: request
user: user
item: item
time: time
columns:
  - {name: user, role: user, kind: categorical, dtype: int64}
  - {name: item, role: item, kind: categorical, dtype: int64}
  - {name: price, role: item, kind: continuous}
objectives:
  - {name: click, kind: binary, label: click}
  - {name: cart, kind: binary, label: cart, given: click}
  - {name: purchase, kind: binary, label: purchase, given: cart}
  - {name: revenue, kind: value, label: paid, given: purchase}
""")

ROWS = 6


def sound() -> dict:
    return {
        "request": [1, 1, 2, 2, 3, 3],
        "user": [7, 7, 8, 8, 7, 7],
        "item": [1, 2, 1, 2, 3, 4],
        "time": pd.date_range("2026-01-01", periods=ROWS, freq="s"),
        "price": [1.0, 2.0, 3.0, 4.0, 5.0, None],
        "click": [0, 1, 1, 1, 0, 0],
        "cart": [0, 0, 1, 1, 0, 0],
        "purchase": [0, 0, 0, 1, 0, 0],
        "paid": [0.0, 0.0, 0.0, 9.5, 0.0, 0.0],
    }


def log(tmp_path, **changed):
    path = tmp_path / "log.parquet"
    pd.DataFrame(sound() | changed).to_parquet(path)
    return path


def cleaned(tmp_path, path, **policies) -> pd.DataFrame:
    done = clean_log(path, SCHEMA, tmp_path / "out", policies=LogPolicies(**policies))
    return pq.read_table(done.folder).to_pandas()


def offences() -> dict:
    """Map each check to the columns that offend it, the offending column, the message, and what fill leaves there."""
    nan = float("nan")
    return {
        "dtypes": (
            {"user": ["7", "7", "x", "8", "7", "7"]},
            "user",
            r"user must hold values of its dtype; got 1 of 6 rows \(16\.667%\), such as 'x' in row 2 of log\.parquet; "
            r"dtypes: drop would drop them, dtypes: fill would write null",
            -(2**63),
        ),
        "timestamps": (
            {"time": ["2026-01-01", "2026-01-02", "soon", "2026-01-03", "2026-01-04", "2026-01-05"]},
            "time",
            r"time must hold moments that parse; got 1 of 6 .*such as 'soon' in row 2",
            -(2**63),
        ),
        "keys": (
            {"request": pd.array([1, 1, None, 2, 3, 3], "Int64")},
            "request",
            r"request must name each row's request; got 1 of 6 .*None in row 2 .*; keys: drop would drop them$",
            None,
        ),
        "missing_labels": (
            {"purchase": [0, 0, nan, 1, 0, 0]},
            "purchase",
            r"purchase must be finite in each row; got 1 of 6 rows",
            0,
        ),
        "labels": (
            {"cart": [0, 0, 2, 1, 0, 0]},
            "cart",
            r"cart must be 0 or 1; got 1 of 6 rows .*such as 2 in row 2 of log\.parquet; labels: drop would drop them$",
            None,
        ),
        "negatives": (
            {"paid": [0.0, 0.0, -1.0, 9.5, 0.0, 0.0]},
            "paid",
            r"paid must be at least 0; got 1 of 6 rows .*such as -1\.0 in row 2",
            0,
        ),
        "values": (
            {"paid": [0.0, 0.0, 3.0, 9.5, 0.0, 0.0]},
            "paid",
            r"paid must be 0 where its conversion is 0; got 1 of 6 rows .*such as 3\.0 in row 2",
            0,
        ),
        "conversions": (
            {"click": [0, 1, 0, 1, 0, 0]},
            "click",
            r"cart must be 0 where the label it is given is 0; got 1 of 6 rows .*such as 1 in row 2",
            1,
        ),
        "non_finite": (
            {"price": [1.0, 2.0, float("inf"), 4.0, 5.0, None]},
            "price",
            r"price must be finite or null; got 1 of 6 rows .*such as inf in row 2",
            nan,
        ),
        "duplicates": (
            {"item": [1, 2, 2, 2, 3, 4]},
            "item",
            r"request \+ item must be unique within a request; got 1 of 6 .*such as 2, 2 in row 3 of log\.parquet; "
            r"duplicates: drop would drop them$",
            None,
        ),
    }


CHECKS = list(LogPolicies.model_fields)


def test_every_check_is_tried() -> None:
    assert list(offences()) == CHECKS


def test_a_sound_log_passes_under_every_error_policy(tmp_path) -> None:
    policies = LogPolicies(**dict.fromkeys(CHECKS, "error"))
    done = clean_log(log(tmp_path), SCHEMA, tmp_path / "out", policies=policies)
    assert (done.report.checks, done.report.rows_kept) == ([], ROWS)


@pytest.mark.parametrize("check", CHECKS)
def test_error_stops_and_says_what_would_let_the_log_through(tmp_path, check: str) -> None:
    changed, _, message, _ = offences()[check]
    with pytest.raises(SchemaError, match=message):
        cleaned(tmp_path, log(tmp_path, **changed), **{check: "error"})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("check", CHECKS)
def test_drop_drops_and_counts_the_row(tmp_path, check: str) -> None:
    changed, *_ = offences()[check]
    path = log(tmp_path, **changed)
    rows = cleaned(tmp_path, path, **{check: "drop"})
    offending = 3 if check == "duplicates" else 2
    items = changed.get("item", sound()["item"])
    assert rows["item"].tolist() == items[:offending] + items[offending + 1 :]
    (found,) = check_log(path, SCHEMA, LogPolicies(**{check: "drop"})).checks
    assert (found.check, found.found, found.done) == (check, 1, "dropped")


@pytest.mark.parametrize("check", [check for check, offence in offences().items() if offence[3] is not None])
def test_fill_mends_the_row(tmp_path, check: str) -> None:
    changed, column, _, filled = offences()[check]
    rows = cleaned(tmp_path, log(tmp_path, **changed), **{check: "fill"})
    assert len(rows) == ROWS
    np.testing.assert_equal(rows[column].iloc[2], np.asarray(filled, rows[column].dtype))


@pytest.mark.parametrize("check", [check for check, offence in offences().items() if offence[3] is None])
def test_fill_is_refused_where_it_makes_no_sense(check: str) -> None:
    with pytest.raises(pydantic.ValidationError, match="Input should be 'error' or 'drop'"):
        LogPolicies(**{check: "fill"})


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="Extra inputs are not permitted"):
        LogPolicies(duplicate="drop")


def test_a_row_that_one_check_drops_is_no_matter_to_the_next(tmp_path) -> None:
    path = log(tmp_path, click=["no", "1", "1", "1", "0", "0"], paid=[-1.0, 0, 0, 9.5, 0, 0])
    report = check_log(path, SCHEMA, LogPolicies(dtypes="drop"))
    assert [(check.check, check.column, check.found, check.done) for check in report.checks] == [
        ("dtypes", "click", 1, "dropped")
    ]


def test_a_label_that_is_no_number_is_filled_twice(tmp_path) -> None:
    path = log(tmp_path, click=["no", "1", "1", "1", "0", "0"])
    rows = cleaned(tmp_path, path, dtypes="fill", missing_labels="fill")
    assert rows["click"].tolist() == [0, 1, 1, 1, 0, 0]


def test_filling_a_conversion_fills_the_whole_chain_above_it(tmp_path) -> None:
    path = log(tmp_path, click=[0] * 6, cart=[0] * 6)
    rows = cleaned(tmp_path, path, conversions="fill")
    assert rows.loc[rows["purchase"] == 1, ["click", "cart"]].to_numpy().tolist() == [[1, 1]]


def test_all_failing_checks_are_reported_at_once(tmp_path) -> None:
    path = log(tmp_path, click=[2, 1, 1, 1, 0, 0], paid=[-1.0, 5.0, 0.0, 9.5, 0.0, 0.0], item=[1, 1, 1, 2, 3, 4])
    with pytest.raises(SchemaError) as caught:
        cleaned(tmp_path, path, duplicates="error")
    assert [fault.split(" must")[0] for fault in caught.value.faults] == ["click", "paid", "paid", "request + item"]


def test_missing_columns_are_reported_at_once_with_the_nearest(tmp_path) -> None:
    path = tmp_path / "log.parquet"
    pd.DataFrame(sound()).rename(columns={"price": "prices", "paid": "amount"}).to_parquet(path)
    with pytest.raises(SchemaError) as caught:
        check_log(path, SCHEMA)
    assert caught.value.faults == [
        "price must be a column of the log; got none in log.parquet (did you mean prices?)",
        "paid must be a column of the log; got none in log.parquet",
    ]


@given(st.lists(st.lists(st.integers(0, 30), max_size=20), max_size=5))
def test_duplicates_are_those_that_pandas_finds_in_the_whole(pieces: list) -> None:
    keys = [int_keys(np.array(piece, np.int64)) for piece in pieces]
    found = list(duplicate_rows(keys))
    starts = np.cumsum([0, *map(len, pieces)])[:-1]
    whole = [start + row for start, rows in zip(starts, found, strict=True) for row in rows]
    expected = pd.Series([value for piece in pieces for value in piece], dtype="int64").duplicated()
    assert whole == np.flatnonzero(expected).tolist()


def test_keys_tell_rows_and_positions_apart() -> None:
    strings = pa.array(["a", "b", "", "a"])
    assert array_keys(strings[1:]).tolist() == array_keys(strings)[1:].tolist()
    assert len(set(row_keys([strings, pa.array([1, 1, 1, 2])]).tolist())) == 4
    assert not set(position_keys(0, 50).tolist()) & set(position_keys(1, 50).tolist())


def test_a_refusal_names_the_share_of_rows() -> None:
    text = refusal("negatives", "paid", 1500, 2_000_000, "such as -3.0 in row 9 of log.csv")
    assert text == (
        "paid must be at least 0; got 1,500 of 2,000,000 rows (0.075%), such as -3.0 in row 9 of log.csv; "
        "negatives: drop would drop them, negatives: fill would write 0"
    )
