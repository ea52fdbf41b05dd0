import subprocess
import sys

import numpy as np

from feature_eng.keys import int_keys


def test_kernels_run_where_nothing_can_be_cached() -> None:
    script = (
        "from numba.core import caching; caching.CacheImpl._locator_classes = []\n"
        "import numpy; from feature_eng import kernels, keys\n"
        "print(type(kernels.int_keys._cache).__name__, keys.int_keys(numpy.array([0, 1])).tolist())"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == f"NullCache {int_keys(np.array([0, 1])).tolist()}"
