"""Which dtype a column has in a log, where the schema leaves that open."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_eng.cluster import run_each
from feature_eng.log_encoding import encode_column, is_nested, key_columns
from feature_eng.log_sources import CSV, Piece, read_slice
from feature_eng.schema import Categorical, CategoricalList, Schema

KeyDtype = Literal["int64", "string"]

# text that is an integer and loses nothing as one: 007 is a string
_INTEGER_TEXT = r"^(-?(0|[1-9]\d{0,18})(\.0+)?|(?i:true|false))?$"


def needed_inputs(schema: Schema) -> tuple[str, ...]:
    """Return the raw columns of a schema whose dtypes may still be open."""
    anything = schema.with_dtypes(dict.fromkeys((column.name for column in schema.columns), "string"))
    return tuple(given.name for given in anything.inputs)


def open_columns(schema: Schema, keys: Iterable[str]) -> dict[str, bool]:
    """Return the columns whose dtype the log decides, and whether each is a list.

    Args:
        schema: as it was written.
        keys: those of its request, user, item and time columns that the log has.
    """
    keys = set(keys)
    needed = {*needed_inputs(schema), *keys}
    declared = {column.name: column for column in schema.columns}
    found = {
        name: isinstance(column, CategoricalList)
        for name, column in declared.items()
        if isinstance(column, (Categorical, CategoricalList)) and column.dtype is None and name in needed
    }
    undeclared = [key for key in key_columns(schema) if key in keys and key not in declared and key != schema.time]
    return found | dict.fromkeys(undeclared, False)


def find_dtypes(pieces: Sequence[Piece], columns: dict[str, bool]) -> dict[str, KeyDtype]:
    """Decide int64 or string for each column, by its type or, for CSV and floats, by all of its values.

    Integers, booleans (as 0 and 1) and floats that are whole or null become int64; everything else is a string.

    Args:
        pieces: of the log.
        columns: names, and whether each is a list.
    """
    strings: set[str] = set()
    for found in run_each(partial(_string_columns, columns=columns), pieces):
        strings |= found
    return {name: "string" if name in strings else "int64" for name in columns}


def _string_columns(piece: Piece, columns: dict[str, bool]) -> set[str]:
    found: set[str] = set()
    for part in piece.slices:
        table = read_slice(part, list(columns))
        is_csv = part.path.suffix in CSV
        found |= {name for name, is_list in columns.items() if not is_integer(table.column(name), is_list, is_csv)}
    return found


def is_integer(raw: Any, is_list: bool, is_text: bool) -> bool:
    """Return whether a column loses nothing as int64.

    Args:
        raw: the column as the log has it.
        is_list: whether its elements are meant.
        is_text: whether it comes out of a CSV file, where everything is text.
    """
    if is_list and is_text:
        raw = encode_column(raw, "list<string>")[0]
    values = raw.combine_chunks() if isinstance(raw, pa.ChunkedArray) else raw
    if is_nested(values.type):
        values = values.flatten() if is_list else values
    kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return True
    if pa.types.is_dictionary(kind):
        return is_integer(values.dictionary, False, is_text)
    if pa.types.is_floating(kind):
        numbers = values.drop_null().to_numpy(zero_copy_only=False)
        return bool(np.all(np.isnan(numbers) | (numbers == np.floor(numbers)) & (np.abs(numbers) < 2.0**63)))
    if not (is_text and pa.types.is_string(kind)):
        return False
    words = pc.unique(values.drop_null())
    if not pc.all(pc.match_substring_regex(words, pattern=_INTEGER_TEXT)).as_py() and len(words):
        return False
    unreadable = encode_column(words, "int64")[1]
    return unreadable is None or not unreadable.any()
