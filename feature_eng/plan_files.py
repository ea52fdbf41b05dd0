"""A plan's folder: one JSON file, one .npy file an array, and checksums; see docs/plan-format.md."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_eng.digests import file_sha256
from feature_eng.inputs import NULL_INT, NULL_STRING, Input
from feature_eng.layout import Layout
from feature_eng.plan import Plan
from feature_eng.program import Instruction, PlanError

FORMAT = 2


def save_plan(plan: Plan, folder: str | Path) -> None:
    """Write a plan to a folder, which appears only once it is whole.

    Raises:
        PlanError: the plan's parts do not fit together.
    """
    plan.program  # noqa: B018 - assembles, which checks
    folder = Path(folder)
    beside = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    (beside / "arrays").mkdir(parents=True)
    listed = {}
    for name, array in plan.arrays.items():
        path = beside / "arrays" / f"{name}.npy"
        np.save(path, array, allow_pickle=False)
        listed[name] = {"dtype": array.dtype.str, "shape": list(array.shape), "sha256": file_sha256(path)}
    text = {
        "format": FORMAT,
        "fingerprint": plan.fingerprint,
        "inputs": [asdict(i) for i in plan.inputs],
        "instructions": [_to_json(i) for i in plan.instructions],
        "layout": plan.layout.to_json(),
        "categorical": list(plan.categorical),
        "continuous": list(plan.continuous),
        "arrays": listed,
    }
    (beside / "plan.json").write_text(json.dumps(text, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (beside / "plan.json.sha256").write_text(_checksum_line(beside / "plan.json"), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    beside.replace(folder)


def load_plan(folder: str | Path, fingerprint: str | None = None) -> Plan:
    """Read a plan, check all of it, and run it on a row of nulls, so that the first request finds it warm.

    Its arrays are memory-mapped: processes that load the same folder share them.

    Args:
        folder: that `save_plan` wrote.
        fingerprint: of the schema that the plan must be of; any by default.

    Raises:
        PlanError: a file is missing or changed, the format or an instruction is unknown, an array is of another dtype,
            shape or range, or the plan is of another schema.
    """
    folder = Path(folder)
    raw = _read_json(folder)
    try:
        plan = Plan(
            fingerprint=raw["fingerprint"],
            inputs=tuple(Input(**i) for i in raw["inputs"]),
            instructions=tuple(_from_json(i) for i in raw["instructions"]),
            layout=Layout.from_json(raw["layout"]),
            categorical=tuple(raw["categorical"]),
            continuous=tuple(raw["continuous"]),
            arrays={name: _load_array(folder, name, about) for name, about in raw["arrays"].items()},
        )
        if fingerprint not in (None, plan.fingerprint):
            raise PlanError(f"plan {folder} must be of the schema {fingerprint}; got {plan.fingerprint}")
        _check_ids(plan)
        plan.program  # noqa: B018 - assembles, which checks
        plan.run(_row_of_nulls(plan.inputs), 1)
    except PlanError as error:
        raise PlanError(f"plan {folder}: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise PlanError(f"plan {folder}: plan.json must have every field; got {error!r}") from None
    return plan


def _checksum_line(path: Path) -> str:
    """Return a line in the form that `sha256sum --check` reads."""
    return f"{file_sha256(path)}  {path.name}\n"


def _read_json(folder: Path) -> Mapping[str, Any]:
    path = folder / "plan.json"
    try:
        data = path.read_bytes()
        checksum = (folder / "plan.json.sha256").read_bytes()
    except FileNotFoundError as error:
        raise PlanError(f"plan {folder}: must hold {Path(error.filename).name}; got none") from None
    if checksum != f"{hashlib.sha256(data).hexdigest()}  plan.json\n".encode():
        raise PlanError(f"plan {folder}: plan.json must be as it was written; got another checksum")
    try:
        raw = json.loads(data)
    except ValueError as error:
        raise PlanError(f"plan {folder}: plan.json must be JSON; got {error}") from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        found = raw.get("format") if isinstance(raw, dict) else raw
        raise PlanError(f"plan {folder}: plan.json must have format {FORMAT}; got {found}")
    return raw


def _to_json(step: Instruction) -> dict[str, Any]:
    return {name: value for name, value in asdict(step).items() if value not in ({}, ())}


def _from_json(raw: Mapping[str, Any]) -> Instruction:
    steps = tuple(tuple(step) for step in raw.get("steps", ()))
    arrays, numbers = raw.get("arrays", {}), raw.get("numbers", {})
    return Instruction(raw["op"], tuple(raw.get("inputs", ())), raw["output"], dict(numbers), dict(arrays), steps)


def _load_array(folder: Path, name: str, about: Mapping[str, Any]) -> NDArray[Any]:
    if not name.replace("_", "").isalnum():
        raise PlanError(f"array must have a name of letters, digits and _; got {name!r}")
    path = folder / "arrays" / f"{name}.npy"
    if not path.is_file():
        raise PlanError(f"arrays/{name}.npy must exist; got none")
    if file_sha256(path) != about["sha256"]:
        raise PlanError(f"arrays/{name}.npy must be as it was written; got another checksum")
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype.str != about["dtype"] or list(array.shape) != about["shape"]:
        wanted = f"{about['dtype']} {about['shape']}"
        raise PlanError(f"arrays/{name}.npy must be {wanted}; got {array.dtype.str} {list(array.shape)}")
    return array


def _check_ids(plan: Plan) -> None:
    """Refuse a vocabulary with ids beyond its slot's cardinality."""
    writers = {step.output: step for step in plan.instructions}
    for slot, register in zip(plan.layout.categorical, plan.categorical, strict=True):
        arrays = writers[register].arrays if register in writers else {}
        if "table" in arrays and arrays["table"] in plan.arrays:
            table = plan.arrays[arrays["table"]]
            ids = table[:, 1] if table.ndim == 2 else table
            low, high = (int(ids.min()), int(ids.max())) if ids.size else (0, 0)
            if low < 0 or high >= slot.cardinality:
                raise PlanError(
                    f"arrays/{arrays['table']}.npy must hold ids from 0 to {slot.cardinality - 1}; got {low} to {high}"
                )


def _row_of_nulls(inputs: tuple[Input, ...]) -> dict[str, Any]:
    nulls = {"int64": NULL_INT, "string": NULL_STRING, "float32": np.nan, "float64": np.nan}
    row: dict[str, Any] = {}
    for given in inputs:
        row |= dict(zip(given.tensors, ([], [0, 0]) if given.is_list else ([nulls[given.dtype]],), strict=True))
    return row
