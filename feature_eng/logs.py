"""Behaviour logs in the shop's own shape → checked, canonical, split Parquet; a piece at a time, never a whole log."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from dask.dataframe.io.io import from_map

from feature_eng.cluster import run_each
from feature_eng.log_checks import LogPolicies, check_columns, refusal
from feature_eng.log_dtypes import find_dtypes, needed_inputs, open_columns
from feature_eng.log_encoding import Form, canonical_forms, empty_columns, key_columns, label_columns, statistic_columns
from feature_eng.log_keys import duplicate_rows
from feature_eng.log_passes import (
    Found,
    Reading,
    Survey,
    Writing,
    Written,
    duplicate_example,
    encode_piece,
    survey,
    write_piece,
)
from feature_eng.log_report import CheckReport, LogReport, SplitReport, add_up, column_report
from feature_eng.log_sources import PIECE_BYTES, Paths, Piece, cut, file_columns, log_files
from feature_eng.progress import row_bar
from feature_eng.schema import Schema, SchemaError
from feature_eng.splitting import Split, check_split, key_cut, rank_cut, straddling

Rows = npt.NDArray[np.int64]
T = TypeVar("T", Survey, Written)


@dataclass(frozen=True)
class Log:
    """A log held against a schema: its files, cut into pieces, and the form of each column that is read."""

    schema: Schema
    files: tuple[Path, ...]
    pieces: tuple[Piece, ...]
    forms: dict[str, Form]


@dataclass(frozen=True)
class Prepared:
    """What `prepare_log` leaves: the schema with its dtypes, the folders of parts, the report."""

    schema: Schema
    train: Path
    validation: Path | None
    report: LogReport


@dataclass(frozen=True)
class Cleaned:
    """What `clean_log` leaves: the schema with its dtypes, the folder of parts, the report."""

    schema: Schema
    folder: Path
    report: LogReport


def open_log(paths: Paths, schema: Schema, *, labels: bool = True, piece_bytes: int = PIECE_BYTES) -> Log:
    """Find a log's files, check that their columns are there, and settle the dtypes that the schema left open.

    Args:
        paths: a Parquet or CSV file, a list of them, a glob, or a folder.
        schema: what the columns mean; others are ignored, but for `true_<objective>`.
        labels: false for a log to be scored, which needs neither labels nor keys.
        piece_bytes: Arrow bytes read at a time, roughly.

    Raises:
        FileNotFoundError: a path stands for no file.
        ValueError: a file is neither Parquet nor CSV, or the log has no rows.
        SchemaError: with every missing column.
    """
    files = log_files(paths)
    listed = [(file.name, file_columns(file)) for file in files]
    present = frozenset.intersection(*(frozenset(columns) for _, columns in listed))
    keys = [key for key in key_columns(schema) if labels or key in present]
    to_fit = (*statistic_columns(schema), *label_columns(schema, frozenset())) if labels else ()
    check_columns(listed, dict.fromkeys((*needed_inputs(schema), *keys, *to_fit)))
    undecided = open_columns(schema, keys)
    found = find_dtypes(cut(files, list(undecided), piece_bytes), undecided) if undecided else {}
    schema = schema.with_dtypes(found)
    forms = canonical_forms(schema, found, label_columns(schema, present) if labels else ())
    forms = {name: form for name, form in forms.items() if name in present}
    pieces = cut(files, list(forms), piece_bytes)
    if not pieces:
        raise ValueError(f"log must have at least one row; got none in {', '.join(name for name, _ in listed)}")
    return Log(schema, tuple(files), tuple(pieces), forms)


def resolve_dtypes(schema: Schema, paths: Paths) -> Schema:
    """Return the schema with the dtypes that it left to the log; see `open_log`."""
    return open_log(paths, schema, labels=False).schema


def read_log(paths: Paths, schema: Schema, *, labels: bool = True) -> Any:
    """Return a Dask DataFrame of the log's canonical columns, unchecked; see `open_log`."""
    log = open_log(paths, schema, labels=labels)
    meta = _as_frame(empty_columns(log.forms))
    return from_map(partial(_frame, forms=log.forms), log.pieces, meta=meta)


def _frame(piece: Piece, forms: dict[str, Form]) -> pd.DataFrame:
    encoded, _ = encode_piece(piece, forms)
    return _as_frame(encoded.columns)


def _as_frame(columns: dict[str, pa.Array]) -> pd.DataFrame:
    frame: pd.DataFrame = pa.table(columns).to_pandas()
    return frame


def check_log(
    paths: Paths, schema: Schema, policies: LogPolicies | None = None, *, progress: bool | None = None
) -> LogReport:
    """Check a log against a schema, and write nothing; what policies refuse is in the report, not raised.

    Args:
        paths: see `open_log`.
        schema: see `open_log`.
        policies: what `prepare_log` would do with the rows that checks find.
        progress: show a bar; by default where stderr is a terminal.

    Raises:
        SchemaError: columns are missing.
    """
    log = open_log(paths, schema)
    reading = Reading(log.schema, log.forms, policies or LogPolicies())
    report, _, _ = _look(log, reading, progress)
    return report


def clean_log(
    paths: Paths,
    schema: Schema,
    out: str | Path,
    *,
    policies: LogPolicies | None = None,
    labels: bool = True,
    progress: bool | None = None,
) -> Cleaned:
    """Write a log's canonical rows as parts in `out`, without a split, as evaluation and scoring need them.

    Args:
        paths: see `open_log`.
        schema: see `open_log`.
        out: a folder for `part-00000.parquet` and so on and nothing else; earlier parts are replaced.
        policies: what to do with the rows that checks find.
        labels: false for a log to be scored.
        progress: show a bar; by default where stderr is a terminal.

    Raises:
        SchemaError: columns are missing, or a check whose policy is error has found rows; lists all.
        ValueError: no row is left, or the log is read from `out`.
    """
    log = open_log(paths, schema, labels=labels)
    reading = Reading(log.schema, log.forms, policies or LogPolicies())
    report, _, duplicates = _look(log, reading, progress)
    _refuse(report)
    folder = _emptied(Path(out), log)
    _write(log, reading, Writing(folder), duplicates, progress)
    return Cleaned(log.schema, folder, report)


def prepare_log(
    paths: Paths,
    schema: Schema,
    out: str | Path,
    *,
    policies: LogPolicies | None = None,
    split: Split = "time",
    fraction: float = 0.1,
    progress: bool | None = None,
) -> Prepared:
    """Check, clean and split a log in two passes; write `train/`, `validation/` and `report.json` into `out`.

    Training parts have a column `__fold__` (int8, 0 to 4), the same for all rows of a request. A request whose rows lie
    on both sides of the cut goes to training whole, as do rows without a moment.

    Args:
        paths: see `open_log`.
        schema: see `open_log`.
        out: a folder; earlier parts in it are replaced.
        policies: what to do with the rows that checks find.
        split: by `time` the last moments validate, by `request` or `user` a hash chooses.
        fraction: rows (by time), requests or users that validate, in [0, 1); 0 writes no `validation/`.
        progress: show a bar; by default where stderr is a terminal.

    Raises:
        SchemaError: columns are missing, or a check whose policy is error has found rows; lists all.
        ValueError: an argument is out of range, the schema lacks the column to split by, or no row is left to train,
            or the log is read from where parts go.
    """
    check_split(split, fraction)
    if split in ("time", "user") and fraction and getattr(schema, split) is None:
        raise ValueError(
            f"split must be request where the schema names no {split} column; got {split} "
            f"(name one under `{split}:`, or set the fraction to 0)"
        )
    log = open_log(paths, schema)
    reading = Reading(log.schema, log.forms, policies or LogPolicies(), split if fraction else None)
    report, surveys, duplicates = _look(log, reading, progress)
    _refuse(report)
    (Path(out) / "report.json").unlink(missing_ok=True)  # written last, it marks what is whole
    writing = _sides(Path(out), log, reading, surveys, fraction)
    del surveys
    written = _write(log, reading, writing, duplicates, progress)
    report.split = SplitReport(
        by=split,
        fraction=fraction,
        train_rows=sum(part.train_rows for part in written),
        validation_rows=sum(part.validation_rows for part in written),
        cut_ms=writing.cut if reading.split == "time" else None,
        straddling=len(writing.straddlers),
    )
    if not report.split.train_rows:
        raise ValueError(f"fraction must leave at least one row to train on; got {fraction} of {report.rows_kept} rows")
    _save_report(report, Path(out))
    return Prepared(log.schema, writing.train, writing.validation, report)


def _look(log: Log, reading: Reading, progress: bool | None) -> tuple[LogReport, list[Survey], list[Rows]]:
    """Run the first pass; return its report, the surveys, and each piece's duplicate rows."""
    looked = run_each(partial(survey, reading=reading), log.pieces)
    surveys = list(_tracked(looked, "checking", log, progress))
    duplicates = list(duplicate_rows([part.duplicate_keys for part in surveys]))
    found = [finding for part in surveys for finding in part.found]
    repeats = sum(len(rows) for rows in duplicates)
    if repeats:
        piece, rows = next((p, rows) for p, rows in zip(log.pieces, duplicates, strict=True) if len(rows))
        column = " + ".join(reading.duplicate_key)
        found.append(Found("duplicates", column, repeats, duplicate_example(piece, reading, int(rows[0]))))
    rows_read = sum(part.rows for part in surveys)
    columns = add_up(part.summaries for part in surveys)
    report = LogReport(
        files=[str(file) for file in log.files],
        rows_read=rows_read,
        rows_kept=rows_read - sum(part.dropped for part in surveys) - repeats,
        checks=_check_reports(found, reading.policies),
        columns=[column_report(name, total, name in log.schema.label_columns) for name, total in columns.items()],
    )
    return report, [replace(part, summaries={}, duplicate_keys=part.duplicate_keys[:0]) for part in surveys], duplicates


def _check_reports(found: Iterable[Found], policies: LogPolicies) -> list[CheckReport]:
    counts: dict[tuple[str, str], int] = defaultdict(int)
    examples: dict[tuple[str, str], str] = {}
    for finding in found:
        key = finding.check, finding.column
        counts[key] += finding.count
        examples.setdefault(key, finding.example)
    done = {"error": "refused", "drop": "dropped", "fill": "filled"}
    order = list(LogPolicies.model_fields)
    reports = []
    for check, column in sorted(counts, key=lambda key: order.index(key[0])):
        policy, key = getattr(policies, check), (check, column)
        report = CheckReport(
            check=check, column=column, found=counts[key], policy=policy, done=done[policy], example=examples[key]
        )
        reports.append(report)
    return reports


def _refuse(report: LogReport) -> None:
    faults = [
        refusal(check.check, check.column, check.found, report.rows_read, check.example)
        for check in report.checks
        if check.done == "refused"
    ]
    if faults:
        raise SchemaError(faults)
    if not report.rows_kept:
        raise ValueError(f"log must leave at least one row after its checks; got 0 of {report.rows_read}")


def _sides(out: Path, log: Log, reading: Reading, surveys: Sequence[Survey], fraction: float) -> Writing:
    train = _emptied(out / "train", log)
    validation = _emptied(out / "validation", log)
    if not reading.split:
        validation.rmdir()
        return Writing(train, with_folds=True)
    sketches = [part.sketch for part in surveys if part.sketch is not None]
    place = rank_cut(sketches, fraction) if reading.split == "time" else key_cut(fraction)
    spans = [part.spans for part in surveys if part.spans is not None]
    return Writing(train, validation, True, place, straddling(spans, place))


def _write(
    log: Log, reading: Reading, writing: Writing, duplicates: Sequence[Rows], progress: bool | None
) -> list[Written]:
    work = list(zip(log.pieces, duplicates, strict=True))
    done = run_each(partial(write_piece, reading=reading, writing=writing), work)
    written = list(_tracked(done, "writing", log, progress))
    for folder in (writing.train, writing.validation):
        if folder is not None:
            _renumber(folder)
    return written


def _emptied(folder: Path, log: Log) -> Path:
    """Make a folder, and remove the parts that an earlier run left in it."""
    if any(file.resolve().parent == folder.resolve() for file in log.files):
        raise ValueError(f"out must not be a folder that the log is read from; got {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    for part in [*folder.glob("part-*.parquet"), *folder.glob(".part-*.partial")]:
        part.unlink()
    return folder


def _renumber(folder: Path) -> None:
    """Close the gaps that pieces without rows leave between parts."""
    for index, part in enumerate(sorted(folder.glob("part-*.parquet"))):
        part.rename(folder / f"part-{index:05d}.parquet")


def _save_report(report: LogReport, folder: Path) -> None:
    beside = folder / ".report.json.partial"
    beside.write_text(report.model_dump_json(indent=2), encoding="utf-8")
    beside.rename(folder / "report.json")


def _tracked(results: Iterable[T], title: str, log: Log, progress: bool | None) -> Iterator[T]:
    with row_bar(title, sum(piece.rows for piece in log.pieces), progress) as advance:
        for result in results:
            advance(result.rows)
            yield result
