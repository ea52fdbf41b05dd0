"""How NVTabular's operators on categories become instructions of a plan: ids, and statistics by key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from nvtabular import ops

from feature_eng.inputs import NULL_ID, NULL_INT, NULL_STRING, UNSEEN_ID
from feature_eng.keys import UInt64Array, combined_keys, float_keys, int_keys, string_keys
from feature_eng.plan_writer import Lookup, Registers, Writer, rule
from feature_eng.tables import hash_table

FIRST_LISTED = UNSEEN_ID + 1  # NVTabular's: a rare value is as one never seen
_STATISTIC_DTYPES = {"count": np.int32, "std": np.float32, "var": np.float32, "mean": np.float32}


@rule(ops.Categorify)
def _categorify(writer: Writer, op: ops.Categorify, columns: list[str], registers: Registers) -> Registers:
    combos = op.encode_type == "combo"
    groups = writer.groups if combos else [(name,) for name in columns]
    ids = dict(registers)  # NVTabular keeps the columns of a combination beside it
    for group in groups:
        name = op.name_sep.join(group)
        _check_categorify(op, name)
        storage = name if combos and len(group) == 1 else op.storage_name.get(name, name)
        listed = _listed(op.categories.get(storage), list(group) if len(group) > 1 else [storage])
        listed.columns = [*group, "id"]
        ids[name] = _ids(writer, op, name, group, registers, listed)
    return ids


def _check_categorify(op: ops.Categorify, name: str) -> None:
    buckets = op.num_buckets.get(name) if isinstance(op.num_buckets, dict) else op.num_buckets
    if (buckets or 1) > 1:
        raise TypeError(
            f"Categorify on {name} must have num_buckets of 1 or None, since NVTabular hashes a row's index with its "
            f"value on a CPU; use feature_eng.operators.HashedIds; got {buckets}"
        )
    if op.single_table:
        raise TypeError(f"Categorify on {name} must have single_table=False; got True")


def _listed(path: str | None, columns: list[str]) -> Any:
    """Return a vocabulary's values and ids, as Categorify reads them from its files."""
    files = sorted(Path(path).glob("*.parquet"), key=_part) if path and Path(path).is_dir() else [Path(path or "")]
    parts = [pd.read_parquet(file, columns=columns) for file in files if file.is_file()]
    if not parts:
        return pd.DataFrame({c: [] for c in [*columns, "id"]})
    parts = [part.assign(id=part.index.to_numpy()) for part in parts]
    if len(parts[0]) and parts[0]["id"].iloc[0] < FIRST_LISTED:
        parts[0]["id"] += FIRST_LISTED
    listed = pd.concat(parts, ignore_index=True)
    return listed[listed[columns].notna().any(axis=1)]


def _part(file: Path) -> tuple[int, str]:
    """Return a file's place, part.10 after part.9."""
    digits = "".join(filter(str.isdigit, file.name))
    return int(digits or 0), file.name


def _ids(writer: Writer, op: Any, name: str, group: tuple[str, ...], registers: Registers, listed: pd.DataFrame) -> str:
    kinds = [writer.kinds[registers[c]] for c in group]
    if kinds[0].endswith("list"):
        keys = _column_keys(kinds[0].removesuffix(" list"), listed[group[0]])
        alias = writer.alias(name, "list of ids")
        writer.lists[alias] = Lookup((registers[group[0]],), keys, listed["id"].to_numpy(np.int32), UNSEEN_ID)
        return alias
    sources, keys, rows = _table_keys(writer, op, group, registers, listed)
    ids = rows["id"].to_numpy(np.int32)
    nulls = _key(*[_column_keys(writer.kinds[source], pd.Series([None])) for source in sources])
    if not np.isin(nulls, keys).any() and "id" not in kinds:
        keys, ids = np.append(keys, nulls), np.append(ids, np.int32(NULL_ID))
    return writer.vocabulary(name, sources, keys, ids)


@rule(ops.ListSlice)
def _list_slice(writer: Writer, op: ops.ListSlice, columns: list[str], registers: Registers) -> Registers:
    sliced: Registers = {}
    for c in columns:
        table = writer.lists.get(registers[c])
        if table is None:
            raise TypeError(f"ListSlice on {c} must come after Categorify; got {writer.kinds[registers[c]]}")
        if not (op.pad and 0 < op.max_elements < 2**31):
            given = f"ListSlice({op.start}, {op.end}, pad={op.pad})"
            raise TypeError(f"ListSlice on {c} must give lists of one length: add ListSlice(n, pad=True); got {given}")
        bounds = {"start": int(op.start), "end": int(op.end), "padding": int(op.pad_value)}
        arrays = {"table": hash_table(table.keys, table.payloads, np.int32(table.default))}
        sliced[c] = writer.emit("list_slice", c, table.columns, bounds, arrays)
        writer.widths[sliced[c]] = op.max_elements
    return sliced


@rule(ops.TargetEncoding)
def _target_encoding(writer: Writer, op: ops.TargetEncoding, columns: list[str], registers: Registers) -> Registers:
    """Take the mean over all rows, whatever `kfold` is: folds are for the rows that the means are of."""
    if op.kfold > 1 and not op.drop_folds:
        raise TypeError(f"TargetEncoding on {', '.join(columns)} must have drop_folds=True; got False")
    encoded: Registers = {}
    for group in writer.groups:
        tag = op.name_sep.join(group)
        sums = pd.read_parquet(op.stats[tag])
        sums.columns = [*group, "count", *op.target_columns]
        sources, keys, rows = _table_keys(writer, op, group, registers, sums)
        for target in op.target_columns:
            mean = op.means[target]
            values = (rows[target] + op.p_smooth * mean) / (rows["count"] + op.p_smooth)
            array = values.fillna(mean).to_numpy().astype(op.output_dtype)
            name = f"TE_{tag}_{target}"
            encoded[name] = writer.statistic(name, sources, keys, _floats(array), mean)
    return encoded


@rule(ops.JoinGroupby)
def _join_groupby(writer: Writer, op: ops.JoinGroupby, columns: list[str], registers: Registers) -> Registers:
    """Join what NVTabular stored; a key that it has not seen counts 0, where NVTabular fails, and has NaN otherwise."""
    joined: Registers = {}
    for group in writer.groups:
        tag = op.name_sep.join(group)
        sources, keys, rows = _table_keys(writer, op, group, registers, pd.read_parquet(op.categories[tag]))
        for name in rows.columns.difference(group, sort=False):
            values = rows[name].to_numpy()
            suffix = next((s for s in _STATISTIC_DTYPES if name.endswith(f"{op.name_sep}{s}")), "")
            values = _floats(values.astype(_STATISTIC_DTYPES.get(suffix, values.dtype)))
            joined[name] = writer.statistic(name, sources, keys, values, 0.0 if suffix == "count" else np.nan)
    return joined


def _floats(values: NDArray[Any]) -> NDArray[Any]:
    return values if values.dtype == np.float32 else values.astype(np.float64)


def _table_keys(
    writer: Writer, op: Any, group: tuple[str, ...], registers: Registers, rows: pd.DataFrame
) -> tuple[list[str], UInt64Array, pd.DataFrame]:
    """Return the registers whose keys a table is looked up by, the distinct keys (V,) of its rows, and the rows."""
    sources = []
    for column in group:
        register = registers[column]
        source, value = writer.fills.get(register, (register, None))
        kind = writer.kinds[source]
        if kind == "number" or "list" in kind:
            raise TypeError(
                f"{type(op).__name__} on {column} must read a column as the request has it, filled or not, or ids; "
                f"got {'a computed ' if kind == 'number' else 'a '}{kind}"
            )
        if value is not None:  # a null is what it is filled with
            rows = rows[rows[column].notna()]
            same = rows[column] == (int(value) if kind == "int64" else value)
            rows = pd.concat([rows, rows[same].assign(**{column: None})], ignore_index=True)
        sources.append(source)
    rows = rows.iloc[np.argsort(rows[list(group)].isna().any(axis=1), kind="stable")]
    parts = [_column_keys(writer.kinds[s], rows[c]) for s, c in zip(sources, group, strict=True)]
    # An empty string, which a request has for a null, is the one that is listed.
    keys, first = np.unique(_key(*parts), return_index=True)
    return sources, keys, rows.iloc[first]


def _key(*parts: UInt64Array) -> UInt64Array:
    return combined_keys(*parts)


def _column_keys(kind: str, values: pd.Series[Any]) -> UInt64Array:
    """Return the keys of a column as a plan computes them from its inputs."""
    null = values.isna().to_numpy()
    if kind == "string":
        return string_keys([NULL_STRING if n else v for v, n in zip(values, null, strict=True)])
    if kind in ("float32", "float64"):
        return float_keys(values.to_numpy(np.float64, na_value=np.nan))
    keys = np.full(len(values), NULL_INT)
    keys[~null] = values[~null].astype(np.int64)
    return int_keys(keys)
