"""The least that features need, in plain loops that numba compiles: a hash, one random read and one write a cell.

The reads are from tables as large as the plan's, at places that a multiplication of the key gives, so that the ids mean
nothing; no key is compared and no collision followed. Numbers get the true arithmetic, in loops that LLVM can
vectorize. No memory is asked for before it is read, which Numba has no word for, so a plan can be faster.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from benchmarks.peers.features import Columns, Packed, System, Tables, is_text, outputs
from feature_eng.strings import encoded

ROWS_A_THREAD = 16_384  # at least, as a plan shares them
_BLOCK = 512  # rows whose cells stay in the nearest cache
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_WORD = np.uint64(8)
_HALF = np.uint64(32)


def limit_system(tables: Tables, table_bytes: Mapping[str, int], threads: int | None = None) -> System:
    """Return the system; it takes strings as their bytes with starts and ends, and writes into the same output again.

    Args:
        tables: the columns and the numbers of the continuous ones.
        table_bytes: size of each categorical column's table.
        threads: most threads that share the rows, with `ROWS_A_THREAD` or more for each; one a core by default.
    """
    texts = np.array([is_text(keys) for keys, _ in tables.vocabularies.values()])
    names = np.array(list(tables.vocabularies))
    int_tables, text_tables = (_tables(table_bytes, names[kind], np.flatnonzero(kind)) for kind in (~texts, texts))
    fitted = (tables.medians, tables.means, np.float32(1) / tables.deviations)
    workers = threads or os.cpu_count() or 1
    pool = ThreadPoolExecutor(workers)

    output = outputs(len(names), len(tables.continuous))

    def form(columns: Columns) -> tuple[Callable[..., None], tuple[Any, ...], Packed]:
        values = tuple(columns[name] for name in tables.continuous)
        keys = (tuple(columns[name] for name in names[~texts]), *int_tables)
        out = output(len(values[0]))
        if not texts.any():
            return _features, (keys, (values, *fitted), out), out
        encodings = [encoded(columns[name]) for name in names[texts]]
        strings = tuple(tuple(getattr(e, part) for e in encodings) for part in ("data", "starts", "ends"))
        return _mixed_features, (keys, (strings, *text_tables), (values, *fitted), out), out

    def run(prepared: tuple[Callable[..., None], tuple[Any, ...], Packed]) -> Packed:
        compute, operands, out = prepared
        rows = len(out[0])
        shares = max(1, min(workers, rows // ROWS_A_THREAD))
        if shares == 1:
            compute(0, rows, *operands)
        else:
            cuts = [rows * share // shares for share in range(shares + 1)]
            list(pool.map(lambda start, stop: compute(start, stop, *operands), cuts[:-1], cuts[1:]))
        return out

    return System(form, run)


def _tables(table_bytes: Mapping[str, int], names: NDArray[Any], places: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
    """Return the cells of all tables, where each table ends, and the columns' places in the output."""
    ends = np.cumsum([0, *(table_bytes[name] // 4 for name in names)]).astype(np.uint64)
    return np.random.default_rng(0).integers(0, 2**31, int(ends[-1]), dtype=np.int32), ends, places


@njit(nogil=True, cache=True)
def _features(start, stop, keys, numbers, out):
    for begin in range(start, stop, _BLOCK):
        end = min(begin + _BLOCK, stop)
        _int_ids(begin, end, *keys, out[0])
        _numbers(begin, end, *numbers, out[1])


@njit(nogil=True, cache=True)
def _mixed_features(start, stop, keys, texts, numbers, out):
    for begin in range(start, stop, _BLOCK):
        end = min(begin + _BLOCK, stop)
        _int_ids(begin, end, *keys, out[0])
        _text_ids(begin, end, *texts, out[0])
        _numbers(begin, end, *numbers, out[1])


@njit(nogil=True, cache=True)
def _int_ids(begin, end, keys, cells, ends, places, categorical):
    for column in range(len(keys)):
        values, place = keys[column], places[column]
        first, size = ends[column], ends[column + 1] - ends[column]
        for row in range(begin, end):
            mixed = np.uint64(values[row]) * _PRIME
            categorical[row, place] = cells[first + ((mixed >> _HALF) * size >> _HALF)]


@njit(nogil=True, cache=True)
def _text_ids(begin, end, texts, cells, ends, places, categorical):
    for column in range(len(places)):
        data, starts, stops = texts[0][column], texts[1][column], texts[2][column]
        first, size, place = ends[column], ends[column + 1] - ends[column], places[column]
        for row in range(begin, end):
            mixed = _hash(data, np.uint64(starts[row]), np.uint64(stops[row]))
            categorical[row, place] = cells[first + ((mixed >> _HALF) * size >> _HALF)]


@njit(nogil=True, cache=True)
def _hash(data, at, end):
    state = end - at
    if state < _WORD:
        word = np.uint64(0)
        for place in range(at, end):
            word = word << _WORD | np.uint64(data[place])
        return (state ^ word) * _PRIME
    while at + _WORD < end:
        state = (state ^ _word(data, at)) * _PRIME
        at += _WORD
    return (state ^ _word(data, end - _WORD)) * _PRIME  # some bytes may count twice, which spares a branch


@njit(nogil=True, cache=True)
def _word(data, at):
    word = np.uint64(0)
    for byte in range(8):  # LLVM makes one load of it
        word |= np.uint64(data[at + np.uint64(byte)]) << np.uint64(8 * byte)
    return word


@njit(nogil=True, cache=True, error_model="numpy")
def _numbers(begin, end, numbers, medians, means, scales, continuous):
    column_of = np.empty(_BLOCK, dtype=np.float32)
    for column in range(len(numbers)):
        values = numbers[column]
        median, mean, scale = medians[column], means[column], scales[column]
        for row in range(begin, end):
            value = values[row] if abs(values[row]) < np.float32(np.inf) else median
            column_of[row - begin] = (_log(max(value, np.float32(0)) + np.float32(1)) - mean) * scale
        for row in range(begin, end):
            continuous[row, column] = column_of[row - begin]


@njit(nogil=True, cache=True)
def _log(value):
    """Return the logarithm of a finite float32 from 1 up; a call of libm would keep a loop from being vectorized.

    Source: S. Moshier, Cephes, logf.
    """
    bits = np.float32(value).view(np.int32)
    exponent = (bits - np.int32(0x3F3504F3)) >> np.int32(23)
    x = np.int32(bits - (exponent << np.int32(23))).view(np.float32) - np.float32(1)
    y = np.float32(7.0376836292e-2)
    y = y * x + np.float32(-1.1514610310e-1)
    y = y * x + np.float32(1.1676998740e-1)
    y = y * x + np.float32(-1.2420140846e-1)
    y = y * x + np.float32(1.4249322787e-1)
    y = y * x + np.float32(-1.6668057665e-1)
    y = y * x + np.float32(2.0000714765e-1)
    y = y * x + np.float32(-2.4999993993e-1)
    y = y * x + np.float32(3.3333331174e-1)
    square, scale = x * x, np.float32(exponent)
    y = y * x * square + scale * np.float32(-2.12194440e-4) - np.float32(0.5) * square
    return x + y + scale * np.float32(0.693359375)
