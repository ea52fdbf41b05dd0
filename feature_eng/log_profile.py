"""What a sample of a log shows of each column: the facts that a drafted schema goes by."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_eng.inputs import NULL_INT
from feature_eng.log_dtypes import is_integer
from feature_eng.log_encoding import encode_column, is_nested
from feature_eng.log_sources import CSV, Paths, Piece, cut, file_columns, log_files, read_slice

Shape = Literal["integer", "number", "string", "moment", "list"]
Codes = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]

SAMPLE_PIECES, SAMPLE_BYTES, SAMPLE_ROWS = 8, 8 * 2**20, 200_000
# moments that a behaviour log may hold: 2000 to 2100
_EARLIEST_MS, _LATEST_MS = 946_684_800_000, 4_102_444_800_000
# numbers are taken for moments only where the name says so: many ids have the same magnitude
TIME_NAME = r"time|date|_at$|^ts$|moment|_dt$"
_LIST_TEXT = r"^[^|;,\s]+([|;,]\s?[^|;,\s]+)+$"


@dataclass(frozen=True, eq=False)
class Profile:
    """One column of the sample: its shape, a code (n,) per value, its numbers (n,) where it has any."""

    name: str
    shape: Shape
    codes: Codes
    distinct: int
    null_rate: float
    numbers: Numbers | None = None
    words: float = 0.0

    @property
    def is_binary(self) -> bool:
        """Whether all values are 0 or 1, and both occur."""
        return self.numbers is not None and self.distinct == 2 and bool(np.isin(self.numbers, (0, 1)).all())


def profile_log(paths: Paths) -> list[Profile]:
    """Profile the columns that all files of a log have, on rows from all over it.

    Raises:
        FileNotFoundError: a path stands for no file.
        ValueError: the log has no rows.
    """
    files = log_files(paths)
    listed = [file_columns(file) for file in files]
    columns = [name for name in listed[0] if all(name in other for other in listed)]
    pieces = cut(files, columns, SAMPLE_BYTES)
    if not pieces:
        raise ValueError(f"log must have at least one row to draft a schema from; got none in {files[0].name}")
    parts = [part for piece in _spread(pieces) for part in piece.slices]
    tables = [read_slice(part, columns).slice(0, SAMPLE_ROWS // min(len(pieces), SAMPLE_PIECES)) for part in parts]
    is_text = parts[0].path.suffix in CSV
    table = pa.concat_tables([table for table in tables if table.schema == tables[0].schema])
    return [_profile(name, table.column(name).combine_chunks(), is_text) for name in columns]


def _spread(pieces: Sequence[Piece]) -> list[Piece]:
    places = np.linspace(0, len(pieces) - 1, min(len(pieces), SAMPLE_PIECES)).astype(int)
    return [pieces[place] for place in places]


def _profile(name: str, values: Any, is_text: bool) -> Profile:
    if is_nested(values.type):
        return Profile(name, "list", np.zeros(len(values), np.int64), len(values), values.null_count / len(values))
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    null_rate = values.null_count / max(len(values), 1)
    coded = values.dictionary_encode()
    codes = coded.indices.fill_null(-1).to_numpy().astype(np.int64)
    distinct = len(coded.dictionary)
    shape, numbers = _shape(name, values, is_text)
    words = pc.mean(pc.count_substring_regex(values.drop_null(), pattern=r"\S+")).as_py() if shape == "string" else 0.0
    return Profile(name, shape, codes, distinct, null_rate, numbers, words or 0.0)


def _shape(name: str, values: Any, is_text: bool) -> tuple[Shape, Numbers | None]:
    kind = values.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "moment", None
    if is_integer(values, False, is_text):
        integers = encode_column(values, "int64")[0].to_numpy()
        numbers = np.where(integers == NULL_INT, np.nan, integers.astype(np.float64))
        timed = re.search(TIME_NAME, name, re.IGNORECASE) and _are_moments(values)
        return ("moment" if timed else "integer"), numbers
    if not pa.types.is_string(kind) and not pa.types.is_large_string(kind):
        return "number", encode_column(values, "float32")[0].to_numpy().astype(np.float64)
    if is_text:
        floats, unreadable, _ = encode_column(values, "float32")
        if unreadable is None or not unreadable.any():
            return "number", floats.to_numpy().astype(np.float64)
    if _are_moments(values):
        return "moment", None
    several = pc.mean(pc.match_substring_regex(values.drop_null(), pattern=_LIST_TEXT).cast(pa.int8())).as_py()
    return ("list" if (several or 0.0) > 0.1 else "string"), None


def _are_moments(values: Any) -> bool:
    moments, unreadable = encode_column(values, "timestamp")[:2]
    if unreadable is not None and unreadable.any():
        return False
    known = moments.to_numpy()
    known = known[known != NULL_INT]
    return bool(len(known)) and bool(((known > _EARLIEST_MS) & (known < _LATEST_MS)).all())


def constancy(group: Codes, values: Codes) -> float:
    """Return in which share of the groups with several rows a column (n,) has one value, beyond what chance explains.

    Returns:
        1 where it always has, 0 where it has no more often than in shuffled groups; NaN with fewer than ten groups.
    """
    _, dense, counts = np.unique(group, return_inverse=True, return_counts=True)
    several = counts[dense] > 1
    if (counts > 1).sum() < 10:
        return float("nan")
    groups, kept = dense[several], values[several]
    seen = _one_valued(groups, kept)
    by_chance = _one_valued(np.random.default_rng(0).permutation(groups), kept)
    return 1.0 if seen == 1 else (seen - by_chance) / max(1 - by_chance, 1e-9)


def _one_valued(groups: Codes, values: Codes) -> float:
    pairs = np.unique(groups * np.int64(values.max() + 2) + values + 1)
    counts = np.bincount(np.searchsorted(np.unique(groups), pairs // np.int64(values.max() + 2)))
    return float((counts == 1).mean())


def separation(column: Profile, label: Numbers) -> float:
    """Return the AUC, turned to at least 0.5, with which a column alone tells a label (n,) on the sample."""
    if column.numbers is not None and column.distinct > 50:
        score = np.nan_to_num(column.numbers, nan=-1.0)
    else:
        _, dense, counts = np.unique(column.codes, return_inverse=True, return_counts=True)
        score = (np.bincount(dense, label) / counts)[dense]
    positives = label.sum()
    _, places, ties = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[places]
    auc = (ranks[label == 1].sum() - positives * (positives + 1) / 2) / (positives * (len(label) - positives))
    return float(max(auc, 1 - auc))


def betrays(column: Profile, label: Numbers) -> bool:
    """Return whether a label (n,) is all but certain wherever a number is not 0, and is not elsewhere."""
    if column.numbers is None:
        return False
    marked = np.nan_to_num(column.numbers) != 0
    if not 20 <= marked.sum() < len(marked):
        return False
    return bool(label[marked].mean() > 0.97 and label[~marked].mean() < 0.8)
