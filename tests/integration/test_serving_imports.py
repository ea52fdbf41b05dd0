"""What the running steps have loaded, by their own account."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from triton_repo.client import RankingClient
from triton_repo.server import find_tritonserver, start_server

HEAVY = {"nvtabular", "merlin", "pandas", "dask", "distributed", "pyarrow", "sklearn"}
REPORT = """

def _reporting(execute):
    def run(self, requests):
        import sys
        answers = execute(self, requests)
        with open({path!r}, "w") as file:
            print(*sorted(sys.modules), file=file)
        return answers
    return run

TritonPythonModel.execute = _reporting(TritonPythonModel.execute)
"""


@pytest.mark.triton
def test_no_running_step_has_loaded_what_only_training_needs(repository: Any, request_of: Any, tmp_path: Path) -> None:
    try:
        find_tritonserver()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    folder = tmp_path / "models"
    shutil.copytree(repository[0], folder)
    steps = ("preprocess", "rank", "blend")
    for step in steps:
        source = folder / step / "1" / "model.py"
        source.write_text(source.read_text() + REPORT.format(path=str(tmp_path / step)))
    with start_server(folder, http_port=0, grpc_port=0, metrics_port=0, log=tmp_path / "log") as server:
        server.wait_ready()
        with RankingClient(server.grpc_url) as client:
            client.rank(*request_of())
    for step in steps:
        loaded = {name.split(".")[0] for name in (tmp_path / step).read_text().split()}
        assert "numpy" in loaded
        assert HEAVY.isdisjoint(loaded), (step, HEAVY & loaded)
        assert ("numba" in loaded) == (step == "preprocess")
        assert ("torch" in loaded) == (step == "rank")
