"""Logs: every shape that a shop may have, read, resolved, cleaned and split exactly."""

import datetime
import os
from decimal import Decimal
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_eng import logs
from feature_eng.arrow_columns import plan_columns
from feature_eng.cluster import connect
from feature_eng.inputs import NULL_INT, Input
from feature_eng.log_encoding import encode_column
from feature_eng.log_passes import encode_piece
from feature_eng.log_report import DISTINCT_KEYS, add_up, column_report, summarize
from feature_eng.log_sources import cut, file_columns, log_files, read_slice
from feature_eng.logs import check_log, clean_log, open_log, prepare_log, read_log, resolve_dtypes
from feature_eng.schema import SchemaError
from feature_eng.schema_file import parse_schema

SHOP = """
name: shop
request: request
user: user
item: item
time: time
columns:
  - {name: user, role: user, kind: categorical}
  - {name: item, role: item, kind: categorical}
  - {name: brand, role: item, kind: categorical}
  - {name: price, role: item, kind: continuous}
objectives:
  - {name: click, kind: binary, label: click}
"""
LISTED = SHOP.replace("brand, role: item, kind: categorical", "brand, role: item, kind: categorical_list")
START_MS = 1_767_225_600_000  # 1 January 2026
SECOND = 1_650_000_000
NAN = float("nan")


def shop_log(requests: int = 20, per_request: int = 5) -> pa.Table:
    rows = requests * per_request
    request = np.arange(rows) // per_request
    return pa.table(
        {
            "request": [f"r{number}" for number in request],
            "user": pa.array(request % 7 + 2**60),
            "item": np.arange(rows) % per_request,
            "brand": pa.array([None if row % 10 == 0 else f"b{row % 3}" for row in range(rows)]),
            "price": np.arange(rows) / 2,
            "time": pa.array(START_MS + 1000 * request, pa.timestamp("ms")),
            "click": np.arange(rows) % 4 == 0,
            "true_click": np.full(rows, 0.25),
            "true_purchase": np.full(rows, 0.5),
            "ignored": np.zeros(rows),
        }
    )


def written(folder: Path, table: pa.Table, name: str = "log.parquet", **options) -> Path:
    pq.write_table(table, folder / name, **options)
    return folder / name


def rows_of(folder: Path) -> pd.DataFrame:
    return pq.read_table(folder).to_pandas()


# ---- canonical encoding


CANONICAL = [
    ("int64", pa.array([2**53 + 1, None, 2**63 - 1]), [2**53 + 1, NULL_INT, 2**63 - 1]),
    ("int64", pa.array([7, None], pa.int8()), [7, NULL_INT]),
    ("int64", pa.array([True, False, None]), [1, 0, NULL_INT]),
    ("int64", pa.array([3.0, None, NAN]), [3, NULL_INT, NULL_INT]),
    ("int64", pa.array([Decimal("4.00"), None]), [4, NULL_INT]),
    ("int64", pa.array(["9007199254740993", "", "TRUE", "5.0", " 6 "]), [2**53 + 1, NULL_INT, 1, 5, 6]),
    ("int64", pa.array(["8", None]).dictionary_encode(), [8, NULL_INT]),
    ("int64", pa.nulls(2), [NULL_INT, NULL_INT]),
    ("string", pa.array(["ä", None, "NA"]), ["ä", "", "NA"]),
    ("string", pa.array(["a", None], pa.large_string()), ["a", ""]),
    ("string", pa.array(["b", None]).dictionary_encode(), ["b", ""]),
    ("string", pa.array([b"c", None]), ["c", ""]),
    ("string", pa.array([12, None, NULL_INT]), ["12", "", ""]),
    ("string", pa.array([12.0, 1.5, NAN, None]), ["12", "1.5", "", ""]),
    ("string", pa.array([True, None]), ["true", ""]),
    ("float32", pa.array([1.5, None, NAN]), [1.5, NAN, NAN]),
    ("float32", pa.array([float("inf"), -float("inf"), 1e300]), [NAN, NAN, NAN]),
    ("float32", pa.array([3, None, NULL_INT]), [3.0, NAN, NAN]),
    ("float32", pa.array(["2.5", "", "n/a", "true"]), [2.5, NAN, NAN, 1.0]),
    ("float32", pa.array([Decimal("1.25")]), [1.25]),
    (
        "timestamp",
        pa.array([SECOND, SECOND * 10**3, SECOND * 10**6, SECOND * 10**9, None]),
        [SECOND * 1000] * 4 + [NULL_INT],
    ),
    ("timestamp", pa.array([SECOND + 0.123, None]), [SECOND * 1000 + 123, NULL_INT]),
    ("timestamp", pa.array([f"{SECOND}", f"{SECOND}.5", ""]), [SECOND * 1000, SECOND * 1000 + 500, NULL_INT]),
    ("timestamp", pa.array(["2022-04-15 05:20:00", "2022-04-15T07:20:00+02:00"]), [SECOND * 1000] * 2),
    ("timestamp", pa.array(["2022-04-15", "20220415", "04/15/2022"]), [1_649_980_800_000] * 3),
    ("timestamp", pa.array([datetime.date(2022, 4, 15), None]), [1_649_980_800_000, NULL_INT]),
    ("timestamp", pa.array([SECOND * 10**9, None], pa.timestamp("ns")), [SECOND * 1000, NULL_INT]),
    ("timestamp", pa.array([SECOND * 10**6], pa.timestamp("us", "America/New_York")), [SECOND * 1000]),
    ("timestamp", pa.nulls(1), [NULL_INT]),
    ("list<int64>", pa.array([[2**53 + 1, None], None, []]), [[2**53 + 1, NULL_INT], [], []]),
    ("list<int64>", pa.array([[1, 2], None], pa.list_(pa.int64(), 2)), [[1, 2], []]),
    ("list<int64>", pa.array(["1|2", "[3, 4]", "", None]), [[1, 2], [3, 4], [], []]),
    ("list<int64>", pa.array([5, None]), [[5], []]),
    ("list<string>", pa.array([["a", None], None]), [["a", ""], []]),
    ("list<string>", pa.array(["red wine; ale", "['x', 'y']"]), [["red wine", "ale"], ["x", "y"]]),
]


@pytest.mark.parametrize(("form", "raw", "canonical"), CANONICAL)
def test_a_column_has_one_canonical_form(form: str, raw: pa.Array, canonical: list) -> None:
    values, unreadable, _ = encode_column(raw, form)
    np.testing.assert_equal(values.to_pylist(), canonical)
    assert unreadable is None or not unreadable.any()


@pytest.mark.parametrize(("form", "raw", "canonical"), CANONICAL)
def test_encoding_what_is_canonical_changes_nothing(form: str, raw: pa.Array, canonical: list) -> None:
    once = encode_column(raw, form)[0]
    np.testing.assert_equal(encode_column(once, form)[0].to_pylist(), canonical)


UNREADABLE = [
    ("int64", pa.array([1.0, 1.5, float("inf")]), [False, True, True]),
    ("int64", pa.array(["1", "x", str(2**63)]), [False, True, True]),
    ("int64", pa.array([2**64 - 1, 1], pa.uint64()), [True, False]),
    ("int64", pa.array([[1], None]), [True, False]),
    ("string", pa.array([b"\xff", b"a"]), [True, False]),
    ("string", pa.array([["a"], None]), [True, False]),
    ("float32", pa.array(["1", "one"]), [False, True]),
    ("float32", pa.array([[1.0], None]), [True, False]),
    ("timestamp", pa.array(["soon", "10 May", "", "2022-13-01"]), [True, True, False, True]),
    ("timestamp", pa.array([float("inf"), 1.6e9]), [True, False]),
    ("timestamp", pa.array([True, None]), [True, False]),
    ("list<int64>", pa.array([[1, 2], [1.5], None]), [False, True, False]),
    ("list<int64>", pa.array([{"a": 1}, None]), [True, False]),
]


@pytest.mark.parametrize(("form", "raw", "expected"), UNREADABLE)
def test_values_that_cannot_be_read_are_marked(form: str, raw: pa.Array, expected: list) -> None:
    assert encode_column(raw, form)[1].tolist() == expected


def test_nan_and_infinity_differ_from_null() -> None:
    assert encode_column(pa.array([1.0, None, NAN, float("inf")]), "float32")[2].tolist() == [False, False, True, True]


# ---- files and pieces


def test_a_log_is_a_file_a_list_a_glob_or_a_folder(tmp_path) -> None:
    (tmp_path / "day=2").mkdir()
    a, b = written(tmp_path, shop_log(), "a.parquet"), written(tmp_path / "day=2", shop_log(), "b.parquet")
    (tmp_path / "_SUCCESS").touch()
    assert log_files(a) == [a]
    assert log_files([b, str(a)]) == [b, a]
    assert log_files(f"{tmp_path}/**/*.parquet") == log_files(tmp_path) == [a, b]


def test_a_relative_glob_is_found_below_the_working_directory(tmp_path, monkeypatch) -> None:
    written(tmp_path, shop_log(), "a.parquet")
    monkeypatch.chdir(tmp_path)
    assert log_files("*.parquet") == [Path("a.parquet")]


@pytest.mark.parametrize("paths", ["nowhere/*.parquet", [], ""])
def test_a_path_without_files_is_an_error(paths) -> None:
    with pytest.raises(FileNotFoundError, match=r"log must be Parquet or CSV files; got|paths must name .*; got none"):
        log_files(paths)


def test_other_files_are_refused(tmp_path) -> None:
    (tmp_path / "log.json").write_text("{}")
    with pytest.raises(ValueError, match=r"log must be Parquet \(\.parquet, \.pq\) or CSV \(\.csv\); got .*log\.json"):
        log_files(tmp_path / "log.json")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.parquet", b"no", r"log\.parquet must be Parquet; got an error: .*footer"),
        ("log.csv", b"", r"log\.csv must be CSV in UTF-8; got an error: Empty CSV file"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        open_log(tmp_path / name, parse_schema(SHOP))


@pytest.mark.parametrize("row", [b"1,2,3", b"1,caf\xe9"])
def test_a_broken_csv_row_is_reported_with_its_file(tmp_path, row: bytes) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"a,b\n1,2\n" + row + b"\n")
    with pytest.raises(ValueError, match=r"log\.csv must be CSV in UTF-8; got an error: .*(Expected 2 columns|UTF8)"):
        read_slice(cut([path], ["b"])[0].slices[0], ["b"])


def test_a_log_without_rows_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"log must have at least one row; got none in log\.parquet"):
        open_log(written(tmp_path, shop_log(0)), parse_schema(SHOP))


@pytest.mark.parametrize("row_group_size", [1000, 64, 3])
def test_pieces_are_bounded_and_hold_each_row_once_in_order(tmp_path, row_group_size: int) -> None:
    path = written(tmp_path, pa.table({"a": np.arange(1000)}), row_group_size=row_group_size)
    pieces = cut([path, path], ["a"], piece_bytes=800)
    read = [pa.concat_tables(read_slice(part, ["a"]) for part in piece.slices)["a"].to_pylist() for piece in pieces]
    assert list(chain(*read)) == [*range(1000), *range(1000)]
    assert max(len(rows) for rows in read) <= 110
    assert [piece.index for piece in pieces] == list(range(len(pieces)))


def test_csv_pieces_never_cut_a_quoted_line_break(tmp_path) -> None:
    path = tmp_path / "log.csv"
    frame = pd.DataFrame({"n": range(300), "text": [f'line "{n}"\nand, more\n' for n in range(300)]})
    frame.to_csv(path, index=False)
    pieces = cut([path], ["n", "text"], piece_bytes=700)
    tables = [read_slice(part, ["n", "text"]) for piece in pieces for part in piece.slices]
    assert len(tables) > 5
    whole = pa.concat_tables(tables).to_pandas()
    assert whole["n"].astype(int).tolist() == list(range(300))
    assert whole["text"].tolist() == frame["text"].tolist()


def test_a_csv_without_a_last_line_break_keeps_its_last_row(tmp_path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("a,b\n1,2\n3,4")
    assert file_columns(path) == ["a", "b"]
    (piece,) = cut([path], ["b"])
    assert [value for part in piece.slices for value in read_slice(part, ["b"])["b"].to_pylist()] == ["2", "4"]


def test_files_of_differing_dtypes_meet_in_the_canonical_form(tmp_path) -> None:
    first = shop_log(2)
    second = first.set_column(2, "item", pa.array(["9"] * 10)).set_column(4, "price", pa.array([3] * 10))
    written(tmp_path, first, "a.parquet")
    written(tmp_path, second, "b.parquet")
    frame = read_log(tmp_path, parse_schema(SHOP)).compute()
    assert frame["item"].tolist() == [str(n % 5) for n in range(10)] + ["9"] * 10
    assert frame["price"].iloc[-1] == 3.0


# ---- dtypes


DTYPES = [
    (pa.array([1, None]), "int64"),
    (pa.array([True, None]), "int64"),
    (pa.array([1.0, None]), "int64"),
    (pa.array([1.0, 1.5]), "string"),
    (pa.array(["1", "2"]), "string"),
    (pa.array(["a", None]).dictionary_encode(), "string"),
    (pa.array([datetime.date(2022, 1, 1), None]), "string"),
]


@pytest.mark.parametrize(("values", "dtype"), DTYPES)
def test_an_open_dtype_follows_from_the_log(tmp_path, values: pa.Array, dtype: str) -> None:
    path = written(tmp_path, shop_log(2, 1).set_column(3, "brand", values))
    assert {c.name: getattr(c, "dtype", None) for c in resolve_dtypes(parse_schema(SHOP), path).columns}[
        "brand"
    ] == dtype


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (["1", "2"], "int64"),
        (["1.0", ""], "int64"),
        (["TRUE", "false"], "int64"),
        (["007", "1"], "string"),
        (["1.5", "1"], "string"),
        ([str(2**63), "1"], "string"),
        (["a", "1"], "string"),
    ],
)
def test_csv_text_is_an_integer_only_where_nothing_is_lost(tmp_path, values: list, dtype: str) -> None:
    frame = shop_log(2, 1).to_pandas().assign(brand=values)
    frame.to_csv(tmp_path / "log.csv", index=False)
    assert resolve_dtypes(parse_schema(SHOP), tmp_path / "log.csv").columns[2].dtype == dtype


def test_a_late_value_decides_the_dtype_of_the_whole_log(tmp_path) -> None:
    floats = pa.array([1.0] * 99 + [1.5])
    path = written(tmp_path, shop_log().set_column(3, "brand", floats), row_group_size=10)
    assert resolve_dtypes(parse_schema(SHOP), path).columns[2].dtype == "string"


@pytest.mark.parametrize(("values", "dtype"), [(pa.array([[1], None]), "int64"), (pa.array([["a"], ["1"]]), "string")])
def test_a_list_has_the_dtype_of_its_elements(tmp_path, values: pa.Array, dtype: str) -> None:
    schema = parse_schema(
        SHOP.replace("brand, role: item, kind: categorical", "brand, role: item, kind: categorical_list")
    )
    path = written(tmp_path, shop_log(2, 1).set_column(3, "brand", values))
    assert resolve_dtypes(schema, path).columns[2].dtype == dtype


def test_a_csv_list_has_the_dtype_of_its_elements(tmp_path) -> None:
    schema = parse_schema(
        SHOP.replace("brand, role: item, kind: categorical", "brand, role: item, kind: categorical_list")
    )
    shop_log(2, 1).to_pandas().assign(brand=["1|2", "3"]).to_csv(tmp_path / "log.csv", index=False)
    frame = read_log(tmp_path / "log.csv", schema).compute()
    assert [list(values) for values in frame["brand"]] == [[1, 2], [3]]


# ---- reading


def test_a_log_is_read_lazily_in_canonical_form(tmp_path) -> None:
    path = written(tmp_path, shop_log())
    frame = read_log(path, parse_schema(SHOP))
    assert list(frame.columns) == ["user", "item", "brand", "price", "request", "time", "click", "true_click"]
    computed = frame.compute()
    assert computed["user"].tolist()[:6] == [2**60] * 5 + [2**60 + 1]
    assert computed["brand"].tolist()[:3] == ["", "b1", "b2"]
    assert computed["time"].tolist()[-1] == START_MS + 19_000
    assert computed.dtypes["click"] == computed.dtypes["price"] == np.float32


def test_large_ids_with_nulls_keep_every_digit(tmp_path) -> None:
    ids = [2**53 + 1, None, 2**62 + 3, *[5] * 7]
    path = written(tmp_path, shop_log(2).set_column(1, "user", pa.array(ids)))
    done = clean_log(path, parse_schema(SHOP), tmp_path / "out")
    assert rows_of(done.folder)["user"].tolist()[:3] == [2**53 + 1, NULL_INT, 2**62 + 3]


def test_a_log_to_be_scored_needs_no_labels_and_no_keys(tmp_path) -> None:
    path = written(tmp_path, shop_log().drop_columns(["click", "true_click", "request", "time"]))
    done = clean_log(path, parse_schema(SHOP), tmp_path / "out", labels=False)
    assert list(rows_of(done.folder)) == ["user", "item", "brand", "price"]
    with pytest.raises(SchemaError, match="request must be a column of the log; got none"):
        read_log(path, parse_schema(SHOP))


def test_columns_that_statistics_are_fitted_on_are_kept(tmp_path) -> None:
    text = SHOP.replace("kind: continuous}", "kind: continuous, feature: false}").replace(
        "objectives:", "  - {name: s, kind: group_statistic, of: item, statistic: mean, column: price}\nobjectives:"
    )
    assert read_log(written(tmp_path, shop_log()), parse_schema(text)).compute()["price"].tolist()[:3] == [
        0.0,
        0.5,
        1.0,
    ]


def test_csv_and_parquet_give_the_same_rows(tmp_path) -> None:
    table = shop_log()
    path = written(tmp_path, table)
    table.to_pandas().to_csv(tmp_path / "log.csv", index=False)
    schema = parse_schema(SHOP)
    pd.testing.assert_frame_equal(read_log(path, schema).compute(), read_log(tmp_path / "log.csv", schema).compute())


# ---- preparing


@pytest.fixture
def small_pieces(monkeypatch) -> None:
    monkeypatch.setattr(logs, "open_log", lambda *a, **k: open_log(*a, **k, piece_bytes=1500))


def test_the_last_moments_validate(tmp_path, small_pieces) -> None:
    done = prepare_log(written(tmp_path, shop_log()), parse_schema(SHOP), tmp_path / "out", fraction=0.2)
    train, validation = rows_of(done.train), rows_of(done.validation)
    assert validation["request"].unique().tolist() == ["r16", "r17", "r18", "r19"]
    assert train["request"].unique().tolist() == [f"r{n}" for n in range(16)]
    assert train["price"].tolist() == [n / 2 for n in range(80)]
    split = done.report.split
    assert (split.train_rows, split.validation_rows, split.cut_ms) == (80, 20, START_MS + 16_000)


def test_parts_are_numbered_without_gaps(tmp_path, small_pieces) -> None:
    done = prepare_log(written(tmp_path, shop_log()), parse_schema(SHOP), tmp_path / "out", fraction=0.2)
    for folder in (done.train, done.validation):
        names = sorted(part.name for part in folder.iterdir())
        assert names == [f"part-{index:05d}.parquet" for index in range(len(names))]
        assert names
    assert len(list(done.train.iterdir())) > 2


def test_a_request_that_straddles_the_cut_trains_whole(tmp_path, small_pieces) -> None:
    table = shop_log()
    moments = START_MS + np.arange(100) * 1000
    moments[1] = moments[99] + 5  # r0's second row comes last of all
    path = written(tmp_path, table.set_column(5, "time", pa.array(moments)))
    done = prepare_log(path, parse_schema(SHOP), tmp_path / "out", fraction=0.1)
    train, validation = rows_of(done.train), rows_of(done.validation)
    assert (train["request"] == "r0").sum() == 5
    assert not set(train["request"]) & set(validation["request"])
    assert done.report.split.straddling == 2  # r0, and r18, which the cut itself falls into


@pytest.mark.parametrize("split", ["request", "user"])
def test_a_hash_split_never_parts_a_request_or_a_user(tmp_path, small_pieces, split: str) -> None:
    path = written(tmp_path, shop_log(400, 3))
    done = prepare_log(path, parse_schema(SHOP), tmp_path / "out", split=split, fraction=0.4)
    train, validation = rows_of(done.train), rows_of(done.validation)
    for column in {"request", split}:
        assert not set(train[column]) & set(validation[column])
    assert len(train) + len(validation) == 1200
    assert len(validation)


def test_rows_of_a_request_share_a_fold_and_folds_are_used(tmp_path, small_pieces) -> None:
    train = rows_of(prepare_log(written(tmp_path, shop_log(200)), parse_schema(SHOP), tmp_path / "out").train)
    assert train["__fold__"].dtype == np.int8
    assert set(train["__fold__"]) == {0, 1, 2, 3, 4}
    assert (train.groupby("request")["__fold__"].nunique() == 1).all()


def test_without_requests_each_row_is_its_own(tmp_path, small_pieces) -> None:
    schema = parse_schema(SHOP.replace("request: request\n", ""))
    done = prepare_log(written(tmp_path, shop_log(100)), schema, tmp_path / "out", fraction=0.1)
    train = rows_of(done.train)
    assert "request" not in train
    assert set(train["__fold__"][:40]) == {0, 1, 2, 3, 4}
    assert done.report.split.validation_rows == 50


def test_without_requests_duplicates_go_by_user_item_and_time(tmp_path) -> None:
    schema = parse_schema(SHOP.replace("request: request\n", ""))
    table = pa.concat_tables([shop_log(), shop_log().slice(3, 2)])
    report = check_log(written(tmp_path, table), schema)
    assert [(check.column, check.found) for check in report.checks] == [("user + item + time", 2)]


def test_duplicates_are_found_across_pieces_and_the_first_is_kept(tmp_path, small_pieces) -> None:
    again = shop_log().slice(10, 20).set_column(4, "price", pa.array(np.full(20, 999.0)))
    path = written(tmp_path, pa.concat_tables([shop_log(), again, again]))
    done = clean_log(path, parse_schema(SHOP), tmp_path / "out")
    assert rows_of(done.folder)["price"].tolist() == [n / 2 for n in range(100)]
    assert (done.report.checks[0].found, done.report.rows_read, done.report.rows_kept) == (40, 140, 100)


def test_rows_without_an_item_are_no_duplicates(tmp_path) -> None:
    path = written(tmp_path, shop_log().set_column(2, "item", pa.nulls(100, pa.int64())))
    assert check_log(path, parse_schema(SHOP)).checks == []


def test_a_fraction_of_zero_writes_no_validation(tmp_path) -> None:
    done = prepare_log(written(tmp_path, shop_log()), parse_schema(SHOP), tmp_path / "out", fraction=0)
    assert done.validation is None
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.json", "train"]
    assert len(rows_of(done.train)) == 100


def test_an_earlier_run_leaves_nothing_behind(tmp_path, small_pieces) -> None:
    prepare_log(written(tmp_path, shop_log(100)), parse_schema(SHOP), tmp_path / "out")
    done = prepare_log(written(tmp_path, shop_log(4)), parse_schema(SHOP), tmp_path / "out", fraction=0.25)
    assert (len(rows_of(done.train)), len(rows_of(done.validation))) == (15, 5)


def test_preparing_is_the_same_on_workers(tmp_path, small_pieces) -> None:
    path = written(tmp_path, shop_log())
    here = prepare_log(path, parse_schema(SHOP), tmp_path / "here")
    with connect(workers=1):
        there = prepare_log(path, parse_schema(SHOP), tmp_path / "there")
    assert here.report == there.report
    pd.testing.assert_frame_equal(rows_of(here.train), rows_of(there.train))


def test_progress_shows_rows_per_second_when_asked(tmp_path, capfd) -> None:
    check_log(written(tmp_path, shop_log()), parse_schema(SHOP), progress=True)
    assert "rows/s" in capfd.readouterr().err


def test_nothing_is_shown_without_a_terminal(tmp_path, capfd) -> None:
    check_log(written(tmp_path, shop_log()), parse_schema(SHOP))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("split", ["time", "user"])
def test_a_split_needs_its_column(tmp_path, split: str) -> None:
    schema = parse_schema(SHOP.replace(f"{split}: {split}\n", ""))
    message = (
        rf"split must be request where the schema names no {split} column; got {split} \(name one under `{split}:`"
    )
    with pytest.raises(ValueError, match=message):
        prepare_log(written(tmp_path, shop_log()), schema, tmp_path / "out", split=split)


def test_a_split_that_leaves_nothing_to_train_on_is_refused(tmp_path) -> None:
    path = written(tmp_path, shop_log().set_column(5, "time", pa.array([START_MS] * 100)))
    with pytest.raises(ValueError, match=r"fraction must leave at least one row to train on; got 0\.1 of 100 rows"):
        prepare_log(path, parse_schema(SHOP), tmp_path / "out")


def test_a_log_whose_rows_are_all_dropped_is_refused(tmp_path) -> None:
    path = written(tmp_path, shop_log().set_column(6, "click", pa.array([2] * 100)))
    with pytest.raises(ValueError, match="log must leave at least one row after its checks; got 0 of 100"):
        clean_log(path, parse_schema(SHOP), tmp_path / "out", policies=logs.LogPolicies(labels="drop"))


@pytest.mark.parametrize("inside", ["train", "validation"])
def test_a_log_is_never_overwritten_by_its_own_parts(tmp_path, inside: str) -> None:
    (tmp_path / inside).mkdir()
    path = written(tmp_path / inside, shop_log(), "part-00000.parquet")
    with pytest.raises(ValueError, match=rf"out must not be a folder that the log is read from; got .*{inside}"):
        prepare_log(path, parse_schema(SHOP), tmp_path)
    with pytest.raises(ValueError, match="out must not be a folder that the log is read from"):
        clean_log(path, parse_schema(SHOP), tmp_path / inside)
    assert path.exists()


def test_rows_without_a_moment_train_when_they_are_filled(tmp_path) -> None:
    moments = pa.array([None] * 50 + [START_MS] * 25 + [START_MS + 1] * 25)
    path = written(tmp_path, shop_log().set_column(5, "time", moments))
    policies = logs.LogPolicies(timestamps="fill")
    done = prepare_log(path, parse_schema(SHOP), tmp_path / "out", fraction=0.25, policies=policies)
    assert (rows_of(done.train)["time"] == NULL_INT).sum() == 50
    assert set(rows_of(done.validation)["time"]) == {START_MS + 1}


# ---- the report


def test_the_report_describes_each_column(tmp_path, small_pieces) -> None:
    report = check_log(written(tmp_path, shop_log()), parse_schema(SHOP))
    columns = {column.name: column for column in report.columns}
    price, brand, click = columns["price"], columns["brand"], columns["click"]
    assert (price.lowest, price.highest, price.mean, price.distinct) == (0.0, 49.5, 24.75, 100)
    assert (brand.null_rate, brand.distinct, brand.distinct_is_exact, brand.mean) == (0.1, 4, True, None)
    assert (click.is_label, click.mean, click.dtype) == (True, 0.25, "float32")
    assert not columns["true_click"].is_label


def test_the_report_is_written_as_json(tmp_path) -> None:
    done = prepare_log(written(tmp_path, shop_log()), parse_schema(SHOP), tmp_path / "out")
    text = (tmp_path / "out" / "report.json").read_text()
    assert type(done.report).model_validate_json(text) == done.report


def test_checking_writes_nothing(tmp_path) -> None:
    path = written(tmp_path, shop_log())
    check_log(path, parse_schema(SHOP))
    assert list(tmp_path.iterdir()) == [path]


def test_distinct_values_are_estimated_within_a_few_percent() -> None:
    values = np.random.default_rng(0).permutation(100_000)
    parts = [{"x": summarize(pa.array(part))} for part in np.array_split(np.concatenate([values, values]), 7)]
    found = column_report("x", add_up(parts)["x"], is_label=False)
    assert not found.distinct_is_exact
    assert abs(found.distinct / 100_000 - 1) < 4 / DISTINCT_KEYS**0.5


def test_a_list_counts_its_elements_and_its_empty_rows() -> None:
    found = column_report("x", summarize(pa.array([[1, 2], [], [2, 6]])), is_label=False)
    assert (found.dtype, found.null_rate, found.distinct, found.mean) == ("list<int64>", 1 / 3, 3, 2.75)


# ---- real data


DATA = Path(os.environ.get("STEELYARD_DATA", Path(__file__).parents[3] / "shared" / "data"))
KUAIRAND = """
name: kuairand
user: user_id
item: video_id
time: time_ms
columns:
  - {name: user_id, role: user, kind: categorical}
  - {name: video_id, role: item, kind: categorical}
  - {name: tag, role: item, kind: categorical_list}
  - {name: duration_ms, role: item, kind: continuous}
objectives:
  - {name: click, kind: binary, label: is_click}
  - {name: long_view, kind: binary, label: long_view, given: click}
  - {name: play, kind: value, label: play_time_ms}
"""


@pytest.mark.skipif(not (DATA / "kuairand_pure").is_dir(), reason="needs kuairand_pure in $STEELYARD_DATA")
def test_kuairand_is_cleaned_of_its_repeats_and_split_by_time(tmp_path) -> None:
    log = [DATA / "kuairand_pure" / "val.parquet", DATA / "kuairand_pure" / "test.parquet"]
    policies = logs.LogPolicies(conversions="fill")
    done = prepare_log(log, parse_schema(KUAIRAND), tmp_path, policies=policies)
    checks = {check.check: check for check in done.report.checks}
    assert checks["duplicates"].found == 5_883 + 2  # within the files, and between them
    assert done.report.rows_read == 94_784 + 133_545
    assert [column.dtype for column in done.schema.columns[:3]] == ["int64", "int64", "string"]
    assert abs(done.report.split.validation_rows / done.report.rows_kept - 0.1) < 0.001
    train, validation = rows_of(done.train), rows_of(done.validation)
    assert train["time_ms"].max() < validation["time_ms"].min()
    assert (train["is_click"] >= train["long_view"]).all()


SHOPPERS = """
name: shoppers
columns:
  - {name: Month, role: context, kind: categorical}
  - {name: Weekend, role: context, kind: categorical}
  - {name: Region, role: context, kind: categorical}
  - {name: ExitRates, role: context, kind: continuous}
objectives:
  - {name: revenue, kind: binary, label: Revenue}
"""


@pytest.mark.skipif(not (DATA / "online_shoppers").is_dir(), reason="needs online_shoppers in $STEELYARD_DATA")
def test_online_shoppers_is_read_from_csv_with_its_known_rate(tmp_path) -> None:
    done = prepare_log(DATA / "online_shoppers", parse_schema(SHOPPERS), tmp_path, split="request", fraction=0.2)
    columns = {column.name: column for column in done.report.columns}
    assert [getattr(column, "dtype", None) for column in done.schema.columns] == ["string", "int64", "int64", None]
    assert done.report.rows_kept == 12_330
    assert columns["Revenue"].mean == pytest.approx(1908 / 12_330)
    assert columns["Month"].distinct == 10
    assert abs(done.report.split.validation_rows / 12_330 - 0.2) < 0.02


TEXTS, LISTS = ["a", None, "", "b", "a"] * 10, [["x", None], [], None, ["x"], ["y", "x", "y"]] * 10
FORMS = {"text": "string", "list": "list<string>", "text.": "string", "plain": "string"}
TEXT_INPUTS = [Input(name, "item", "string", is_list=name == "list") for name in FORMS]


def written_texts(folder: Path, row_group_size: int) -> Path:
    """Write texts of which `plain` and `text.` are not asked for or not there as dictionaries."""
    table = pa.table({"text": TEXTS, "list": LISTS, "text.": TEXTS, "plain": TEXTS})
    coded = ["text", "list.list.element", "text."]
    pq.write_table(table, folder / "log.parquet", row_group_size=row_group_size, use_dictionary=coded)
    return folder / "log.parquet"


def test_texts_stay_dictionaries_where_a_file_holds_them_so(tmp_path) -> None:
    (piece,) = cut([written_texts(tmp_path, 50)], list(FORMS))
    columns = encode_piece(piece, FORMS, ["text", "list", "plain"])[0].columns
    kinds = {name: column.type for name, column in columns.items()}
    assert pa.types.is_dictionary(kinds["text"])
    assert pa.types.is_dictionary(kinds["list"].value_type)
    assert kinds["plain"] == kinds["text."] == pa.string()


@pytest.mark.parametrize("row_group_size", [50, 7])
@pytest.mark.parametrize("piece_bytes", [300, 1000, 2**20])
def test_texts_that_stay_dictionaries_are_the_same_texts(tmp_path, row_group_size: int, piece_bytes: int) -> None:
    (tmp_path / "log.csv").write_text("text,list,text.,plain\na,x|y,,b\n")
    files = [written_texts(tmp_path, row_group_size), tmp_path / "log.csv"]
    for piece in cut(files, list(FORMS), piece_bytes):
        coded, exact = (plan_columns(encode_piece(piece, FORMS, c)[0].columns, TEXT_INPUTS) for c in (FORMS, ()))
        assert {name: array.tolist() for name, array in coded.items()} == {
            name: array.tolist() for name, array in exact.items()
        }
