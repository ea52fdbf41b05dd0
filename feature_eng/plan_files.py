"""A plan's folder: one JSON file, one .npy file an array, and checksums; see docs/plan-format.md."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from feature_eng import kernels, plan_json
from feature_eng.digests import BLOCK_BYTES, blocks_sha256, file_sha256, joined_digest
from feature_eng.inputs import NULL_INT, NULL_STRING, Input
from feature_eng.layout import Layout
from feature_eng.plan import Plan
from feature_eng.plan_checks import Extremes, check_parts, check_tables, extremes
from feature_eng.program import PlanError

Array = NDArray[Any]

_DTYPES = ("<u8", "<i4", "<f8")
_CHUNK = 1 << 20  # bytes, of which a processor's own cache holds some
_LINE = (kernels.LINE_BYTES // 8,)
_MAGIC = b"\x93NUMPY\x01\x00"
_NOTHING = Plan("", (), (), Layout((), ()), (), (), {})


def save_plan(plan: Plan, folder: str | Path) -> None:
    """Write a plan to a folder, which appears only once it is whole.

    Raises:
        PlanError: the plan's parts do not fit together.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in plan.arrays.items()}
    _check(replace(plan, arrays=arrays), {name: extremes(array) for name, array in arrays.items()})
    folder = Path(folder)
    beside = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    (beside / "arrays").mkdir(parents=True)
    listed = {}
    for name, array in arrays.items():
        path = beside / "arrays" / f"{name}.npy"
        np.save(path, array, allow_pickle=False)
        listed[name] = {"dtype": array.dtype.str, "shape": list(array.shape), "sha256": blocks_sha256(path)}
    text = {
        "format": plan_json.FORMAT,
        "fingerprint": plan.fingerprint,
        "inputs": [asdict(i) for i in plan.inputs],
        "instructions": [plan_json.instruction_json(i) for i in plan.instructions],
        "layout": plan.layout.to_json(),
        "categorical": list(plan.categorical),
        "continuous": list(plan.continuous),
        "arrays": listed,
    }
    (beside / "plan.json").write_text(json.dumps(text, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    line = f"{file_sha256(beside / 'plan.json')}  plan.json\n"  # which `sha256sum --check` reads
    (beside / "plan.json.sha256").write_text(line, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    beside.replace(folder)


def load_plan(folder: str | Path, fingerprint: str | None = None) -> Plan:
    """Read a plan, check all of it, and run it on a row of nulls, so that the first request finds it warm.

    Its arrays are memory-mapped: processes that load the same folder share them. They are read once, a little at a
    time, to be checked, and trusted from then on: a plan in use is replaced by another folder, never written to.

    Args:
        folder: that `save_plan` wrote.
        fingerprint: of the schema that the plan must be of; any by default.

    Raises:
        PlanError: a file is missing or changed, the format or an instruction is unknown, an array is of another dtype,
            shape or range, or the plan is of another schema.
    """
    folder = Path(folder)
    try:
        raw = plan_json.parse(_read_signed(folder))
        if fingerprint not in (None, raw["fingerprint"]):
            raise PlanError(f"must be of the schema {fingerprint}; got {raw['fingerprint']}")
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            warmed = threads.submit(_NOTHING.run, {}, 0)  # the loops come from their cache while files are read
            read = _read_arrays(folder, raw["arrays"], threads)
        warmed.result()
        plan = Plan(**plan_json.parts(raw), arrays={name: array for name, (array, _) in read.items()})
        _check(plan, {name: largest for name, (_, largest) in read.items()})
        plan.run(_row_of_nulls(plan.inputs), 1)
    except (ValueError, OSError) as error:
        raise PlanError(f"plan {folder}: {error}") from None
    return plan


def _check(plan: Plan, largest: Mapping[str, Extremes]) -> None:
    check_parts(plan)
    plan.program  # noqa: B018 - assembles, which checks
    check_tables(plan, largest)


def _read_signed(folder: Path) -> bytes:
    """Return plan.json, which is as it was written."""
    for name in ("plan.json", "plan.json.sha256"):
        if not (folder / name).is_file():
            raise PlanError(f"must hold {name}; got none")
    data = (folder / "plan.json").read_bytes()
    if (folder / "plan.json.sha256").read_bytes() != f"{hashlib.sha256(data).hexdigest()}  plan.json\n".encode():
        raise PlanError("plan.json must be as it was written; got another checksum")
    return data


def _read_arrays(folder: Path, listed: Mapping[str, Any], threads: Executor) -> dict[str, tuple[Array, Extremes]]:
    """Return each array, mapped once it has been read and found as it was written, and what is largest in it.

    The reading leaves a chunk in memory a thread: pages that were read through the map would count as the process's.
    """
    with ExitStack() as opened:
        files = {name: opened.enter_context(_open_array(folder, name, about)) for name, about in listed.items()}
        sizes = {name: os.fstat(file.fileno()).st_size for name, file in files.items()}
        blocks = [(name, start) for name, size in sizes.items() for start in range(0, size, BLOCK_BYTES)]
        found = threads.map(lambda block: _read_block(files[block[0]].fileno(), block[1], listed[block[0]]), blocks)
        digests: dict[str, list[bytes]] = {name: [] for name in listed}
        largest = dict.fromkeys(listed, Extremes())
        for (name, _), (digest, extreme) in zip(blocks, found, strict=True):
            digests[name].append(digest)
            largest[name] = Extremes(*map(max, largest[name], extreme))
        for name, about in listed.items():
            if joined_digest(digests[name]) != about["sha256"]:
                raise PlanError(f"arrays/{name}.npy must be as it was written; got another checksum")
        return {name: (_mapped(files[name], name, sizes[name], listed[name]), largest[name]) for name in listed}


def _open_array(folder: Path, name: str, about: Mapping[str, Any]) -> BinaryIO:
    if not re.fullmatch("[A-Za-z0-9_]{1,200}", name):
        raise PlanError(f"array must have a name of letters, digits and _; got {name!r}")
    dtype, shape = about["dtype"], about["shape"]
    if dtype not in _DTYPES or not 1 <= len(shape) <= 2 or min(shape) < 1:
        raise PlanError(f"array {name} must be one of {', '.join(_DTYPES)} in 1 or 2 dimensions; got {dtype} {shape}")
    path = folder / "arrays" / f"{name}.npy"
    if not path.is_file():
        raise PlanError(f"arrays/{name}.npy must exist; got none")
    return path.open("rb")


def _read_block(file: int, start: int, about: Mapping[str, Any]) -> tuple[bytes, Extremes]:
    """Return the SHA-256 of a block of an array's file, and what is largest in it."""
    dtype, row = np.dtype(about["dtype"]), tuple(about["shape"][1:])
    digest, largest = hashlib.sha256(), Extremes()
    chunk = memoryview(bytearray(_CHUNK))
    for at in range(start, start + BLOCK_BYTES, _CHUNK):
        count = os.preadv(file, [chunk], at)
        digest.update(chunk[:count])
        values = chunk[0 if at else _data_offset(chunk) : count]
        entry = kernels.LINE_BYTES if row == _LINE else dtype.itemsize
        whole = np.frombuffer(values[: len(values) - len(values) % entry], dtype)
        found = extremes(whole.reshape(-1, *row) if row == _LINE else whole)
        largest = Extremes(*map(max, largest, found))
        if count < _CHUNK:
            break
    return digest.digest(), largest


def _data_offset(start: Any) -> int:
    """Return where an .npy file's data begin, by its first bytes."""
    return 10 + int.from_bytes(start[8:10], "little")


def _mapped(file: BinaryIO, name: str, size: int, about: Mapping[str, Any]) -> Array:
    dtype, shape = about["dtype"], tuple(about["shape"])
    start = file.read(10)
    offset = _data_offset(start)
    text = file.read(offset - 10)
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    is_header = start[:8] == _MAGIC and text.rstrip(b" \n") == header and offset % 64 == 0
    if not is_header or size - offset != np.dtype(dtype).itemsize * math.prod(shape):
        wanted = f"{dtype} {list(shape)} in C order and nothing else"
        raise PlanError(f"arrays/{name}.npy must be {wanted}; got {text[:80]!r} and {size - offset} bytes")
    return np.memmap(file, dtype=dtype, mode="r", offset=offset, shape=shape)


def _row_of_nulls(inputs: tuple[Input, ...]) -> dict[str, Any]:
    nulls = {"int64": NULL_INT, "string": NULL_STRING, "float32": np.nan, "float64": np.nan}
    row: dict[str, Any] = {}
    for given in inputs:
        row |= dict(zip(given.tensors, ([], [0, 0]) if given.is_list else ([nulls[given.dtype]],), strict=True))
    return row
