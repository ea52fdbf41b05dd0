"""The NVTabular operators of our own: those that NVTabular lacks, or has with wrong numbers or others on CPU and GPU.

Each wraps an array function that the compiled plan calls too. A column is brought to host memory as Arrow, so that cuDF
and pandas give the same numbers.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from merlin.dag import ColumnSelector
from numpy.typing import NDArray
from nvtabular import ops
from nvtabular.ops import Operator, StatOperator

from feature_eng import functions
from feature_eng.arrow_columns import arrow_strings
from feature_eng.inputs import NULL_INT, RARE_ID, VOCABULARY_START
from feature_eng.keys import UInt64Array, combined_keys, int_keys, string_keys

NO_FOLD = -1


class _Named(Operator):
    """An operator that turns its input columns into the columns `outputs`."""

    def __init__(self, outputs: list[str]) -> None:
        super().__init__()
        self.outputs = outputs

    def column_mapping(self, col_selector: ColumnSelector) -> dict[str, list[str]]:
        return {output: list(col_selector.names) for output in self.outputs}

    def _compute_shape(self, col_schema: Any, input_schema: Any) -> Any:
        return col_schema.with_shape((None,))


class FillMedian(ops.FillMedian):
    """NVTabular's, with a median that float32 holds, and 0 for a column without any values."""

    def fit_finalize(self, dask_stats: Any) -> None:
        super().fit_finalize(dask_stats.fillna(0).astype(np.float32))


class Normalize(ops.Normalize):
    """NVTabular's, summed in float64, where its float32 sums lose the deviation of a column with a large mean.

    A deviation that float32 cannot tell from none is 0.
    """

    def __init__(self) -> None:
        super().__init__(out_dtype=np.float32)

    def fit(self, col_selector: ColumnSelector, ddf: Any) -> Any:
        return super().fit(col_selector, ddf[col_selector.names].astype(np.float64))

    def fit_finalize(self, dask_stats: Any) -> None:
        super().fit_finalize(dask_stats)
        for name, mean in self.means.items():
            if not self.stds[name] > np.finfo(np.float32).eps * abs(mean):
                self.stds[name] = 0.0


class LogOp(ops.LogOp):
    """NVTabular's, by the logarithm that a plan computes: another's last bit grows in a normalization after it."""

    def transform(self, col_selector: ColumnSelector, df: Any) -> Any:
        logs = {name: functions.logged(df[name].to_numpy()) for name in col_selector.names}
        return df.assign(**logs)


def list_outputs(name: str, width: int) -> list[str]:
    """Return the names of the columns that a padded list takes."""
    return [f"{name}__{index}" for index in range(width)]


class VocabularyIds(_Named, StatOperator):
    """Ids of values by falling frequency: 1 null, 2 unseen, 3 rarer than `min_count`, 4 and up the others.

    With a `width` the column is a list, padded with 0 to that many columns, the last values kept. With a `vocabulary`
    it has the ids of that single column, which is selected behind it. NVTabular's
    Categorify gives rare and unseen values one id and fails on a batch of nulls.
    """

    output_dtype = np.int32

    vocabulary: str | None = None  # a workflow that was saved before there was one has none

    def __init__(self, name: str, min_count: int, width: int | None = None, vocabulary: str | None = None) -> None:
        super().__init__([name] if width is None else list_outputs(name, width))
        self.name, self.min_count, self.width, self.vocabulary = name, min_count, width, vocabulary

    def _keys(self, column: Any) -> tuple[UInt64Array, NDArray[np.int64]]:
        array = _arrow(column)
        return (_keys(array), np.arange(len(array) + 1)) if self.width is None else _list_keys(array)

    def fit(self, col_selector: ColumnSelector, ddf: Any) -> Any:
        source = col_selector.names[-1]

        def chunk(frame: Any) -> Any:
            found = _keys(_arrow(frame[source])) if self.vocabulary else self._keys(frame[source])[0]
            keys, counts = np.unique(found, return_counts=True)
            return pd.DataFrame({"key": keys, "count": counts})

        meta = pd.DataFrame({"key": np.array([], np.uint64), "count": np.array([], np.int64)})
        return ddf.reduction(chunk, aggregate=_summed_counts, combine=_summed_counts, meta=meta, split_every=8)

    def fit_finalize(self, dask_stats: Any) -> None:
        null = dask_stats["key"].isin([functions.NULL_INT_KEY, functions.NULL_STRING_KEY])
        counts = dask_stats[~null].sort_values(["count", "key"], ascending=[False, True])
        common = int((counts["count"] >= self.min_count).sum())
        ids = np.full(len(counts), RARE_ID, dtype=np.int32)
        ids[:common] = np.arange(VOCABULARY_START, VOCABULARY_START + common)
        order = np.argsort(counts["key"].to_numpy())
        self.keys = counts["key"].to_numpy()[order]
        self.ids = ids[order]
        self.cardinality = VOCABULARY_START + common

    def clear(self) -> None:
        self.fitted = False

    def transform(self, col_selector: ColumnSelector, df: Any) -> Any:
        keys, offsets = self._keys(df[col_selector.names[0]])
        ids = functions.vocabulary_ids(keys, self.keys, self.ids)
        if self.width is None:
            return _frame(df, {self.name: ids})
        cells = functions.padded(ids, offsets, self.width, keep_last=True)
        return _frame(df, dict(zip(self.outputs, cells.T, strict=True)))


class HashedIds(_Named):
    """Hash buckets, 1 and up, of one column or of the cross of several."""

    output_dtype = np.int32

    def __init__(self, name: str, buckets: int) -> None:
        super().__init__([name])
        self.name, self.buckets = name, buckets

    def transform(self, col_selector: ColumnSelector, df: Any) -> Any:
        return _frame(df, {self.name: functions.bucket_ids(_row_keys(df, col_selector.names), self.buckets)})


class WordIds(_Named):
    """Hash buckets of a text's first words, padded with 0 to `width` columns."""

    output_dtype = np.int32

    def __init__(self, name: str, buckets: int, width: int) -> None:
        super().__init__(list_outputs(name, width))
        self.name, self.buckets, self.width = name, buckets, width

    def transform(self, col_selector: ColumnSelector, df: Any) -> Any:
        (source,) = col_selector.names
        cells = functions.word_ids(_arrow(df[source]).to_pylist(), self.buckets, self.width)
        return _frame(df, dict(zip(self.outputs, cells.T, strict=True)))


class MomentPart(_Named):
    """Hour or weekday of a moment, or the days between two moments."""

    def __init__(self, name: str, part: Literal["hour", "weekday", "age_days"]) -> None:
        super().__init__([name])
        self.name, self.part = name, part

    @property
    def output_dtype(self) -> Any:
        return np.float32 if self.part == "age_days" else np.int32

    def transform(self, col_selector: ColumnSelector, df: Any) -> Any:
        moments = [df[name].to_numpy() for name in col_selector.names]
        return _frame(df, {self.name: _MOMENT_PARTS[self.part](*moments)})


_MOMENT_PARTS: dict[str, Any] = {
    "hour": functions.hour_ids,
    "weekday": functions.weekday_ids,
    "age_days": functions.age_days,
}


class KeyStatistic(_Named, StatOperator):
    """A statistic of a column per key, the key being one column or the cross of several.

    With a `fold` column, a training row takes the statistic over the other folds; a row whose fold is `NO_FOLD` takes
    the one over all rows, as serving does. A mean is smoothed: `smooth` rows of the overall mean are mixed in. An
    unknown key has the overall statistic, or a count of 0. Nulls do not count; NVTabular's JoinGroupby counts them.
    """

    output_dtype = np.float32

    def __init__(
        self, name: str, statistic: str, column: str | None = None, fold: str | None = None, smooth: float = 0.0
    ) -> None:
        if fold and statistic not in ("count", "mean"):
            raise ValueError(f"statistic must be count or mean to be taken out of fold; got {statistic}")
        super().__init__([name])
        self.name, self.statistic, self.column, self.fold, self.smooth = name, statistic, column, fold, smooth

    def _sources(self, col_selector: ColumnSelector) -> list[str]:
        return [name for name in col_selector.names if name not in (self.column, self.fold)]

    def _folds(self, frame: Any) -> NDArray[np.int64]:
        return frame[self.fold].to_numpy().astype(np.int64) if self.fold else np.full(len(frame), NO_FOLD)

    def fit(self, col_selector: ColumnSelector, ddf: Any) -> Any:
        sources = self._sources(col_selector)

        def chunk(frame: Any) -> Any:
            values = frame[self.column].to_numpy().astype(np.float64) if self.column else np.ones(len(frame))
            rows = pd.DataFrame({"key": _row_keys(frame, sources), "fold": self._folds(frame), "sum": values})
            rows = rows[np.isfinite(values)]
            spread = {"spread": 0.0} if self.statistic == "std" else {}
            return _summed(rows.assign(count=1, **spread, low=rows["sum"], high=rows["sum"]))

        meta = pd.DataFrame({"key": np.array([], np.uint64), "fold": np.array([], np.int64)} | _EMPTY_SUMS)
        meta = meta if self.statistic == "std" else meta.drop(columns="spread")
        return ddf.reduction(chunk, aggregate=_summed, combine=_summed, meta=meta, split_every=8)

    def fit_finalize(self, dask_stats: Any) -> None:
        whole = _summed(dask_stats.assign(fold=NO_FOLD)).sort_values("key")
        total = _summed(whole.assign(key=np.uint64(0)))
        self.folds = int(dask_stats["fold"].nunique())
        self.default = float(_statistic(total, self.statistic, 0.0, 0.0)[0]) if len(total) else 0.0
        if self.statistic == "count":
            self.default = 0.0
        self.keys = whole["key"].to_numpy()
        self.values = _statistic(whole, self.statistic, self.smooth, self.default).astype(np.float32)
        self.fold_keys, self.fold_values = np.array([], np.uint64), np.array([], np.float32)
        if self.fold:
            self._finalize_folds(dask_stats, whole, total)

    def _finalize_folds(self, sums: pd.DataFrame, whole: pd.DataFrame, total: pd.DataFrame) -> None:
        """Store, for each key and fold, the statistic over the other folds."""
        columns = ["count", "sum"]
        others = sums.merge(whole[["key", *columns]], on="key", suffixes=("", "_all"))
        by_fold = sums.groupby("fold")[columns].sum()
        rest = total[columns].to_numpy() - by_fold.loc[others["fold"]].to_numpy()
        for column in columns:
            others[column] = others[f"{column}_all"] - others[column]
        if self.statistic == "count":
            values = others["count"].to_numpy() * self.folds / max(self.folds - 1, 1)
        else:
            prior = np.divide(rest[:, 1], rest[:, 0], out=np.full(len(rest), self.default), where=rest[:, 0] > 0)
            values = _statistic(others, self.statistic, self.smooth, prior)
        keys = _fold_keys(others["key"].to_numpy(), others["fold"].to_numpy())
        order = np.argsort(keys)
        self.fold_keys, self.fold_values = keys[order], values.astype(np.float32)[order]

    def clear(self) -> None:
        self.fitted = False

    def transform(self, col_selector: ColumnSelector, df: Any) -> Any:
        keys = _row_keys(df, self._sources(col_selector))
        folds = self._folds(df)
        values = functions.looked_up(keys, self.keys, self.values, self.default)
        inside = folds != NO_FOLD
        if self.fold and inside.any():
            keys = _fold_keys(keys[inside], folds[inside])
            values[inside] = functions.looked_up(keys, self.fold_keys, self.fold_values, values[inside])
        return _frame(df, {self.name: values})


_EMPTY_SUMS: dict[str, Any] = {name: np.array([], np.float64) for name in ("sum", "count", "spread", "low", "high")}
_HOW = {"sum": "sum", "count": "sum", "spread": "sum", "low": "min", "high": "max"}


def _summed(rows: pd.DataFrame) -> Any:
    """Merge sums of equal keys and folds; `spread`, the squared distances from the mean, as Chan et al. (1979) do."""
    if "spread" in rows:  # at the price of memory, so only where it is asked for
        groups = rows.groupby(["key", "fold"])
        shift = rows["sum"] / rows["count"] - groups["sum"].transform("sum") / groups["count"].transform("sum")
        rows = rows.assign(spread=rows["spread"] + rows["count"] * shift**2)
    return rows.groupby(["key", "fold"], as_index=False).agg({k: how for k, how in _HOW.items() if k in rows})


def _summed_counts(rows: pd.DataFrame) -> Any:
    return rows.groupby("key", as_index=False).agg({"count": "sum"})


def _statistic(sums: pd.DataFrame, statistic: str, smooth: float, prior: Any) -> NDArray[np.float64]:
    """Return count, mean, std (ddof 1), min or max of each row of sums; a mean with `smooth` rows of the prior."""
    count, total = sums["count"].to_numpy(np.float64), sums["sum"].to_numpy()
    if statistic == "count":
        return count
    if statistic in ("min", "max"):
        return sums["low" if statistic == "min" else "high"].to_numpy(np.float64)
    if statistic == "mean":
        weight = count + smooth
        return np.asarray(np.where(weight > 0, (total + smooth * prior) / np.maximum(weight, 1e-300), prior))
    return np.asarray(np.sqrt(sums["spread"].to_numpy() / np.maximum(count - 1, 1)))


def _fold_keys(keys: UInt64Array, folds: NDArray[np.int64]) -> UInt64Array:
    return combined_keys(keys, int_keys(folds))


def _arrow(series: Any) -> pa.Array:
    """Return a pandas or cuDF column as Arrow, in host memory."""
    array = series.to_arrow() if hasattr(series, "to_arrow") else pa.Array.from_pandas(series)
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _list_keys(lists: pa.Array) -> tuple[UInt64Array, NDArray[np.int64]]:
    """Return the keys of the lists' values, one list after the other, and where each list begins and the last ends."""
    if pa.types.is_null(lists.type):  # what pandas makes of rows that are all null
        lists = lists.cast(pa.list_(pa.null()))
    lengths = lists.value_lengths().fill_null(0).to_numpy()
    return _keys(lists.flatten()), np.concatenate([[0], np.cumsum(lengths)])


def _keys(array: pa.Array) -> UInt64Array:
    """Return the keys of strings, bytes, integers or booleans; of nulls those of the canonical null."""
    if pa.types.is_integer(array.type) or pa.types.is_boolean(array.type) or pa.types.is_floating(array.type):
        return int_keys(array.cast(pa.int64()).fill_null(NULL_INT).to_numpy())
    return string_keys(arrow_strings(array.cast(pa.large_string())))


def _row_keys(frame: Any, names: list[str]) -> UInt64Array:
    return combined_keys(*(_keys(_arrow(frame[name])) for name in names))


def _frame(like: Any, columns: dict[str, NDArray[Any]]) -> Any:
    """Return columns as a frame of the same library and index as `like`."""
    return type(like)(columns, index=like.index)
