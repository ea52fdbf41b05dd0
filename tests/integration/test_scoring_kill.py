"""A scoring job killed at random moments and called again gives what an undisturbed one gives."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from steelyard.scoring_jobs import score_with_bundle
from tests.conftest import Shop

KILLS = int(os.environ.get("STEELYARD_KILLS", "3"))
SCRIPT = """
import sys
from pathlib import Path
from steelyard.bundle import open_bundle
from steelyard.scoring_jobs import score_with_bundle
bundle = open_bundle(sys.argv[1])
print("scoring", flush=True)
score_with_bundle(bundle, sys.argv[2], Path(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def parts(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a log of many pieces, so that there is a time in between."""
    folder = tmp_path_factory.mktemp("parts")
    table = pq.read_table(shop.test)
    for index in range(40):
        path = folder / f"part-{index:03d}.parquet"
        pq.write_table(table, path)
    return folder


def start(shop: Shop, log: Path, out: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SCRIPT, str(shop.bundle.folder), str(log), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.timeout(60 + 40 * KILLS)
def test_a_killed_job_is_taken_up_without_losing_or_doubling_a_row(
    shop: Shop, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_with_bundle(shop.bundle, str(parts), tmp_path / "whole")
    expected = pq.read_table(tmp_path / "whole")
    assert expected.num_rows == 40 * 3_000
    moments, done = random.Random(0), 0
    out = tmp_path / "killed"
    for _ in range(KILLS):
        job = start(shop, parts, out)
        assert job.stdout is not None
        assert job.stdout.readline() == "scoring\n"
        time.sleep(moments.uniform(0, 1.2))
        os.kill(job.pid, signal.SIGKILL)
        job.wait(30)
        done += out.exists()
    assert start(shop, parts, out).wait(120) == (1 if done else 0)
    assert pq.read_table(out).equals(expected)
    assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}


def test_a_job_is_not_taken_up_with_other_weights(shop: Shop, tmp_path: Path) -> None:
    score_with_bundle(shop.bundle, str(shop.test), tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "out.partial")
    with pytest.raises(FileExistsError, match=r"out.partial must be of the same job to be resumed; got other weights"):
        score_with_bundle(shop.bundle, str(shop.test), tmp_path / "out", {"click": 9.0})
    assert score_with_bundle(shop.bundle, str(shop.test), tmp_path / "out")[0] == 3_000
    with pytest.raises(FileExistsError, match="out must not exist yet; got"):
        score_with_bundle(shop.bundle, str(shop.test), tmp_path / "out")
