import subprocess
import sys

import pytest
from importlinter import cli

HEAVY = {"torch", "pandas", "pyarrow", "pydantic", "nvtabular", "merlin", "dask", "distributed"}


def test_imports_run_one_way():
    assert cli.lint_imports(no_cache=True) == 0


@pytest.mark.parametrize("module", ["feature_eng.plan", "models.blending"])
def test_a_fresh_process_loads_nothing_heavy_with(module: str):
    program = f"import sys, {module}; print(*sorted(name for name in sys.modules if '.' not in name))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "numpy" in loaded
    assert HEAVY.isdisjoint(loaded)
