"""A plan's instructions as the numbers that `kernels.execute` reads: checked once, then trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_eng import kernels
from feature_eng.array_objects import Expected, expected
from feature_eng.inputs import UNSEEN_ID, Input
from feature_eng.layout import Layout

Array = NDArray[Any]


class PlanError(ValueError):
    """A plan is not whole, was changed, or is of a format that this version does not read."""


@dataclass(frozen=True)
class Instruction:
    """One operation: reads the registers `inputs` and the plan's arrays in `arrays`, writes the register `output`.

    `numbers` are the operation's settings, `steps` those of a chain of arithmetic: each a name and its constants.
    """

    op: str
    inputs: tuple[str, ...]
    output: str
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    arrays: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[tuple[Any, ...], ...] = ()


# What a register holds: an input's dtype, a list of it, or what an operation computed.
INPUT_KINDS = ("int64", "string", "float32", "float64", "int64 list", "string list")
NUMERIC = ("float32", "float64", "int64", "number")
SCALARS = ("float32", "float64", "int64", "string")

STEPS = {
    "finite": (kernels.FINITE, 0),
    "fill": (kernels.FILL, 1),
    "clip": (kernels.CLIP, 2),
    "log": (kernels.LOG, 1),
    "normalize": (kernels.NORMALIZE, 2),
    "scale": (kernels.SCALE, 2),
    "over_twice": (kernels.OVER_TWICE, 0),
    "null": (kernels.NULL, 0),
}


@dataclass(frozen=True)
class Operation:
    """What an instruction's operation reads and writes, and how its settings are laid out for the kernel.

    `reads` are the kinds that each operand may have; a last `...` lets the one before it come any number of times.
    """

    code: int
    reads: tuple[Any, ...]
    writes: str
    settings: Callable[[_Reader], Sequence[int]] = lambda reader: ()


class _Reader:
    """The numbers and arrays of one instruction, each checked as it is read."""

    def __init__(
        self, step: Instruction, arrays: Mapping[str, Array], kinds: Sequence[str], steps: int, width: int
    ) -> None:
        self.step, self.arrays, self.kinds, self.steps, self.width = step, arrays, kinds, steps, width
        self.taken: set[str] = set()

    def number(self, name: str) -> float | None:
        value = self.step.numbers[name]
        self.taken.add(name)
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        value = self.number(name)
        if not isinstance(value, int) or not low <= value <= high:
            raise PlanError(f"{name} of {self.step.output} must be an integer from {low} to {high}; got {value!r}")
        return value

    def bits(self, name: str) -> int:
        """Return a float32 number's bits; null is NaN."""
        value = self.number(name)
        return int(np.float32(np.nan if value is None else _finite(self.step.output, name, value)).view(np.int32))

    def other_id(self) -> int:
        """Return the id of keys that a vocabulary does not list."""
        return self.integer("default", *_IDS) if "default" in self.step.numbers else UNSEEN_ID

    def array(self, name: str, dtype: str, *shape: int | None) -> Array:
        key = self.step.arrays[name]
        self.taken.add(name)
        if key not in self.arrays:
            raise PlanError(f"instruction {self.step.output} must use arrays of the plan; got {key}")
        array = self.arrays[key]
        fits = array.ndim == len(shape) and all(w in (None, s) for w, s in zip(shape, array.shape, strict=True))
        if array.dtype != np.dtype(dtype) or not fits or not len(array) or not array.flags.c_contiguous:
            wanted = f"contiguous {dtype} [{', '.join('n' if w is None else str(w) for w in shape)}]"
            raise PlanError(f"plan array {key} must be {wanted}; got {array.dtype} {list(array.shape)}")
        return array

    def hash_table(self) -> tuple[int, int]:
        table = self.array("table", "<u8", None, kernels.LINE_BYTES // 8)
        return table.ctypes.data, len(table)

    def dense_table(self) -> tuple[int, int, int]:
        table = self.array("table", "<i4", None)
        return table.ctypes.data, len(table), self.integer("low", -(2**63), 2**63 - 1)


def _finite(output: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise PlanError(f"{name} of {output} must be a finite number; got {value!r}")
    return float(value)


def _edges(reader: _Reader) -> Sequence[int]:
    edges = reader.array("edges", "<f8", None)
    if not (edges[1:] >= edges[:-1]).all():
        falls = int((~(edges[1:] >= edges[:-1])).argmax())
        raise PlanError(
            f"plan array {reader.step.arrays['edges']} must ascend; got {edges[falls : falls + 2].tolist()}"
        )
    chain = (reader.steps, len(reader.step.steps))
    return edges.ctypes.data, len(edges), reader.integer("first", 0, 2**31 - 1), _source(reader), *chain


_SOURCES = {
    "float32": kernels.FLOAT32,
    "float64": kernels.FLOAT64,
    "int64": kernels.INT64,
    "string": kernels.TEXT,
    "number": kernels.REGISTER,
}


def _source(reader: _Reader) -> int:
    return _SOURCES[reader.kinds[0]]


def _chain(reader: _Reader) -> Sequence[int]:
    return _source(reader), reader.steps, len(reader.step.steps), reader.integer("double", 0, 1)


def _list_table(reader: _Reader) -> Sequence[int]:
    if reader.step.op == "list_vocabulary":  # as wide as its slot, which is narrower than any list is long
        bounds = (-reader.width, _LAST, 0) if reader.integer("keep_last", 0, 1) else (0, _LAST, 0)
    else:
        bounds = (
            reader.integer("start", -_LAST, _LAST),
            reader.integer("end", -_LAST, _LAST),
            reader.integer("padding", *_IDS),
        )
    return *reader.hash_table(), int(reader.kinds[0] == "string list"), *bounds


def _lag(reader: _Reader) -> Sequence[int]:
    kinds = reader.kinds
    if kinds[0] == "string" or not 2 <= len(kinds) <= 20:
        raise PlanError(
            f"instruction {reader.step.output} must read a number and 1 to 19 inputs; got {', '.join(kinds)}"
        )
    packed = sum(_SOURCES[kind] << (3 * index) for index, kind in enumerate(kinds))
    return _source(reader), reader.integer("shift", -(2**31), 2**31), packed


_LAST = 2**63 - 1
_BUCKETS = (1, 2**31 - 2)
_IDS = (0, 2**31 - 1)

OPERATIONS: dict[str, Operation] = {
    "int_keys": Operation(kernels.INT_KEYS, (("int64", "id"),), "key"),
    "float_keys": Operation(kernels.FLOAT_KEYS, (("float32", "float64"),), "key", lambda r: [_source(r)]),
    "string_keys": Operation(kernels.STRING_KEYS, ("string",), "key"),
    "combined_keys": Operation(kernels.COMBINED_KEYS, ("key", ...), "key"),
    "buckets": Operation(kernels.BUCKETS, ("key",), "id", lambda r: [r.integer("buckets", *_BUCKETS)]),
    "vocabulary": Operation(kernels.FIND, ("key",), "id", lambda r: [*r.hash_table(), r.other_id()]),
    "statistic": Operation(kernels.FIND, ("key",), "number", lambda r: [*r.hash_table(), r.bits("default")]),
    "dense_vocabulary": Operation(
        kernels.DIRECT, ("int64",), "id", lambda r: [*r.dense_table(), r.other_id(), r.integer("null", *_IDS)]
    ),
    "dense_statistic": Operation(
        kernels.DIRECT, ("int64",), "number", lambda r: [*r.dense_table(), r.bits("default"), r.bits("null")]
    ),
    "list_vocabulary": Operation(kernels.LIST_FIND, (("int64 list", "string list"),), "id", _list_table),
    "list_slice": Operation(kernels.LIST_FIND, (("int64 list", "string list"),), "id", _list_table),
    "words": Operation(kernels.WORDS, ("string",), "id", lambda r: [r.integer("buckets", *_BUCKETS)]),
    "hour": Operation(kernels.HOUR, ("int64",), "id"),
    "weekday": Operation(kernels.WEEKDAY, ("int64",), "id"),
    "age_days": Operation(kernels.AGE_DAYS, ("int64", "int64"), "number"),
    "numbers": Operation(kernels.NUMBERS, (NUMERIC,), "number", _chain),
    "bucketize": Operation(kernels.BUCKETIZE, (NUMERIC,), "id", _edges),
    "is_null": Operation(kernels.IS_NULL, ((*SCALARS, "number"),), "id", lambda r: [_source(r)]),
    "difference_lag": Operation(kernels.DIFFERENCE_LAG, (SCALARS, ...), "number", _lag),
    "constant": Operation(kernels.CONSTANT, (), "number", lambda r: [r.bits("value")]),
}


@dataclass(frozen=True)
class Program:
    """A plan in the form that `kernels.execute` takes; `names` are its registers in order, `width` the layout's S.

    `arrays` are those whose addresses `code` holds, kept alive as long as it is. `columns` takes every tensor from a
    request, in order, of which those at the places `texts` are strings, True where they are split into words. `plain`
    is what most requests' arrays are like.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    code: NDArray[np.int64]
    operands: NDArray[np.int64]
    registers: NDArray[np.int64]
    steps: NDArray[np.int64]
    constants: tuple[NDArray[np.float32], NDArray[np.float64]]
    keys: int
    cells: int
    width: int
    words: frozenset[str]
    arrays: tuple[Array, ...]
    columns: Callable[[Mapping[str, Any]], tuple[Any, ...]]
    texts: Mapping[int, bool]
    plain: Expected


def _plain(inputs: Sequence[Input], words: Container[str]) -> Expected:
    dtypes: list[np.dtype[Any]] = []
    rows_of: list[int] = []
    for index, given in enumerate(inputs):
        by_row = kernels.ANY_LENGTH if given.is_list else index
        if given.dtype == "string":
            for _ in range(2 if given.name in words else 1):
                dtypes += (np.dtype(np.uint8), np.dtype(np.int64), np.dtype(np.int64))
                rows_of += (kernels.ANY_LENGTH, by_row, by_row)
        else:
            dtypes.append(np.dtype(given.dtype))
            rows_of.append(by_row)
        if given.is_list:
            dtypes.append(np.dtype(np.int64))
            rows_of.append(kernels.OFFSETS - index)
    return expected(dtypes, rows_of)


def _all_of(names: Sequence[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """Return what takes the values of all names from a mapping; with two names or more, in one step of Python's."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda columns: tuple(columns[name] for name in names)


def addresses_of(given: Input, words: Container[str]) -> int:
    """Return how many arrays `bound_columns` makes of an input, where those named in `words` are split into words."""
    return (3 if given.dtype == "string" else 1) + (3 if given.name in words else 0) + given.is_list


class _Assembler:
    """Gives registers their places and writes the code line by line."""

    def __init__(self, inputs: Sequence[Input], words: Container[str]) -> None:
        self.index: dict[str, int] = {}
        self.kinds: list[str] = []
        self.places: list[tuple[int, int]] = []
        self.used = {kernels.KEYS: 0, kernels.CELLS: 0}
        self.code: list[list[int]] = []
        self.operands: list[int] = []
        self.steps: list[int] = []
        self.constants: list[list[float]] = []
        tensors = [name for i in inputs for name in i.tensors]
        if len(set(tensors)) < len(tensors):
            raise PlanError(f"plan must have inputs of different names; got {', '.join(tensors)}")
        address = 0
        for given in inputs:
            kind = f"{given.dtype} list" if given.is_list else given.dtype
            if kind not in INPUT_KINDS:
                raise PlanError(f"input {given.name} must be one of {', '.join(INPUT_KINDS)}; got {kind}")
            self.add(given.name, kind, (kernels.INPUT, address))
            address += addresses_of(given, words)

    def add(self, name: str, kind: str, place: tuple[int, int]) -> int:
        if name in self.index:
            raise PlanError(f"plan must write each register once; got {name} twice")
        self.index[name] = len(self.places)
        self.kinds.append(kind)
        self.places.append(place)
        return self.index[name]

    def place(self, kind: str, width: int) -> tuple[int, int]:
        """Return room for a register that is not packed."""
        bank = kernels.KEYS if kind == "key" else kernels.CELLS
        self.used[bank] += width
        return bank, self.used[bank] - width

    def write(self, op: int, output: int, width: int, read: Sequence[int], settings: Sequence[int]) -> None:
        line = [op, output, width, len(self.operands), len(read), *settings]
        self.code.append(line + [0] * (kernels.FIELDS - len(line)))
        self.operands += read

    def chain(self, step: Instruction) -> None:
        """Append the steps of a chain of arithmetic."""
        kinds, constants = chain_constants(step.output, step.steps)
        self.steps += kinds
        self.constants += constants


def chain_constants(name: str, steps: Sequence[tuple[Any, ...]]) -> tuple[list[int], list[list[float]]]:
    """Return the kinds of a chain's steps and two constants for each.

    Raises:
        PlanError: naming the register `name` and the rule it breaks.
    """
    kinds, constants = [], []
    for kind, *given in steps:
        if kind not in STEPS or len(given) != STEPS[kind][1]:
            listed = ", ".join(f"{known} ({count} numbers)" for known, (_, count) in STEPS.items())
            raise PlanError(f"steps of {name} must be of {listed}; got {[kind, *given]}")
        values = [_finite(name, kind, value) for value in given if value is not None]
        if kind == "clip":  # a bound that is left out is null
            low, high = given
            values = [-math.inf if low is None else values[0], math.inf if high is None else values[-1]]
        if len(values) != len(given):
            raise PlanError(f"{kind} of {name} must be a finite number; got None")
        kinds.append(STEPS[kind][0])
        constants.append(values + [0.0] * (2 - len(values)))
    return kinds, constants


def assemble(
    inputs: Sequence[Input],
    instructions: Sequence[Instruction],
    layout: Layout,
    categorical: Sequence[str],
    continuous: Sequence[str],
    arrays: Mapping[str, Array],
) -> Program:
    """Check a plan's parts against one another and lay them out for the kernel.

    Raises:
        PlanError: naming the register, number or array and the rule it breaks.
    """
    if (len(layout.categorical), len(layout.continuous)) != (len(categorical), len(continuous)):
        packed = f"{len(categorical)} and {len(continuous)}"
        raise PlanError(f"plan must pack as many registers as its layout has columns; got {packed}")
    words = frozenset(name for step in instructions if step.op == "words" for name in step.inputs)
    out = _Assembler(inputs, words)
    packed_at: dict[str, tuple[int, int]] = {}
    again: list[tuple[str, tuple[int, int], int]] = []
    column = 0
    for slot, name in zip(layout.categorical, categorical, strict=True):
        _pack(packed_at, again, name, (kernels.CATEGORICAL, column), slot.width)
        column += slot.width
    for column, name in enumerate(continuous):
        _pack(packed_at, again, name, (kernels.CONTINUOUS, column), 1)
    widths = {name: slot.width for slot, name in zip(layout.categorical, categorical, strict=True)}
    for step in instructions:
        _assemble_one(out, step, arrays, packed_at.get(step.output), widths.get(step.output, 1))
    for name in (*categorical, *continuous):
        wanted = "id" if name in widths else "number"
        found = out.kinds[out.index[name]] if name in out.index else "nothing"
        if found != wanted:
            raise PlanError(f"plan must pack registers that it writes, {name} as {wanted}; got {found}")
    for name, place, width in again:
        register = out.add(f"{name} in {place[1]}", "copy", place)
        out.write(kernels.COPY, register, width, [out.index[name]], [])
    tensors = [name for given in inputs for name in given.tensors]
    return Program(
        names=tuple(out.index),
        kinds=tuple(out.kinds),
        code=np.array(out.code, dtype=np.int64).reshape(-1, kernels.FIELDS),
        operands=np.array(out.operands, dtype=np.int64),
        registers=np.array(out.places, dtype=np.int64).reshape(-1, 2),
        steps=np.array(out.steps, dtype=np.int64),
        constants=(
            np.array(out.constants, dtype=np.float32).reshape(-1, 2),
            np.array(out.constants, dtype=np.float64).reshape(-1, 2),
        ),
        keys=out.used[kernels.KEYS],
        cells=out.used[kernels.CELLS],
        width=layout.categorical_width,
        words=words,
        arrays=tuple(arrays.values()),
        columns=_all_of(tensors),
        texts={tensors.index(i.tensors[0]): i.name in words for i in inputs if i.dtype == "string"},
        plain=_plain(inputs, words),
    )


def _pack(placed: dict[str, Any], again: list[Any], name: str, place: tuple[int, int], width: int) -> None:
    if name in placed:
        again.append((name, place, width))
    else:
        placed[name] = place


def _assemble_one(
    out: _Assembler, step: Instruction, arrays: Mapping[str, Array], packed: tuple[int, int] | None, width: int
) -> None:
    if step.op not in OPERATIONS:
        raise PlanError(f"instruction {step.output} must be one of {', '.join(OPERATIONS)}; got {step.op}")
    operation = OPERATIONS[step.op]
    for name in step.inputs:
        if name not in out.index:
            raise PlanError(f"instruction {step.output} must read registers written before it; got {name}")
    kinds = [out.kinds[out.index[name]] for name in step.inputs]
    _check_kinds(step, operation.reads, kinds)
    if width != 1 and step.op not in ("words", "list_vocabulary", "list_slice"):
        raise PlanError(f"instruction {step.output} must fill its slot's {width} columns; got 1")
    if packed and packed[0] != (kernels.CATEGORICAL if operation.writes == "id" else kernels.CONTINUOUS):
        raise PlanError(f"plan must pack ids as categorical, numbers as continuous; got {step.output} otherwise")
    reader = _Reader(step, arrays, kinds, len(out.steps), width)
    try:
        settings = [int(value) for value in operation.settings(reader)]
    except KeyError as error:
        raise PlanError(f"instruction {step.output} must have {error.args[0]}; got none") from None
    if others := {*step.numbers, *step.arrays} - reader.taken:
        known = ", ".join(sorted(reader.taken)) or "none"
        raise PlanError(f"settings of {step.output} must be {known}; got {', '.join(sorted(others))} too")
    out.chain(step)
    register = out.add(step.output, operation.writes, packed or out.place(operation.writes, width))
    out.write(operation.code, register, width, [out.index[name] for name in step.inputs], settings)


def _check_kinds(step: Instruction, reads: tuple[Any, ...], kinds: Sequence[str]) -> None:
    wanted = list(reads)
    if wanted and wanted[-1] is ...:
        wanted = [wanted[0]] * max(len(kinds), 1)
    fits = len(wanted) == len(kinds) and all(k == w or k in w for w, k in zip(wanted, kinds, strict=True))
    if not fits:
        listed = ", ".join(w if isinstance(w, str) else " or ".join(w) for w in wanted)
        found = ", ".join(kinds) or "nothing"
        raise PlanError(f"instruction {step.output} must read {listed or 'nothing'}; got {found}")
