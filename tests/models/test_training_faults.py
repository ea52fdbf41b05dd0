"""What a training makes of rows that teach little, that are wrong, or that need a table larger than most."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_eng.layout import Layout, Slot
from tests.models.test_training import fit, predict, same_weights, write_shop


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    write_shop(tmp_path / "train", 1_000, seed=1)
    write_shop(tmp_path / "validation", 500, seed=2)
    return tmp_path


def change(folder: Path, array: str, column: int, value: float) -> None:
    values = np.load(folder / f"{array}.npy")
    values[:, column] = value
    np.save(folder / f"{array}.npy", values)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_an_objective_that_never_varies_is_left_out_of_the_score(shop: Path, label: float) -> None:
    alone = {"objective_kinds": ("binary", "binary", "value"), "parents": (-1, -1, 0)}
    change(shop / "train", "labels", 1, label)
    trained = fit(shop, shop / "out", **alone)
    for epoch in trained.history:
        assert np.isnan(epoch["val_1"])
        assert epoch["val_score"] == pytest.approx((epoch["val_0"] + epoch["val_2"]) / 2)
    assert predict(trained.ranker, shop / "validation")[:, 1] == pytest.approx(label, abs=0.01)


def test_labels_that_never_vary_are_refused(shop: Path) -> None:
    for objective in range(3):
        change(shop / "train", "labels", objective, 0.0)
    with pytest.raises(ValueError, match="labels must vary in training; got one value in all rows of click, buy, pay"):
        fit(shop, shop / "out", names=("click", "buy", "pay"))


def test_a_validation_without_a_label_is_refused(shop: Path) -> None:
    for objective in range(3):
        change(shop / "validation", "labels", objective, np.nan)
    with pytest.raises(
        ValueError, match="validation must have labels of an objective that varies in training; got none"
    ):
        fit(shop, shop / "out")


def test_a_validation_of_one_class_is_judged(shop: Path) -> None:
    change(shop / "validation", "labels", 0, 1.0)
    trained = fit(shop, shop / "out")
    assert all(np.isfinite(epoch["val_score"]) for epoch in trained.history)


def test_a_validation_of_one_row_is_judged(shop: Path) -> None:
    write_shop(shop / "validation", 1, seed=2)
    assert np.isfinite(fit(shop, shop / "out").history[0]["val_score"])


def test_columns_of_one_value_do_no_harm(shop: Path) -> None:
    for folder in ("train", "validation"):
        change(shop / folder, "categorical", 0, 7)
        change(shop / folder, "continuous", 1, 3.5)
    trained = fit(shop, shop / "out")
    assert trained.history[-1]["val_0"] < 1
    assert np.isfinite(predict(trained.ranker, shop / "validation")).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_feature_that_is_not_finite_is_named(shop: Path, value: float) -> None:
    values = np.load(shop / "train" / "continuous.npy")
    values[17, 1] = value
    np.save(shop / "train" / "continuous.npy", values)
    with pytest.raises(ValueError, match=rf"continuous must be finite in .*train; got {value} in column 1"):
        fit(shop, shop / "out")


def test_a_loss_that_is_no_number_any_more_is_told(shop: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"loss must stay finite, which a lower lr may do; got nan, lr 1e\+38"):
        fit(shop, shop / "out", lr=1e38, warmup=0.0)


@pytest.mark.slow
def test_a_table_of_ten_million_rows_learns(tmp_path: Path) -> None:
    rows, ids = 4_000, 10_000_000
    rng = np.random.default_rng(1)
    for folder, seed in (("train", 1), ("validation", 2)):
        write_shop(tmp_path / folder, rows, seed=seed)
        categorical = np.load(tmp_path / folder / "categorical.npy")
        categorical[:, 0] = rng.integers(4, ids, rows)
        categorical[0, 0] = ids - 1
        np.save(tmp_path / folder / "categorical.npy", categorical)
    layout = Layout((Slot("item", ids), Slot("tags", 14, width=3)), ("quality", "noise"))
    trained = fit(tmp_path, tmp_path / "out", layout=layout, ranker={"embedding": 2}, epochs=1)
    assert trained.ranker.options["sparse_embedding"]
    assert trained.history[0]["val_0"] < 1


KILLED = """
import sys
from pathlib import Path
import torch
from tests.models.test_training import fit
torch.set_num_threads(1)
fit(Path(sys.argv[1]), Path(sys.argv[2]), epochs=8, resume=True, **eval(sys.argv[3]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("balancing", ["dwa", "gradnorm", "nash"])
def test_a_training_killed_at_random_moments_ends_as_an_undisturbed_one(tmp_path: Path, balancing: str) -> None:
    write_shop(tmp_path / "train", 4_000, seed=1)
    write_shop(tmp_path / "validation", 1_000, seed=2)
    changes: dict[str, Any] = {"balancing": balancing, "patience": 8, "mask_rate": 0.05}
    start = [sys.executable, "-c", KILLED, str(tmp_path)]
    command, project = [*start, str(tmp_path / "killed"), repr(changes)], Path(__file__).parents[2]
    checkpoints, moments = tmp_path / "killed" / "checkpoints", random.Random(7)
    killed = 0
    for _ in range(12):
        before = newest(checkpoints)
        with subprocess.Popen(command, cwd=project) as process:
            deadline = time.monotonic() + 60
            while newest(checkpoints) == before and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(moments.uniform(0, 0.2))
            if process.poll() is None and killed < 3:
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
            assert process.wait(120) in (0, -signal.SIGKILL)
        if process.returncode == 0:
            break
    assert killed
    subprocess.run([*start, str(tmp_path / "undisturbed"), repr(changes)], cwd=project, check=True, timeout=120)
    resumed, undisturbed = (
        fit(tmp_path, tmp_path / run, epochs=8, resume=True, **changes) for run in ("killed", "undisturbed")
    )
    assert resumed.history == undisturbed.history
    assert same_weights(resumed.ranker, undisturbed.ranker)


def newest(folder: Path) -> int:
    """Return when the folder's files last changed, in nanoseconds."""
    times = []
    for file in folder.glob("*.ckpt") if folder.exists() else ():
        try:
            times.append(file.stat().st_mtime_ns)
        except FileNotFoundError:  # just replaced
            continue
    return max(times, default=0)
