"""The two passes over a log: one that looks, one that writes; both see a piece at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from feature_eng.log_checks import Checked, LogPolicies, check_rows, is_null
from feature_eng.log_encoding import Encoded, Form, encode, join
from feature_eng.log_keys import Keys, array_keys, position_keys, row_keys
from feature_eng.log_report import Summary, summarize
from feature_eng.log_sources import Piece, read_slice
from feature_eng.schema import Schema
from feature_eng.splitting import FOLD_COLUMN, Ranks, Sketch, Spans, Split, folds, key_ranks, sketch, spans, validates


@dataclass(frozen=True)
class Reading:
    """How each piece is read and checked; the same in both passes, and small enough to send along."""

    schema: Schema
    forms: Mapping[str, Form]
    policies: LogPolicies
    split: Split | None = None

    @property
    def duplicate_key(self) -> tuple[str, ...]:
        """The columns that no two rows may share, none if the log has no such columns."""
        schema = self.schema
        wanted = (schema.request, schema.item) if schema.request else (schema.user, schema.item, schema.time)
        present = tuple(name for name in wanted if name is not None and name in self.forms)
        return present if len(present) == len(wanted) else ()


@dataclass(frozen=True)
class Found:
    """Rows of a column that a check found, with an example for people."""

    check: str
    column: str
    count: int
    example: str


@dataclass(frozen=True)
class Survey:
    """What the first pass brings home from a piece; the arrays are of the rows kept."""

    rows: int
    found: tuple[Found, ...]
    dropped: int
    summaries: dict[str, Summary]
    duplicate_keys: Keys
    spans: Spans | None
    sketch: Sketch | None


@dataclass(frozen=True)
class Writing:
    """Where the second pass writes; without `validation` every row goes to `train`, without folds."""

    train: Path
    validation: Path | None = None
    with_folds: bool = False
    cut: int = 0
    straddlers: Keys = field(default_factory=lambda: np.empty(0, np.uint64))


@dataclass(frozen=True)
class Written:
    """Rows that a piece has left behind."""

    rows: int
    train_rows: int
    validation_rows: int


def encode_piece(
    piece: Piece, forms: Mapping[str, Form], coded: Collection[str] = ()
) -> tuple[Encoded, list[pa.Table]]:
    """Read a piece; return it in canonical form, and the raw columns of each slice.

    Args:
        piece: the piece.
        forms: the canonical form of each column.
        coded: columns of strings that may stay dictionaries, with nulls; see `encode`.
    """
    raw = [read_slice(part, list(forms), coded) for part in piece.slices]
    # files of one log may differ in dtypes: they meet in the canonical form only
    return join([encode(table, forms, coded) for table in raw]), raw


def check_piece(piece: Piece, reading: Reading) -> tuple[Checked, tuple[Found, ...]]:
    """Read, encode and check a piece; all checks but the one for duplicates."""
    encoded, raw = encode_piece(piece, reading.forms)
    checked = check_rows(encoded, reading.schema, reading.policies)
    found = (Found(f.check, f.column, f.count, _example(piece, raw, f.row, [f.column])) for f in checked.found)
    return checked, tuple(found)


def _example(piece: Piece, raw: list[pa.Table], row: int, columns: Sequence[str]) -> str:
    """Show a row of a piece to people, as the log has it."""
    starts = np.concatenate(([0], np.cumsum([table.num_rows for table in raw])))
    place = int(np.searchsorted(starts, row, side="right")) - 1
    inside = row - int(starts[place])
    shown = ", ".join(_shown(raw[place].column(name)[inside].as_py()) for name in columns)
    return f"such as {shown} in {piece.slices[place].where(inside)}"


def _shown(value: Any) -> str:
    text = str(value) if isinstance(value, (datetime, Decimal)) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def survey(piece: Piece, reading: Reading) -> Survey:
    """Run the first pass over a piece."""
    checked, found = check_piece(piece, reading)
    kept = _kept_columns(checked)
    requests = _requests(piece, reading.schema, kept)
    ranks = _ranks(reading, kept, requests)
    return Survey(
        rows=len(checked.kept),
        found=found,
        dropped=int((~checked.kept).sum()),
        summaries={name: summarize(values) for name, values in checked.columns.items()},
        duplicate_keys=_duplicate_keys(piece, reading, kept),
        spans=spans(requests, ranks) if ranks is not None and reading.schema.request else None,
        sketch=sketch(ranks) if ranks is not None and reading.split == "time" else None,
    )


def duplicate_example(piece: Piece, reading: Reading, kept_row: int) -> str:
    """Show one duplicate row for people; `kept_row` counts the rows that the other checks keep."""
    encoded, raw = encode_piece(piece, reading.forms)
    kept = check_rows(encoded, reading.schema, reading.policies).kept
    return _example(piece, raw, int(np.flatnonzero(kept)[kept_row]), reading.duplicate_key)


def write_piece(work: tuple[Piece, npt.NDArray[np.int64]], reading: Reading, writing: Writing) -> Written:
    """Run the second pass over a piece: drop, mend, split and write what is left.

    Args:
        work: the piece, and which of the rows that checks keep are duplicates.
        reading: as in the first pass.
        writing: where rows go.
    """
    piece, duplicates = work
    checked, _ = check_piece(piece, reading)
    columns = _kept_columns(checked)
    requests = _requests(piece, reading.schema, columns)
    table = pa.table(columns)
    late = np.zeros(table.num_rows, bool)
    ranks = _ranks(reading, columns, requests)
    if writing.validation and ranks is not None:
        late = validates(requests, ranks, writing.cut, writing.straddlers)
    fresh = np.ones(table.num_rows, bool)
    fresh[duplicates] = False
    if writing.with_folds:
        train = table.append_column(FOLD_COLUMN, pa.array(folds(requests))).filter(pa.array(fresh & ~late))
    else:
        train = table.filter(pa.array(fresh & ~late))
    validation = table.filter(pa.array(fresh & late))
    _write_part(train, writing.train, piece.index)
    if writing.validation:
        _write_part(validation, writing.validation, piece.index)
    return Written(len(checked.kept), train.num_rows, validation.num_rows)


def _write_part(table: pa.Table, folder: Path, index: int) -> None:
    if not table.num_rows:
        return
    beside = folder / f".part-{index:05d}.partial"
    pq.write_table(table, beside, compression="zstd", compression_level=1)
    beside.rename(folder / f"part-{index:05d}.parquet")


def _kept_columns(checked: Checked) -> dict[str, pa.Array]:
    if checked.kept.all():
        return checked.columns
    mask = pa.array(checked.kept)
    return {name: values.filter(mask) for name, values in checked.columns.items()}


def _requests(piece: Piece, schema: Schema, columns: dict[str, pa.Array]) -> Keys:
    """Return each row's request key; without a request column each row is a request of its own."""
    if schema.request in columns:
        return array_keys(columns[schema.request])
    return position_keys(piece.index, len(next(iter(columns.values()))))


def _ranks(reading: Reading, columns: dict[str, pa.Array], requests: Keys) -> Ranks | None:
    schema = reading.schema
    if reading.split is None:
        return None
    if reading.split == "request":
        return key_ranks(requests)
    if reading.split == "user":
        return key_ranks(array_keys(columns[str(schema.user)]))
    ranks: Ranks = columns[str(schema.time)].to_numpy()
    return ranks


def _duplicate_keys(piece: Piece, reading: Reading, columns: dict[str, pa.Array]) -> Keys:
    if not reading.duplicate_key:
        return np.empty(0, np.uint64)
    parts = [columns[name] for name in reading.duplicate_key]
    keys = row_keys(parts)
    unknown = np.logical_or.reduce([is_null(part) for part in parts])
    keys[unknown] = position_keys(piece.index, len(keys))[unknown]
    return keys
