"""A scoring job killed at random moments and called again gives what an undisturbed one gives."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from steelyard.scoring_jobs import score_with_bundle
from tests.conftest import Shop

# `STEELYARD_KILLS=20 pytest tests/integration/test_scoring_kill.py` kills as often as one likes
KILLS = int(os.environ.get("STEELYARD_KILLS", "3"))
FILES = 40
# small pieces, since a piece of the usual size would hold the whole log
SCRIPT = """
import sys
from functools import partial
from pathlib import Path
from steelyard import scoring_jobs
from steelyard.bundle import open_bundle
scoring_jobs.open_log = partial(scoring_jobs.open_log, piece_bytes=2**17)
bundle = open_bundle(sys.argv[1])
print("scoring", flush=True)
scoring_jobs.score_with_bundle(bundle, sys.argv[2], Path(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def parts(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a log of many pieces, so that there is a time in between."""
    folder = tmp_path_factory.mktemp("parts")
    table = pq.read_table(shop.test)
    for index in range(FILES):
        pq.write_table(table.slice(index), folder / f"part-{index:03d}.parquet")
    return folder


def start(shop: Shop, log: Path, out: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SCRIPT, str(shop.bundle.folder), str(log), str(out)]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    assert job.stdout.readline() == "scoring\n"
    return job


def parts_of(out: Path) -> int:
    """Return how many parts of an unfinished result there are."""
    return len(list(out.with_name(f"{out.name}.partial").glob("part-*.parquet")))


def kill_in_between(shop: Shop, log: Path, out: Path, after: int) -> int | None:
    """Kill a job once some parts are there; return how many lie there then, None where it was done before."""
    job = start(shop, log, out)
    while job.poll() is None and parts_of(out) < after:
        time.sleep(0.0005)
    job.kill()
    job.wait(30)
    return None if out.exists() else parts_of(out)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(shop: Shop, parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the result of an undisturbed job."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert start(shop, parts, out).wait(60) == 0
    rows = sum(pq.read_metadata(part).num_rows for part in parts.iterdir())
    assert pq.read_table(out).num_rows == rows
    return out


@pytest.mark.slow
@pytest.mark.timeout(120 + 20 * KILLS)
def test_a_killed_job_is_taken_up_without_losing_or_doubling_a_row(
    shop: Shop, parts: Path, whole: Path, tmp_path: Path
) -> None:
    expected, moments, left = contents(whole), random.Random(0), []
    outs = [tmp_path / "out-0"]
    for _ in range(4 * KILLS):  # a job that is taken up may be killed again
        later = parts_of(outs[-1]) + moments.randrange(len(expected) // 10)
        found = kill_in_between(shop, parts, outs[-1], later)
        if found is None:  # it was faster than the kill
            outs.append(tmp_path / f"out-{len(outs)}")
        else:
            left.append(found)
        if len(left) == KILLS:
            break
    assert start(shop, parts, outs[-1]).wait(120) == 0
    for out in outs:
        assert contents(out) == expected
    assert not list(tmp_path.glob("*.partial"))
    print(f"{len(left)} kills of {len(outs)} jobs left {left} of {len(expected) - 1} parts")
    assert len(left) == KILLS
    assert any(left)


def test_a_job_is_not_taken_up_with_other_weights(shop: Shop, tmp_path: Path) -> None:
    score_with_bundle(shop.bundle, str(shop.test), tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "out.partial")
    with pytest.raises(FileExistsError, match=r"out.partial must be of the same job to be resumed; got other weights"):
        score_with_bundle(shop.bundle, str(shop.test), tmp_path / "out", {"click": 9.0})
    assert score_with_bundle(shop.bundle, str(shop.test), tmp_path / "out")[0] == 3_000
    with pytest.raises(FileExistsError, match="out must not exist yet; got"):
        score_with_bundle(shop.bundle, str(shop.test), tmp_path / "out")
