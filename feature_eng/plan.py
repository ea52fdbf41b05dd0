"""The compiled workflow: a short list of array instructions, run by compiled loops on numpy arrays alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_eng import kernels
from feature_eng.array_objects import data_addresses, recognised
from feature_eng.columns import bound_columns
from feature_eng.inputs import Input
from feature_eng.layout import Layout
from feature_eng.program import Instruction, Program, assemble
from feature_eng.strings import Strings, with_plain_words

Packed = tuple[NDArray[np.int32], NDArray[np.float32]]

# Fewer rows than this are not worth a thread of their own.
ROWS_A_THREAD = 16_384
_INT32, _FLOAT32 = np.dtype(np.int32), np.dtype(np.float32)


@dataclass(frozen=True)
class Plan:
    """Raw columns to packed features.

    `categorical` and `continuous` name, in the layout's order, the registers that are packed.
    """

    fingerprint: str
    inputs: tuple[Input, ...]
    instructions: tuple[Instruction, ...]
    layout: Layout
    categorical: tuple[str, ...]
    continuous: tuple[str, ...]
    arrays: Mapping[str, NDArray[Any]]

    @cached_property
    def program(self) -> Program:
        """The instructions as the kernel reads them.

        Raises:
            PlanError: the plan's parts do not fit together.
        """
        return assemble(self.inputs, self.instructions, self.layout, self.categorical, self.continuous, self.arrays)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the program: it holds the arrays' addresses, and a copy's arrays lie elsewhere."""
        return {name: value for name, value in vars(self).items() if name != "program"}

    def run(
        self, columns: Mapping[str, Any], rows: int, out: Packed | None = None, threads: int | None = None
    ) -> Packed:
        """Compute the features of some rows.

        Args:
            columns: each input's arrays by name; 1 or `rows` long, and a column 1 long is computed once for every row.
            rows: B.
            out: arrays to write to, of the result's shapes and dtypes, contiguous, that share no memory with the
                columns; new ones by default.
            threads: most threads that share the rows, at least 1; by default the processor's, with 16,384 rows or more
                for each.

        Returns:
            `categorical` int32 (B, S) and `continuous` float32 (B, D), as the layout says.

        Raises:
            ValueError: a column is missing, of another dtype, or of another length; `out` cannot be written to or is of
                another shape; or there are fewer threads than 1.
        """
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1; got {threads}")
        program = self.program
        held, addresses, once = self._bound(columns, rows)
        categorical, continuous = _outputs((rows, program.width), (rows, len(self.continuous)), out)
        shares = 1 if rows < 2 * ROWS_A_THREAD else max(1, min(threads or _processors(), rows // ROWS_A_THREAD))
        lines = program.code, program.operands, program.registers, program.steps, *program.constants
        request = (*lines, program.keys, program.cells, once, addresses, categorical, continuous)
        if shares == 1:
            kernels.execute(*request, 0, rows)
        else:
            bounds = [rows * share // shares for share in range(shares + 1)]
            list(_threads(os.getpid()).map(partial(kernels.execute, *request), bounds[:-1], bounds[1:]))
        del held  # until here, so that the columns stay where they are
        return categorical, continuous

    def _bound(self, columns: Mapping[str, Any], rows: int) -> tuple[Any, NDArray[np.int64], NDArray[np.bool_]]:
        """Return the arrays that carry a request, where their data lie, and which registers have one row for all."""
        program = self.program
        once = np.zeros(len(program.names), dtype=np.bool_)
        if rows >= 0:
            arrays = _plain(program, columns)
            addresses = None if arrays is None else recognised(arrays, program.plain, rows, once)
            if addresses is not None:
                return arrays, addresses, once
        arrays, inputs_once = bound_columns(self.inputs, columns, rows, program.words)
        once[: len(inputs_once)] = inputs_once
        return arrays, data_addresses(arrays), once


def _outputs(ids: tuple[int, int], numbers: tuple[int, int], out: Packed | None) -> Packed:
    """Return arrays of the shapes to write to, those that were given if they fit."""
    if out is None:
        return np.empty(ids, dtype=np.int32), np.empty(numbers, dtype=np.float32)
    categorical, continuous = out
    _check_output("categorical", categorical, ids, _INT32)
    _check_output("continuous", continuous, numbers, _FLOAT32)
    return out


def _check_output(name: str, array: NDArray[Any], shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    flags = array.flags
    if array.shape != shape or array.dtype != dtype or not flags.c_contiguous:
        wanted = f"{name} {dtype} {list(shape)}, contiguous"
        raise ValueError(f"out must hold {wanted}; got {array.dtype} {list(array.shape)}")
    if not flags.writeable:
        raise ValueError(f"out must hold a {name} that can be written to; got a read-only array")


def _plain(program: Program, columns: Mapping[str, Any]) -> Sequence[Any] | None:
    """Return the arrays that carry a request, or None if a tensor is missing or strings are no `Strings`."""
    try:
        given = program.columns(columns)
    except KeyError:
        return None
    if not program.texts:
        return given
    arrays: list[Any] = []
    for place, values in enumerate(given):
        if place not in program.texts:
            arrays.append(values)
        elif isinstance(values, Strings):
            arrays += (values.data, values.starts, values.ends)
            if program.texts[place]:
                plain = with_plain_words(values)
                arrays += (plain.data, plain.starts, plain.ends)
        else:
            return None
    return arrays


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def _threads(process: int) -> ThreadPoolExecutor:
    """Return this process's threads; a forked child has none of its parent's."""
    return ThreadPoolExecutor(_processors(), thread_name_prefix="plan")
