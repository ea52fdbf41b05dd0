import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.latency import CANDIDATES, CONCURRENCY, SYSTEMS
from triton_repo.server import find_tritonserver

PROJECT = Path(__file__).resolve().parents[2]
FIELDS = ["system", "candidates", "concurrency", "p50_ms", "p95_ms", "p99_ms", "requests_per_s", "rows_per_s"]


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_quick_benchmark_writes_the_form_that_all_share(tmp_path: Path) -> None:
    try:
        find_tritonserver()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    paths = ["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    command = [sys.executable, str(PROJECT / "benchmarks" / "latency.py"), "--quick", *paths]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert all(list(result) == FIELDS for result in results)
    measured = {(result["system"], result["candidates"], result["concurrency"]) for result in results}
    assert measured == {(s, n, c) for s in SYSTEMS for n in CANDIDATES for c in CONCURRENCY}
    assert (tmp_path / "out.png").exists()
