"""Raw columns as the log has them → canonical columns, exact to the bit wherever the log is."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from feature_eng.inputs import NULL_INT, NULL_STRING
from feature_eng.schema import GroupStatistic, Schema

Form = Literal["int64", "string", "float32", "timestamp", "list<int64>", "list<string>"]
Mask = npt.NDArray[np.bool_]
_FORMS: dict[tuple[str, bool], Form] = {
    ("int64", False): "int64",
    ("string", False): "string",
    ("float32", False): "float32",
    ("int64", True): "list<int64>",
    ("string", True): "list<string>",
}

TRUTH = "true_"
# text that stands for no number and no moment; in a column of strings only the empty one does
NULL_WORDS = frozenset(("", "na", "n/a", "nan", "null", "none", "nat"))
TRUTHS = {"true": 1, "false": 0}
# below these magnitudes a number counts seconds, milliseconds, microseconds; above, nanoseconds
EPOCH_LIMITS = (1e11, 1e14, 1e17)


@dataclass(frozen=True)
class Encoded:
    """Canonical columns, and which of the log's values could not become one.

    `unreadable` and `non_finite` hold masks only of columns that have such values; those values are null.
    """

    columns: dict[str, pa.Array]
    unreadable: dict[str, Mask]
    non_finite: dict[str, Mask]


def key_columns(schema: Schema) -> tuple[str, ...]:
    """Return the names of the request, user, item and time columns that the schema has."""
    keys = (schema.request, schema.user, schema.item, schema.time)
    return tuple(dict.fromkeys(key for key in keys if key is not None))


def text_inputs(schema: Schema) -> tuple[str, ...]:
    """Return the string inputs, and those that are lists of strings, that are no keys: only the plan reads them."""
    keys = key_columns(schema)
    return tuple(given.name for given in schema.inputs if given.dtype == "string" and given.name not in keys)


def label_columns(schema: Schema, in_log: frozenset[str]) -> tuple[str, ...]:
    """Return the label columns, then the position's, then the simulator's truths that a log has."""
    truths = [f"{TRUTH}{name}" for name in schema.objective_names]
    position = (schema.position,) if schema.position else ()
    return (*schema.label_columns, *position, *(truth for truth in truths if truth in in_log))


def statistic_columns(schema: Schema) -> tuple[str, ...]:
    """Return the columns that group statistics are taken of: fitting needs them, requests do not carry them."""
    of = (column.column for column in schema.columns if isinstance(column, GroupStatistic))
    return tuple(dict.fromkeys(name for name in of if name is not None))


def canonical_forms(
    schema: Schema, keys: Mapping[str, Literal["int64", "string"]], labels: tuple[str, ...]
) -> dict[str, Form]:
    """Return the form of each column of a cleaned log, in order.

    Args:
        schema: with its dtypes resolved.
        keys: dtypes of key columns that the schema does not declare.
        labels: label columns and truths to keep.
    """
    moments = {column.name for column in schema.columns if column.kind == "timestamp"} | {schema.time}
    declared = {column.name: getattr(column, "dtype", None) for column in schema.columns}
    forms: dict[str, Form] = {}
    for given in schema.inputs:
        forms[given.name] = "timestamp" if given.name in moments else _FORMS[given.dtype, given.is_list]
    forms |= {name: "float32" for name in statistic_columns(schema) if name not in forms}
    for name in key_columns(schema):
        forms.setdefault(name, "timestamp" if name in moments else keys.get(name) or declared.get(name) or "string")
    return forms | dict.fromkeys(labels, "float32")


def encode(table: pa.Table, forms: Mapping[str, Form], coded: Collection[str] = ()) -> Encoded:
    """Encode a piece of a log: int64 with NULL_INT, strings with "", float32 with NaN, moments as int64 ms UTC.

    Args:
        table: raw columns, all of those that `forms` names.
        forms: the canonical form of each column.
        coded: columns of strings, or of lists of them, that stay dictionaries, with nulls, where they are.
    """
    encoded = Encoded({}, {}, {})
    for name, form in forms.items():
        column = table.column(name)
        if name in coded and _is_coded(column.type):
            encoded.columns[name] = _one_array(column)
            continue
        values, unreadable, non_finite = encode_column(column, form)
        encoded.columns[name] = values
        if unreadable is not None and unreadable.any():
            encoded.unreadable[name] = unreadable
        if non_finite is not None and non_finite.any():
            encoded.non_finite[name] = non_finite
    return encoded


def empty_columns(forms: Mapping[str, Form]) -> dict[str, pa.Array]:
    """Return canonical columns without rows."""
    return {name: encode_column(pa.nulls(0), form)[0] for name, form in forms.items()}


def join(parts: Sequence[Encoded]) -> Encoded:
    """Put encoded pieces of the same forms one after the other."""
    if len(parts) == 1:
        return parts[0]
    names = list(parts[0].columns)
    columns = {name: _joined_columns([part.columns[name] for part in parts]) for name in names}
    masks = [{name: _joined_masks(parts, name, kind) for name in names} for kind in ("unreadable", "non_finite")]
    unreadable, non_finite = ({name: mask for name, mask in found.items() if mask.any()} for found in masks)
    return Encoded(columns, unreadable, non_finite)


def _joined_columns(arrays: Sequence[pa.Array]) -> pa.Array:
    """Put arrays one after the other; where only some are dictionaries, their strings are written out."""
    kinds = {array.type for array in arrays}
    plain = next((kind for kind in kinds if not _is_coded(kind)), None)
    return pa.concat_arrays(arrays if len(kinds) == 1 else [array.cast(plain) for array in arrays])


def _joined_masks(parts: Sequence[Encoded], name: str, kind: str) -> Mask:
    nothing = (np.zeros(len(part.columns[name]), bool) for part in parts)
    return np.concatenate([getattr(part, kind).get(name, none) for part, none in zip(parts, nothing, strict=True)])


def is_nested(kind: pa.DataType) -> bool:
    """Return whether a column's values are lists, structs or the like."""
    return bool(pa.types.is_nested(kind) or pa.types.is_fixed_size_list(kind))  # two to Arrow 12


def encode_column(raw: Any, form: Form) -> tuple[pa.Array, Mask | None, Mask | None]:
    """Encode one column.

    Returns:
        The canonical values; which were unreadable; which were NaN or infinite rather than null.
    """
    values = _plain(raw)
    if form == "int64":
        return *_integers(values), None
    if form == "string":
        return *_strings(values), None
    if form == "float32":
        return _floats(values)
    if form == "timestamp":
        return *_moments(values), None
    return *_lists(values, "int64" if form == "list<int64>" else "string"), None


def _is_coded(kind: pa.DataType) -> bool:
    """Return whether a column's values, or those of its lists, are strings of a dictionary."""
    inner = kind.value_type if pa.types.is_list(kind) else kind
    return bool(pa.types.is_dictionary(inner) and pa.types.is_string(inner.value_type))


def _one_array(raw: Any) -> pa.Array:
    values = raw.combine_chunks() if isinstance(raw, pa.ChunkedArray) else raw
    return pa.concat_arrays(values.chunks) if isinstance(values, pa.ChunkedArray) else values


def _plain(raw: Any) -> pa.Array:
    """Return one array, its dictionary and its large or binary strings undone."""
    values = _one_array(raw)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if str(values.type) in ("large_string", "string_view"):
        values = values.cast(pa.string())
    return values


def _integers(values: pa.Array) -> tuple[pa.Array, Mask | None]:
    kind = values.type
    if pa.types.is_floating(kind):
        numbers = values.to_numpy(zero_copy_only=False).astype(np.float64)
        whole = (numbers == np.floor(numbers)) & (np.abs(numbers) < 2.0**63)
        return pa.array(_whole(numbers, whole)), ~whole & ~np.isnan(numbers)
    if pa.types.is_null(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_string(kind):
        try:
            return values.cast(pa.int64()).fill_null(NULL_INT), None
        except pa.ArrowInvalid:
            pass
    return _by_value(values, _parse_integer, pa.int64(), NULL_INT)


def _whole(numbers: npt.NDArray[np.float64], whole: Mask) -> npt.NDArray[np.int64]:
    return np.where(whole, np.where(whole, numbers, 0).astype(np.int64), NULL_INT)


def _parse_integer(value: Any) -> int | None:
    if isinstance(value, str):
        word = value.strip().lower()
        if word in NULL_WORDS:
            return None
        if word in TRUTHS:
            return TRUTHS[word]
        value = int(word) if re.fullmatch(r"[+-]?\d+", word) else float(word)
    if value != int(value) or not -(2**63) <= value < 2**63:
        raise ValueError
    return int(value)


def _strings(values: pa.Array) -> tuple[pa.Array, Mask | None]:
    kind = values.type
    if pa.types.is_floating(kind):
        numbers = values.to_numpy(zero_copy_only=False).astype(np.float64)
        whole = (numbers == np.floor(numbers)) & (np.abs(numbers) < 2.0**63)
        text = pc.if_else(pa.array(whole), pa.array(_whole(numbers, whole)).cast(pa.string()), values.cast(pa.string()))
        return pc.if_else(pa.array(np.isnan(numbers)), NULL_STRING, text), None
    if is_nested(kind):
        return _nothing_readable(values, NULL_STRING, pa.string())
    try:
        text = values.cast(pa.string()).fill_null(NULL_STRING)
    except pa.ArrowInvalid:
        return _by_value(values, lambda value: str(value, "utf-8"), pa.string(), NULL_STRING)
    if pa.types.is_integer(kind):
        text = pc.if_else(pc.equal(text, str(NULL_INT)), NULL_STRING, text)
    return text, None


def _floats(values: pa.Array) -> tuple[pa.Array, Mask | None, Mask | None]:
    if pa.types.is_float32(values.type) and not values.null_count and np.isfinite(values.to_numpy()).all():
        return values, None, None
    unreadable: Mask | None = None
    null = values.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_int64(values.type):
        null |= pc.equal(values, NULL_INT).fill_null(True).to_numpy(zero_copy_only=False)
    try:
        read = values.cast(pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        read, unreadable = _by_value(values, _parse_float, pa.float64(), None)
        null |= read.is_null().to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        numbers = read.to_numpy(zero_copy_only=False).astype(np.float32)
    finite = np.isfinite(numbers) & ~null
    return pa.array(np.where(finite, numbers, np.float32(np.nan))), unreadable, ~finite & ~null


def _parse_float(value: Any) -> float | None:
    word = str(value).strip().lower()
    if word in NULL_WORDS:
        return None
    return float(TRUTHS.get(word, word))


def _moments(values: pa.Array) -> tuple[pa.Array, Mask | None]:
    kind = values.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return values.cast(pa.timestamp("ms"), safe=False).cast(pa.int64()).fill_null(NULL_INT), None
    if pa.types.is_integer(kind):
        numbers, unreadable = _integers(values)
        return pa.array(_epoch_ms(numbers.to_numpy())), unreadable
    if pa.types.is_floating(kind):
        return _float_moments(values.to_numpy(zero_copy_only=False).astype(np.float64))
    if pa.types.is_string(kind):
        return _text_moments(values)
    if pa.types.is_null(kind):
        return values.cast(pa.int64()).fill_null(NULL_INT), None
    return _nothing_readable(values, NULL_INT, pa.int64())


def _epoch_ms(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    least, most = (int(numbers.min()), int(numbers.max())) if len(numbers) else (0, 0)
    if EPOCH_LIMITS[0] <= least and most < EPOCH_LIMITS[1]:  # milliseconds all, as most logs have them
        return numbers
    size = np.abs(numbers.astype(np.float64))
    seconds, ms, us = (size < limit for limit in EPOCH_LIMITS)
    scaled = np.select([seconds, ms, us], [numbers * 1_000, numbers, numbers // 1_000], numbers // 1_000_000)
    return np.where(numbers == NULL_INT, NULL_INT, scaled)


def _float_moments(numbers: npt.NDArray[np.float64]) -> tuple[pa.Array, Mask]:
    size = np.abs(numbers)
    readable = np.isfinite(numbers) & (size < 2.0**63)
    seconds, ms, us = (size < limit for limit in EPOCH_LIMITS)
    scaled = numbers * np.select([seconds, ms, us], [1e3, 1.0, 1e-3], 1e-6)
    whole = np.where(readable, np.where(readable, np.rint(scaled), 0).astype(np.int64), NULL_INT)
    return pa.array(whole), ~readable & ~np.isnan(numbers)


def _text_moments(values: pa.Array) -> tuple[pa.Array, Mask]:
    coded = values.dictionary_encode()
    words = pd.Series(coded.dictionary.to_pylist(), dtype=object).str.strip()
    null = words.str.lower().isin(NULL_WORDS).to_numpy(bool)
    numeric = words.str.fullmatch(r"[+-]?\d+(\.\d*)?").to_numpy(bool) & ~words.str.fullmatch(r"\d{8}").to_numpy(bool)
    # without a year in sight the parser would complete the moment from today's date
    dated = words.str.contains(r"\d{4}|\d{1,2}[/.-]\d{1,2}[/.-]\d{2}").to_numpy(bool) & ~numeric
    parsed = pd.to_datetime(
        words.where(dated),
        utc=True,
        errors="coerce",
        infer_datetime_format=True,  # type: ignore[call-overload]
    )
    found = parsed.notna().to_numpy(bool)
    moments = np.where(found, parsed.to_numpy("datetime64[ms]").astype(np.int64), NULL_INT)
    moments[numeric] = _moments(pa.array(pd.to_numeric(words[numeric]).to_numpy()))[0].to_numpy()
    return _spread(coded, pa.array(moments), ~(found | numeric | null), NULL_INT)


def _lists(values: pa.Array, form: Literal["int64", "string"]) -> tuple[pa.Array, Mask | None]:
    kind = values.type
    if pa.types.is_string(kind):
        trimmed = pc.utf8_trim(values, characters="[](){}'\" ")
        bare = pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed)
        values = pc.split_pattern_regex(bare, pattern=r"['\"\s]*[|,;]['\"\s]*")
    elif not is_nested(kind):
        present = values.is_valid().to_numpy(zero_copy_only=False)
        return _joined(present.astype(np.int64), *encode_column(values.drop_null(), form)[:2])
    elif not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return _nothing_readable(values, [], pa.list_(pa.int64() if form == "int64" else pa.string()))
    lengths = pc.list_value_length(values).fill_null(0).to_numpy().astype(np.int64)
    return _joined(lengths, *encode_column(values.flatten(), form)[:2])


def _joined(
    lengths: npt.NDArray[np.int64], elements: pa.Array, unreadable: Mask | None
) -> tuple[pa.Array, Mask | None]:
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), elements)
    if unreadable is None or not unreadable.any():
        return lists, None
    rows = np.repeat(np.arange(len(lengths)), lengths)
    return lists, np.bincount(rows[unreadable], minlength=len(lengths)) > 0


def _by_value(
    values: pa.Array, parse: Callable[[Any], Any], kind: pa.DataType, null: Any
) -> tuple[pa.Array, Mask | None]:
    """Parse each distinct value; one that raises is unreadable, and null."""
    if is_nested(values.type):
        return _nothing_readable(values, null, kind)
    coded = values.dictionary_encode()
    parsed: list[Any] = []
    unreadable = np.zeros(len(coded.dictionary), bool)
    for index, value in enumerate(coded.dictionary.to_pylist()):
        try:
            parsed.append(parse(value))
        except (ValueError, TypeError, OverflowError):
            parsed.append(None)
            unreadable[index] = True
    return _spread(coded, pa.array(parsed, kind), unreadable, null)


def _spread(coded: pa.DictionaryArray, parsed: pa.Array, unreadable: Mask, null: Any) -> tuple[pa.Array, Mask]:
    spread = parsed.take(coded.indices)
    rows = pa.array(unreadable).take(coded.indices).fill_null(False).to_numpy(zero_copy_only=False)
    return spread if null is None else spread.fill_null(null), rows


def _nothing_readable(values: pa.Array, null: Any, kind: pa.DataType) -> tuple[pa.Array, Mask]:
    nulls = pa.array([null], kind).take(pa.array(np.zeros(len(values), np.int64)))
    return nulls, values.is_valid().to_numpy(zero_copy_only=False)
