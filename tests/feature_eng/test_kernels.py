import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from feature_eng import kernels
from feature_eng.keys import int_keys


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
