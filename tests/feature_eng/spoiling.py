"""Spoils a plan's folder, loads it and runs what loads: a line of JSON for each way.

The kernels work on plain addresses, so this runs as a process of its own, whose end tells whether one went astray:
`python -m tests.feature_eng.spoiling FOLDER OTHER_FOLDER FIRST_SEED AFTER_LAST_SEED`.
"""

from __future__ import annotations

import copy
import faulthandler
import hashlib
import io
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from feature_eng.plan import Plan
from feature_eng.plan_files import load_plan
from feature_eng.program import OPERATIONS, PlanError
from tests.feature_eng.every_operation import columns_of

Rng = np.random.Generator
Files = dict[str, bytes]

GUARD = 4096  # cells on either side of the outputs that nothing may write
SENTINEL = -77
ROWS = 5


# ── Spoilings that checksums catch ───────────────────────────────────────────────────────────────────────────────────


def flipped(files: Files, name: str, folder: Path, rng: Rng) -> bytes:
    data = bytearray(files[name])
    data[rng.integers(len(data))] ^= int(rng.integers(1, 256))
    return bytes(data)


def cut(files: Files, name: str, folder: Path, rng: Rng) -> bytes:
    return files[name][: rng.integers(len(files[name]))]


def emptied(files: Files, name: str, folder: Path, rng: Rng) -> bytes:
    return b""


def longer(files: Files, name: str, folder: Path, rng: Rng) -> bytes:
    return files[name] + bytes([rng.integers(256)])


def swapped(files: Files, name: str, folder: Path, rng: Rng) -> bytes:
    others = [other for other, data in files.items() if data != files[name]]
    return files[others[rng.integers(len(others))]]


def removed(files: Files, name: str, folder: Path, rng: Rng) -> None:
    (folder / name).unlink()


def made_folder(files: Files, name: str, folder: Path, rng: Rng) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()


def made_link(files: Files, name: str, folder: Path, rng: Rng) -> None:
    others = [*(other for other, data in files.items() if data != files[name]), "nowhere", "arrays"]
    (folder / name).unlink()
    (folder / name).symlink_to(folder / others[rng.integers(len(others))])


def made_endless(files: Files, name: str, folder: Path, rng: Rng) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")


ON_FILES = (flipped, flipped, cut, emptied, longer, swapped, removed, made_folder, made_link, made_endless)


# ── Spoilings that are signed anew ───────────────────────────────────────────────────────────────────────────────────

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    "",
    "x",
    "int64",
    "price",
    "..",
    "\ud800",
    [],
    {},
    [1],
    [[]],
    {"a": 1},
    0,
    1,
    -1,
    2,
    3,
    7,
    65_535,
    65_537,
    2**31 - 1,
    2**31,
    2**32,
    2**63 - 1,
    2**63,
    -(2**63),
    10**400,
    0.0,
    0.5,
    -1.5,
    1e-320,
    1e30,
    1e308,
    float("nan"),
    float("inf"),
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each list and object with each of its indices."""
    for key, each in list(value.items()) if isinstance(value, dict) else list(enumerate(value)):
        yield value, key
        if isinstance(each, (dict, list)):
            yield from places(each)


def spoil_json(raw: Any, rng: Rng) -> str:
    """Change one place of plan.json, one that says what a checksum is left out."""
    sections = [name for name in raw if name != "arrays" or rng.random() < 0.3]
    section = sections[rng.integers(len(sections))]
    found = [(raw, section), *(places(raw[section]) if isinstance(raw[section], (dict, list)) else ())]
    holder, key = found[rng.integers(len(found))]
    old = holder[key]
    way = rng.integers(9)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, dict):
        holder[f"{key}_"] = holder.pop(key)
    elif way == 2 and isinstance(holder, list):
        holder.append(copy.deepcopy(old))
    elif way == 3 and isinstance(holder, list):
        other = rng.integers(len(holder))
        holder[key], holder[other] = holder[other], old
    elif way <= 5 and isinstance(old, str):
        words = [*OPERATIONS, *(h[k] for h, k in places(raw) if isinstance(h[k], str)), f"{old}x"]
        holder[key] = words[rng.integers(len(words))]
    elif way <= 5 and type(old) in (int, float):
        holder[key] = [old + 1, old - 1, -old, old * 1000, old * 2**40, float(old), old + 0.5][rng.integers(7)]
    else:
        holder[key] = VALUES[rng.integers(len(VALUES))]
    return f"{section}…{key}: {str(old)[:60]} → {str(holder[key])[:60] if key in _keys(holder) else 'gone'}"


def _keys(holder: Any) -> Any:
    return holder if isinstance(holder, dict) else range(len(holder))


def spoil_array(array: np.ndarray, rng: Rng) -> np.ndarray:
    """Return an array with another content, dtype, shape or order."""
    spoiled = array.copy()
    flat = spoiled.reshape(-1)
    place = rng.integers(len(flat))
    limits = np.finfo if array.dtype.kind == "f" else np.iinfo
    ways: tuple[Callable[[], np.ndarray], ...] = (
        lambda: spoiled.astype(rng.choice(["<i8", ">u8", "<u4", "<i2", "<f4", "<c16", "|b1", "<u8", "<f8"])),
        lambda: spoiled.reshape(*array.shape, 1),
        lambda: np.asfortranarray(spoiled) if array.ndim == 2 else spoiled.reshape(1, -1),
        lambda: spoiled.reshape(-1),
        lambda: spoiled[: rng.integers(len(spoiled))],
        lambda: spoiled[rng.integers(len(spoiled)) :],
        lambda: np.concatenate([spoiled] * 3),
        lambda: spoiled.T.copy(),
        lambda: np.array(7, dtype=array.dtype),
        lambda: spoiled.astype(object),
        lambda: spoiled[::-1].copy(),
        lambda: np.array([str(value) for value in flat]),
        lambda: np.zeros(len(flat), dtype=[("a", "<u8"), ("b", "<u8")]),
    )
    way = rng.integers(-8, len(ways))
    if way >= 0:
        return ways[way]()
    with np.errstate(all="ignore"):
        if way == -1:
            flat[:] = rng.permutation(flat)
        elif way == -2 and array.dtype.kind == "f":
            flat[place] = rng.choice([np.nan, np.inf, -np.inf])
        elif way <= -6:
            flat[rng.integers(len(flat), size=5)] = rng.integers(0, 256, 5 * array.itemsize, np.uint8).view(array.dtype)
        else:
            flat[place] = rng.choice(np.array([limits(array.dtype).max, limits(array.dtype).min, 5, 250], array.dtype))
    return spoiled


def sign(folder: Path, text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    (folder / "plan.json").write_bytes(data)
    (folder / "plan.json.sha256").write_text(f"{hashlib.sha256(data).hexdigest()}  plan.json\n")


def re_signed_json(files: Files, other: Files, folder: Path, rng: Rng) -> str:
    raw = json.loads(files["plan.json"])
    told = [spoil_json(raw, rng) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    sign(folder, json.dumps(raw))
    return "; ".join(told)


def re_signed_array(files: Files, other: Files, folder: Path, rng: Rng) -> str:
    """Write another array, and tell the truth about it, or say what it was."""
    raw = json.loads(files["plan.json"])
    names = list(raw["arrays"])
    name = names[rng.integers(len(names))]
    array = spoil_array(np.load(io.BytesIO(files[f"arrays/{name}.npy"])), rng)
    path = folder / "arrays" / f"{name}.npy"
    with path.open("wb") as file:
        if rng.random() < 0.2:
            np.lib.format.write_array(file, array, version=(2, 0), allow_pickle=True)
        else:
            np.save(file, array, allow_pickle=True)
        file.write(b"x" * int(rng.random() < 0.1))
    about = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    if rng.random() < 0.7:
        about |= {"dtype": array.dtype.str, "shape": list(array.shape)}
    raw["arrays"][name] |= about
    sign(folder, json.dumps(raw))
    return f"{name}: {array.dtype} {array.shape}"


def on_a_file(files: Files, other: Files, folder: Path, rng: Rng) -> str:
    names = list(files)
    name, way = names[rng.integers(len(names))], ON_FILES[rng.integers(len(ON_FILES))]
    data = way(files, name, folder, rng)
    if data is not None:
        (folder / name).write_bytes(data)
    return f"{way.__name__} {name}"


def of_another_plan(files: Files, other: Files, folder: Path, rng: Rng) -> str:
    names = [name for name in files if other.get(name, files[name]) != files[name]]
    name = names[rng.integers(len(names))]
    (folder / name).write_bytes(other[name])
    return f"another plan's {name}"


# ── Loading and running ──────────────────────────────────────────────────────────────────────────────────────────────


def run_guarded(plan: Plan, rng: Rng) -> None:
    """Run a plan on rows, and see that it writes its outputs alone, ids in their slots' range.

    Raises:
        AssertionError: it does not.
    """
    widths, outs, buffers = (plan.layout.categorical_width, len(plan.continuous)), [], []
    for width, dtype in zip(widths, (np.int32, np.float32), strict=True):
        buffer = np.full(ROWS * width + 2 * GUARD, SENTINEL, dtype)
        buffers.append(buffer)
        outs.append(buffer[GUARD : len(buffer) - GUARD].reshape(ROWS, width))
    plan.run(columns_of(plan.inputs, ROWS, rng), ROWS, out=(outs[0], outs[1]))
    if any((buffer[:GUARD] != SENTINEL).any() or (buffer[-GUARD:] != SENTINEL).any() for buffer in buffers):
        raise AssertionError("outputs must be all that is written; got more")
    column = 0
    for slot in plan.layout.categorical:
        ids = outs[0][:, column : column + slot.width]
        column += slot.width
        if ids.min() < 0 or ids.max() >= slot.cardinality:
            raise AssertionError(f"ids of {slot.name} must be below {slot.cardinality}; got {ids.tolist()}")


def main(folder: Path, other_folder: Path, seeds: range) -> None:
    """Spoil the plan once a seed; what fits no other way is written as the outcome `astray`."""
    faulthandler.enable()
    warnings.simplefilter("error")
    files = read(folder)
    other = read(other_folder)
    ways = (on_a_file, on_a_file, on_a_file, of_another_plan, *[re_signed_json] * 5, *[re_signed_array] * 2)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        way = ways[rng.integers(len(ways))]
        told = way(files, other, folder, rng)
        try:
            run_guarded(load_plan(folder), rng)
            outcome, message = "ran", ""
        except PlanError as error:
            outcome, message = "refused", str(error)
        except Exception as error:
            outcome, message = "astray", repr(error)
        line = {"seed": seed, "way": way.__name__, "told": told, "outcome": outcome, "message": message}
        print(json.dumps(line), flush=True)
        restore(folder, files)


def read(folder: Path) -> Files:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def restore(folder: Path, files: Files) -> None:
    for name, data in files.items():
        path = folder / name
        if path.is_symlink():
            path.unlink()
        elif path.is_dir():
            path.rmdir()
        if not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), range(int(sys.argv[3]), int(sys.argv[4])))
