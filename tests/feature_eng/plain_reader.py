"""A reader of plans written after docs/plan-format.md alone: slow, and sharing no code with feature_eng."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

M, WRAP = 0xC6A4A7935BD1E995, 2**64 - 1
NULL = -(2**63)
NULLS = {"int64": NULL, "string": ""}
DAY, HOUR = 86_400_000, 3_600_000


def npy(dtype: str, shape: list[int], elements: bytes) -> bytes:
    """Return the bytes of an array's file."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {tuple(shape)}, }}".encode()
    text += b" " * (-(10 + len(text) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + elements


def checksum(file: bytes) -> str:
    """Return the checksum of an array's file."""
    blocks = [hashlib.sha256(file[at : at + 2**26]) for at in range(0, len(file), 2**26)]
    return (
        blocks[0].hexdigest() if len(blocks) == 1 else hashlib.sha256(b"".join(b.digest() for b in blocks)).hexdigest()
    )


def read(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return a plan's fields and arrays."""
    data = (folder / "plan.json").read_bytes()
    if (folder / "plan.json.sha256").read_text() != f"{hashlib.sha256(data).hexdigest()}  plan.json\n":
        raise ValueError("plan.json must have its checksum")
    plan, arrays = json.loads(data), {}
    for name, about in plan["arrays"].items():
        file = (folder / "arrays" / f"{name}.npy").read_bytes()
        (length,) = struct.unpack("<H", file[8:10])
        if checksum(file) != about["sha256"] or (10 + length) % 64:
            raise ValueError(f"{name} must have its checksum")
        arrays[name] = np.frombuffer(file[10 + length :], about["dtype"]).reshape(about["shape"])
    return plan, arrays


def mixed(k: int) -> int:
    k = k * M & WRAP
    return (k ^ (k >> 47)) * M & WRAP


def key_of(data: bytes) -> int:
    h = len(data) * M & WRAP
    whole = len(data) // 8 * 8
    for at in range(0, whole, 8):
        h = (h ^ mixed(int.from_bytes(data[at : at + 8], "little"))) * M & WRAP
    if data[whole:]:
        h = (h ^ int.from_bytes(data[whole:], "little")) * M & WRAP
    h = (h ^ (h >> 47)) * M & WRAP
    return h ^ (h >> 47)


def value_key(value: int | str) -> int:
    return key_of(value.encode() if isinstance(value, str) else struct.pack("<q", value))


def line_of(table: np.ndarray, line: int) -> tuple[list[int], list[int], int]:
    """Return the keys, the payloads and the reach of a hash table's line."""
    numbers = struct.unpack("<5Q5II", table[line].tobytes())
    return list(numbers[:5]), list(numbers[5:10]), numbers[10]


def float_of(bits: int) -> np.float32:
    return np.frombuffer(struct.pack("<I", bits & 0xFFFFFFFF), "<f4")[0]


Values = dict[str, Any]


class Row:
    """The registers of row `at` of `rows`, each its inputs' values, lists as lists."""

    def __init__(
        self, plan: dict[str, Any], arrays: dict[str, np.ndarray], rows: list[dict[str, Any]], at: int
    ) -> None:
        self.plan, self.arrays, self.rows, self.at, self.held = plan, arrays, rows, at, dict(rows[at])
        slots = zip(plan["layout"]["categorical"], plan["categorical"], strict=True)
        self.widths = {register: slot.get("width", 1) for slot, register in slots}
        for step in plan["instructions"]:
            self.held[step["output"]] = self.compute(step, [self.held[name] for name in step.get("inputs", ())])

    def packed(self) -> tuple[list[int], list[float]]:
        ids = [self.held[register] for register in self.plan["categorical"]]
        cells = [cell for each in ids for cell in (each if isinstance(each, list) else [each])]
        return cells, [self.held[register] for register in self.plan["continuous"]]

    def find(self, step: dict[str, Any], key: int) -> int | None:
        table = self.arrays[step["arrays"]["table"]]
        first = (key >> 32) * len(table) >> 32
        *_, reach = line_of(table, first)
        for further in range(reach + 1):
            keys, payloads, _ = line_of(table, (first + further) % len(table))
            if key in keys:
                return payloads[keys.index(key)]
        return None

    def place(self, step: dict[str, Any], value: int) -> int | None:
        table = self.arrays[step["arrays"]["table"]]
        place = value - step["numbers"]["low"]
        return int(table[place]) if 0 <= place < len(table) else None

    def listed(self, step: dict[str, Any], ids: list[int], keep_last: int, padding: int = 0) -> list[int]:
        width = self.widths.get(step["output"], 1)
        kept = ids[max(len(ids) - width, 0) :] if keep_last else ids[:width]
        return kept + [padding] * (width - len(kept))

    def difference(self, step: dict[str, Any], shift: int) -> np.float32:
        name, *others = step["inputs"]
        before = self.rows[self.at - shift] if 0 <= self.at - shift < len(self.rows) else None
        same = before and all(before[o] == self.held[o] and not is_null(before[o]) for o in others)
        if not before or not same or is_null(self.held[name]) or is_null(before[name]):
            return single(None)
        kind = np.float32 if isinstance(self.held[name], np.float32) else np.float64
        return np.float32(kind(self.held[name]) - kind(before[name]))

    def compute(self, step: dict[str, Any], read: list[Any]) -> Any:
        op, numbers, a = step["op"], step.get("numbers", {}), read[0] if read else None
        if op in ("int_keys", "string_keys"):
            return value_key(a)
        if op == "float_keys":
            return key_of(struct.pack("<d", -0.0 if np.isnan(a) else float(a) or 0.0))
        if op == "combined_keys":
            return key_of(b"".join(struct.pack("<Q", key) for key in read))
        if op == "buckets":
            return a % numbers["buckets"] + 1
        if op == "vocabulary":
            return numbers.get("default", 2) if (found := self.find(step, a)) is None else found
        if op == "statistic":
            return single(numbers["default"]) if (found := self.find(step, a)) is None else float_of(found)
        if op == "dense_vocabulary":
            found = numbers["null"] if a == NULL else self.place(step, a)
            return numbers.get("default", 2) if found is None else found
        if op == "dense_statistic":
            found = self.place(step, a)
            other = single(numbers["null"] if a == NULL else numbers["default"])
            return other if a == NULL or found is None else float_of(found)
        if op in ("list_vocabulary", "list_slice"):
            a = a[numbers["start"] : numbers["end"]] if op == "list_slice" else a
            ids = [2 if (found := self.find(step, value_key(value))) is None else found for value in a]
            return self.listed(step, ids, numbers.get("keep_last", 0), numbers.get("padding", 0))
        if op == "words":
            words = [key_of(word.encode()) % numbers["buckets"] + 1 for word in a.lower().split()]
            return self.listed(step, words, 0)
        if op == "hour":
            return 25 if a == NULL else a // HOUR % 24 + 1
        if op == "weekday":
            return 8 if a == NULL else (a // DAY + 3) % 7 + 1
        if op == "age_days":
            return np.float32(math.nan if NULL in read else (float(a) - float(read[1])) / DAY)
        if op == "numbers":
            return np.float32(chain(step.get("steps", ()), a, np.float64 if numbers["double"] else np.float32))
        if op == "bucketize":
            x = chain(step.get("steps", ()), a, np.float64)
            return numbers["first"] + sum(not x < edge for edge in self.arrays[step["arrays"]["edges"]])
        if op == "is_null":
            return int(is_null(a))
        if op == "difference_lag":
            return self.difference(step, numbers["shift"])
        if op == "constant":
            return single(numbers["value"])
        raise ValueError(f"operation must be known; got {op}")


def single(value: float | None) -> np.float32:
    return np.float32(math.nan if value is None else value)


def is_null(value: Any) -> bool:
    return value == NULL if isinstance(value, int) else value == "" if isinstance(value, str) else bool(np.isnan(value))


def number(value: Any, kind: Any) -> Any:
    if isinstance(value, int):
        return kind(math.nan if value == NULL else float(value))
    return kind(value)


def chain(steps: Any, value: Any, kind: Any) -> Any:
    x = number(value, kind)
    for name, *given in steps:
        a, b = ([None if constant is None else kind(constant) for constant in given] + [None, None])[:2]
        if name == "finite":
            x = kind(math.nan) if np.isinf(x) else x
        elif name == "fill":
            x = a if np.isnan(x) else x
        elif name == "clip":
            x = a if a is not None and x < a else b if b is not None and x > b else x
        elif name == "log":
            x = np.log(x + a)
        elif name == "normalize":
            x = (x - a) / b
        elif name == "scale":
            x = (x - a) * b
        elif name == "over_twice":
            x = x / (x + x) if x + x != 0 else kind(math.nan)
        elif name == "null":
            x = kind(np.isnan(x))
        else:
            raise ValueError(f"step must be known; got {name}")
    return x


def rows_of(plan: dict[str, Any], columns: dict[str, Any], rows: int) -> Iterator[dict[str, Any]]:
    """Yield each row's values by input, from a request's columns."""
    for row in range(rows):
        values = {}
        for given in plan["inputs"]:
            name = given["name"]
            if given.get("is_list"):
                offsets = columns[f"{name}__offsets"]
                at = 0 if len(offsets) == 2 else row
                values[name] = columns[f"{name}__values"][offsets[at] : offsets[at + 1]].tolist()
            else:
                column = columns[name]
                value = column[0 if len(column) == 1 else row]
                values[name] = value.item() if given["dtype"] in NULLS else value
        yield values


def run(folder: Path, columns: dict[str, Any], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a plan's `categorical` (rows, S) and `continuous` (rows, D)."""
    plan, arrays = read(folder)
    with np.errstate(all="ignore"):
        values = list(rows_of(plan, columns, rows))
        packed = [Row(plan, arrays, values, at).packed() for at in range(rows)]
    return np.array([ids for ids, _ in packed], np.int32), np.array([numbers for _, numbers in packed], np.float32)
