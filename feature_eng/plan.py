"""The compiled workflow: a short list of array instructions, saved as JSON and plain arrays, run on numpy alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_eng import functions
from feature_eng.columns import checked_columns
from feature_eng.digests import file_sha256
from feature_eng.inputs import NULL_INT, NULL_STRING, Input
from feature_eng.keys import combined_keys, int_keys, string_keys
from feature_eng.layout import Layout

FORMAT = 1

Array = NDArray[Any]


class PlanError(ValueError):
    """A plan on disk is not whole, was changed, or is of a format that this version does not read."""


@dataclass(frozen=True)
class Instruction:
    """One step: reads the registers `inputs` and the plan's arrays named in `arrays`, writes the register `output`."""

    op: str
    inputs: tuple[str, ...]
    output: str
    numbers: dict[str, float] = field(default_factory=dict)
    arrays: dict[str, str] = field(default_factory=dict)


# Each takes the input registers, then the instruction's numbers and arrays by name.
OPERATIONS: dict[str, Callable[..., Array]] = {
    "int_keys": int_keys,
    "string_keys": string_keys,
    "combine_keys": combined_keys,
    "vocabulary": functions.vocabulary_ids,
    "lookup": functions.looked_up,
    "buckets": functions.bucket_ids,
    "pad": lambda ids, offsets, width: functions.padded(ids, offsets, width, keep_last=True),
    "words": functions.word_ids,
    "hour": functions.hour_ids,
    "weekday": functions.weekday_ids,
    "age_days": functions.age_days,
    "fill": functions.filled,
    "clip": lambda values, low, high: np.clip(values, np.float32(low), np.float32(high)),
    "log": functions.logged,
    "normalize": functions.normalized,
    "bucketize": functions.bucketized,
    "zero": lambda: np.zeros(1, dtype=np.float32),
}


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
    arrays: Mapping[str, Array]

    def run(self, columns: Mapping[str, Any], rows: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Compute the features of some rows.

        Args:
            columns: each input's arrays by name; 1 or `rows` long, and a column 1 long holds for every row.
            rows: B, at least 1.

        Returns:
            `categorical` int32 (B, S) and `continuous` float32 (B, D), as the layout says.

        Raises:
            ValueError: a column is missing, of another dtype, or of another length.
        """
        registers = checked_columns(self.inputs, columns, rows)
        for step in self.instructions:
            arrays = {name: self.arrays[key] for name, key in step.arrays.items()}
            operands = [registers[name] for name in step.inputs]
            registers[step.output] = OPERATIONS[step.op](*operands, **step.numbers, **arrays)
        categorical = np.empty((rows, self.layout.categorical_width), dtype=np.int32)
        start = 0
        for slot, name in zip(self.layout.categorical, self.categorical, strict=True):
            categorical[:, start : start + slot.width] = registers[name].reshape(-1, slot.width)
            start += slot.width
        continuous = np.empty((rows, len(self.continuous)), dtype=np.float32)
        for index, name in enumerate(self.continuous):
            continuous[:, index] = registers[name]
        return categorical, continuous

    def save(self, folder: str | Path) -> None:
        """Write the plan to a folder, which appears only once it is whole."""
        folder = Path(folder)
        beside = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(beside, ignore_errors=True)
        (beside / "arrays").mkdir(parents=True)
        listed = {}
        for name, array in self.arrays.items():
            path = beside / "arrays" / f"{name}.npy"
            np.save(path, array, allow_pickle=False)
            listed[name] = {"dtype": array.dtype.str, "shape": list(array.shape), "sha256": file_sha256(path)}
        text = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "inputs": [asdict(i) for i in self.inputs],
            "instructions": [asdict(i) for i in self.instructions],
            "layout": self.layout.to_json(),
            "categorical": list(self.categorical),
            "continuous": list(self.continuous),
            "arrays": listed,
        }
        (beside / "plan.json").write_text(json.dumps(text, indent=1), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        beside.replace(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Plan:
        """Read a plan, check all of it, and try it on a row of nulls; its arrays are memory-mapped.

        Raises:
            PlanError: a file is missing or changed, the format is unknown, an instruction is not one of ours, or the
                plan does not run.
        """
        folder = Path(folder)
        try:
            raw = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise PlanError(f"plan {folder} must hold plan.json; got none") from None
        except ValueError as error:
            raise PlanError(f"plan {folder}/plan.json must be JSON; got {error}") from None
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            found = raw.get("format") if isinstance(raw, dict) else raw
            raise PlanError(f"plan {folder} must have format {FORMAT}; got {found}")
        try:
            plan = cls(
                fingerprint=raw["fingerprint"],
                inputs=tuple(Input(**i) for i in raw["inputs"]),
                instructions=tuple(_instruction(i) for i in raw["instructions"]),
                layout=Layout.from_json(raw["layout"]),
                categorical=tuple(raw["categorical"]),
                continuous=tuple(raw["continuous"]),
                arrays={name: _load_array(folder, name, about) for name, about in raw["arrays"].items()},
            )
            _check_registers(plan)
        except (KeyError, TypeError, AttributeError) as error:
            raise PlanError(f"plan {folder}/plan.json must have every field; got {error!r}") from None
        try:
            plan.run(_row_of_nulls(plan.inputs), 1)
        except Exception as error:  # whatever it is, better now than at the first request
            raise PlanError(f"plan {folder} must run on a row of nulls; got {error!r}") from None
        return plan


def _instruction(raw: Mapping[str, Any]) -> Instruction:
    if raw["op"] not in OPERATIONS:
        raise PlanError(f"instruction {raw['output']} must be one of {', '.join(OPERATIONS)}; got {raw['op']}")
    return Instruction(raw["op"], tuple(raw["inputs"]), raw["output"], raw["numbers"], raw["arrays"])


def _load_array(folder: Path, name: str, about: Mapping[str, Any]) -> Array:
    if not name.replace("_", "").isalnum():
        raise PlanError(f"plan array must have a name of letters, digits and _; got {name!r}")
    path = folder / "arrays" / f"{name}.npy"
    if not path.is_file():
        raise PlanError(f"plan array {path} must exist; got none")
    if file_sha256(path) != about["sha256"]:
        raise PlanError(f"plan array {path} must be as it was written; got another checksum")
    array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype.str != about["dtype"] or list(array.shape) != about["shape"]:
        wanted = f"{about['dtype']} {about['shape']}"
        raise PlanError(f"plan array {path} must be {wanted}; got {array.dtype.str} {list(array.shape)}")
    return array


def _row_of_nulls(inputs: tuple[Input, ...]) -> dict[str, Any]:
    nulls = {"int64": NULL_INT, "string": NULL_STRING, "float32": np.nan}
    row: dict[str, Any] = {}
    for given in inputs:
        row |= dict(zip(given.tensors, ([], [0, 0]) if given.is_list else ([nulls[given.dtype]],), strict=True))
    return row


def _check_registers(plan: Plan) -> None:
    tensors = [name for i in plan.inputs for name in i.tensors]
    written = set(tensors)
    if len(written) < len(tensors):
        raise PlanError(f"plan must have inputs of different names; got {', '.join(tensors)}")
    for step in plan.instructions:
        for name in step.inputs:
            if name not in written:
                raise PlanError(f"instruction {step.output} must read registers written before it; got {name}")
        for name in step.arrays.values():
            if name not in plan.arrays:
                raise PlanError(f"instruction {step.output} must use arrays of the plan; got {name}")
        written.add(step.output)
    for name in (*plan.categorical, *plan.continuous):
        if name not in written:
            raise PlanError(f"plan must pack registers that it writes; got {name}")
    packed = (len(plan.layout.categorical), len(plan.layout.continuous))
    if packed != (len(plan.categorical), len(plan.continuous)):
        raise PlanError(f"plan must pack as many registers as its layout has; got {packed}")
