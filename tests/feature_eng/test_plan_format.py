import hashlib
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_eng.inputs import NULL_INT
from feature_eng.keys import int_keys
from feature_eng.plan_files import load_plan, save_plan
from feature_eng.plan_json import FORMAT
from feature_eng.program import OPERATIONS, STEPS
from tests.feature_eng import plain_reader
from tests.feature_eng.every_operation import columns_of, every_operation_plan

DOCUMENT = (Path(__file__).parents[2] / "docs" / "plan-format.md").read_text(encoding="utf-8")
EXAMPLE = DOCUMENT[DOCUMENT.index("## Example") :]


def hand_written(folder: Path) -> Path:
    """Write the document's example, byte for byte as it says."""
    (folder / "arrays").mkdir(parents=True)
    text = re.findall(r"```json\n(.*?)```", EXAMPLE, re.DOTALL)[0].encode()
    (folder / "plan.json").write_bytes(text)
    (folder / "plan.json.sha256").write_text(f"{hashlib.sha256(text).hexdigest()}  plan.json\n")
    places = re.findall(r"^(\d+) +(\d+) +([0-9a-f]{16})  (\d+) *(\d*)$", EXAMPLE, re.MULTILINE)
    assert [(int(line), int(place)) for line, place, *_ in places] == [(0, place) for place in range(5)] + [
        (1, place) for place in range(5)
    ]
    table = b""
    for first in (0, 5):
        _, _, keys, payloads, reaches = zip(*places[first : first + 5], strict=True)
        table += struct.pack("<5Q5II", *(int(key, 16) for key in keys), *map(int, payloads), int(reaches[0]))
    (folder / "arrays" / "items_table.npy").write_bytes(plain_reader.npy("<u8", [2, 8], table))
    return folder


def test_the_example_is_a_plan(tmp_path: Path) -> None:
    folder = hand_written(tmp_path / "plan")
    columns: dict[str, Any] = {
        "item": np.array([42, NULL_INT, 1001, 7, 99, 512, 3, 43, -1]),
        "price": np.array([np.nan, 0, 1, 2, 3, 4, 5, 6, 7], np.float32),
    }
    ids, numbers = load_plan(folder).run(columns, 9)
    assert ids[:, 0].tolist() == [4, 1, 5, 6, 7, 8, 9, 2, 2]
    assert f"{numbers[0, 0]:.7f}" == re.findall(r"log\(2 \+ 1\) = ([\d.]+)\.", EXAMPLE)[0]
    read_ids, read_numbers = plain_reader.run(folder, columns, 9)
    np.testing.assert_array_equal(ids, read_ids)
    np.testing.assert_allclose(numbers, read_numbers, rtol=1e-6)  # libraries' logarithms differ in the last bit


def test_the_example_s_lookup_is_as_it_says() -> None:
    lines = re.findall(r"^(\S.*?) +(?:= .*)?= ([0-9a-f]{16}|\d+)$", EXAMPLE, re.MULTILINE)
    told = {name.strip(): value for name, value in lines}
    m, wrap = plain_reader.M, plain_reader.WRAP
    key = plain_reader.value_key(3)
    assert key == int_keys(np.array([3]))[0]
    expected = {
        "length * M": f"{8 * m & wrap:016x}",
        "k": f"{3 * m & wrap:016x}",
        "mixed(3)": f"{plain_reader.mixed(3):016x}",
        "h": f"{((8 * m & wrap) ^ plain_reader.mixed(3)) * m & wrap:016x}",
        "key": f"{key:016x}",
        "first": str((key >> 32) * 2 >> 32),
    }
    assert told == expected


@pytest.mark.parametrize("seed", range(3))
def test_a_reader_written_after_the_document_computes_the_same(tmp_path: Path, seed: int) -> None:
    plan = every_operation_plan()
    save_plan(plan, tmp_path / "plan")
    columns = columns_of(plan.inputs, 200, np.random.default_rng(seed))
    ids, numbers = plan.run(columns, 200)
    read_ids, read_numbers = plain_reader.run(tmp_path / "plan", columns, 200)
    np.testing.assert_array_equal(ids, read_ids)
    np.testing.assert_allclose(numbers, read_numbers, rtol=1e-6)  # libraries' logarithms differ in the last bit


def test_the_document_tells_of_this_format_and_of_every_operation_and_step() -> None:
    assert f"It describes format **{FORMAT}**." in DOCUMENT
    told = set(re.findall(r"`(\w+)`", DOCUMENT))
    assert set(OPERATIONS) - told == set()
    assert set(STEPS) - told == set()
