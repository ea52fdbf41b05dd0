import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from feature_eng import kernels
from feature_eng.inputs import Input
from feature_eng.keys import int_keys, string_keys
from feature_eng.layout import Layout, Slot
from feature_eng.plan import Plan
from feature_eng.program import Instruction
from feature_eng.strings import Strings, encoded


def test_kernels_run_where_nothing_can_be_cached() -> None:
    script = (
        "from numba.core import caching; caching.CacheImpl._locator_classes = []\n"
        "import numpy; from feature_eng import kernels, keys\n"
        "print(type(kernels.int_keys._cache).__name__, keys.int_keys(numpy.array([0, 1])).tolist())"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == f"NullCache {int_keys(np.array([0, 1])).tolist()}"


def _logs(values: NDArray[Any]) -> NDArray[Any]:
    """Return the natural logarithms of float32 or float64 numbers (n,), as a chain of arithmetic computes them."""
    logs = values.copy()
    kernels.run_steps(logs, np.array([kernels.LOG]), np.zeros((1, 2), dtype=values.dtype))
    return logs


def test_a_float32_logarithm_is_within_one_unit_of_the_last_place() -> None:
    bits = np.random.default_rng(0).integers(1, 0x7F800000, 1_000_000)  # all that are positive and finite
    numbers = np.append(bits, [1, 0x007FFFFF, 0x00800000, 0x7F7FFFFF]).astype(np.int32).view(np.float32)
    exact = np.log(numbers.astype(np.float64))
    units = np.spacing(np.abs(exact.astype(np.float32))).astype(np.float64)
    assert (np.abs(_logs(numbers) - exact) < units).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logarithms_of_what_is_not_a_positive_number_are_those_of_ieee_754(dtype: type) -> None:
    numbers = np.array([1, 0, -0.0, np.inf, np.nan, -1, 0, -np.inf], dtype=dtype)
    numbers[6] = np.nextafter(dtype(0), dtype(-1))
    expected = np.array([0, -np.inf, -np.inf, np.inf, np.nan, np.nan, np.nan, np.nan], dtype=dtype)
    np.testing.assert_array_equal(_logs(numbers), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_chain_gives_a_number_the_same_bits_wherever_it_stands(dtype: type) -> None:
    numbers = np.random.default_rng(1).lognormal(0, 3, 77).astype(dtype)
    kinds = np.array([kernels.FINITE, kernels.FILL, kernels.CLIP, kernels.LOG, kernels.NORMALIZE])
    constants = np.array([[0, 0], [2, 0], [0.1, 40], [1, 0], [0.3, 0.7]], dtype=dtype)
    together = numbers.copy()
    kernels.run_steps(together, kinds, constants)
    alone = numbers.copy()
    for place in range(len(alone)):
        kernels.run_steps(alone[place : place + 1], kinds, constants)
    assert together.tobytes() == alone.tobytes()


def plan_of_words(width: int) -> Plan:
    instruction = Instruction("words", ("title",), "ids", {"buckets": 1000})
    layout = Layout((Slot("title", 1001, width),), ())
    return Plan("", (Input("title", "item", "string"),), (instruction,), layout, ("ids",), (), {})


LETTERS = "aZz@[`{ \t\n\r\x0b\x0c\x08\x0e\x1b\x1c\x1f!\x00\x7féÄ\u2003"


@settings(deadline=None, max_examples=300)
@given(st.lists(st.text(LETTERS, max_size=40), min_size=1, max_size=9), st.integers(1, 6))
def test_words_are_those_of_lower_and_split(texts: list[str], width: int) -> None:
    plan = plan_of_words(width)
    words = [[text.encode() for text in t.lower().split()[:width]] for t in texts]
    expected = [[int(string_keys([word])[0] % np.uint64(1000)) + 1 for word in row] for row in words]
    found = plan.run({"title": encoded(texts)}, len(texts))[0]
    assert found.tolist() == [row + [0] * (width - len(row)) for row in expected]


@pytest.mark.parametrize("length", range(18))
def test_a_text_s_words_are_read_from_its_own_bytes(length: int) -> None:
    text = b"Abcdefgh IJKLMNOPQ"[:length]
    beside = Strings(np.frombuffer(b"x" + text + b"y", np.uint8), np.array([1]), np.array([1 + length]))
    plan = plan_of_words(2)
    expected = [int(string_keys([word])[0] % np.uint64(1000)) + 1 for word in text.lower().split()]
    assert plan.run({"title": beside}, 1)[0].tolist() == [expected + [0] * (2 - len(expected))]
