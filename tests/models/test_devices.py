"""Two real processes train as one does: the same batches, each its own part of them."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from models.feature_shards import BatchSource
from models.training import Training
from tests.models.test_feature_shards import numbered
from tests.models.test_training import SMALL, fit, predict, write_shop

STILL: dict[str, Any] = {
    "ranker": SMALL | {"dropout": 0.0, "embedding_dropout": 0.0},
    "unseen_rate": 0.0,
    "precision": "32-true",
    "epochs": 2,
    "seed": 3,
}


@pytest.mark.parametrize("resident_gib", [1.0, 0.0])
@pytest.mark.parametrize("seed", [None, 5])
def test_processes_read_every_row_once_and_each_its_own(tmp_path: Path, resident_gib: float, seed: int | None) -> None:
    features = numbered(tmp_path, 1003)
    parts = [list(BatchSource(features, resident_gib, torch.device("cpu"))(100, seed, rank, 3)) for rank in range(3)]
    assert [len(part) for part in parts] == [11, 11, 11]
    ids = [torch.cat([categorical[:, 0] for categorical, _, _ in part]).tolist() for part in parts]
    assert sorted(row for part in ids for row in part) == list(range(1003))
    assert all(abs(len(part) - 1003 / 3) <= 11 for part in ids)


@pytest.mark.parametrize("seed", [None, 5])
def test_resident_batches_of_processes_make_up_those_of_one(tmp_path: Path, seed: int | None) -> None:
    features = numbered(tmp_path, 103)
    whole = BatchSource(features, 1.0, torch.device("cpu"))(10, seed)
    shared = [BatchSource(features, 1.0, torch.device("cpu"))(10, seed, rank, 2) for rank in range(2)]
    for batch, *parts in zip(whole, *shared, strict=True):
        together = torch.cat([categorical for categorical, _, _ in parts])
        assert sorted(together[:, 0].tolist()) == sorted(batch[0][:, 0].tolist())


def train_on(folder: Path, devices: int, **changes: Any) -> Training:
    return fit(folder, folder / f"on{devices}", devices=devices, **(STILL | changes))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"balancing": "mgda"},
        {"balancing": "gradnorm", "embedding_l2": 0.1, "adversarial": 0.1},
        {"ranker": STILL["ranker"] | {"sparse_embedding": True}},
        {"resident_gib": 0.0},
    ],
    ids=["plain", "mgda", "gradnorm", "sparse", "streamed"],
)
def test_two_processes_train_as_one_does(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_shop(tmp_path / "train", 2_049, seed=1)  # the last batch is of one row, so one process has none of it
    write_shop(tmp_path / "validation", 1_001, seed=2)
    alone, together = (train_on(tmp_path, devices, **changes) for devices in (1, 2))
    exact = "resident_gib" not in changes and changes.get("balancing") != "mgda"  # of which each process sees its part
    for one, two in zip(alone.history, together.history, strict=True):
        assert two["epoch"] == one["epoch"]
        for figure in ("loss", "val_score", "val_0", "val_1", "val_2"):
            assert two[figure] == pytest.approx(one[figure], rel=1e-4 if exact else 0.02)
    predictions = [predict(trained.ranker, tmp_path / "validation") for trained in (alone, together)]
    np.testing.assert_allclose(*predictions, rtol=2e-3 if exact else 0.3)


@pytest.mark.slow
def test_a_resumed_run_of_two_processes_goes_on(tmp_path: Path) -> None:
    write_shop(tmp_path / "train", 2_000, seed=1)
    write_shop(tmp_path / "validation", 1_000, seed=2)
    whole = fit(tmp_path, tmp_path / "out", devices=2, **STILL)
    again = fit(tmp_path, tmp_path / "out", devices=2, resume=True, **STILL)
    assert again.history == whole.history


KILLED = """
import sys
from pathlib import Path
from tests.models.test_devices import STILL
from tests.models.test_training import fit
if __name__ == "__main__":
    fit(Path(sys.argv[1]), Path(sys.argv[1]) / "out", devices=2, **(STILL | {"epochs": 500, "patience": 500}))
"""


@pytest.mark.slow
def test_processes_end_when_the_one_that_started_them_is_killed(tmp_path: Path) -> None:
    write_shop(tmp_path / "train", 2_000, seed=1)
    write_shop(tmp_path / "validation", 1_000, seed=2)
    script = tmp_path / "killed.py"  # processes that are started read it anew
    script.write_text(KILLED)
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    with subprocess.Popen([sys.executable, str(script), str(tmp_path)], cwd=root, env=environment) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "out" / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        workers = psutil.Process(process.pid).children()
        process.kill()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert len(workers) >= 2
    assert not alive


@pytest.mark.parametrize("devices", [0, 300])
def test_an_impossible_number_of_devices_is_refused(tmp_path: Path, devices: int) -> None:
    write_shop(tmp_path / "train", 10, seed=1)
    with pytest.raises(ValueError, match=f"devices must be from 1 to batch_rows; got {devices} for 256 rows"):
        fit(tmp_path, tmp_path / "out", devices=devices)
