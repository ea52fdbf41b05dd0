import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from feature_eng.layout import Layout, Slot
from models import learner
from models.ranker import Ranker
from models.training import Training, mask_rates, train

LAYOUT = Layout((Slot("item", 34), Slot("tags", 14, width=3)), ("quality", "noise"))
KINDS, PARENTS = ("binary", "binary", "value"), (-1, 0, 1)
SMALL: dict[str, Any] = {"embedding": 4, "experts": 2, "expert_widths": (16,), "tower_widths": (8,), "crosses": 1}


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def write_shop(folder: Path, rows: int, seed: int) -> NDArray[np.float64]:
    """Write features of a small shop and return its true expectations, (rows, 3)."""
    rng = np.random.default_rng(seed)
    taste = np.random.default_rng(99).normal(size=34)
    item, tags = rng.integers(4, 34, rows), rng.integers(0, 14, (rows, 3)) * (rng.random((rows, 3)) < 0.7)
    tags[tags == 2] = 5
    quality, noise = rng.normal(size=(2, rows))
    click = sigmoid(-0.5 + taste[item] + quality)
    purchase = click * sigmoid(-0.5 + 1.5 * quality - 0.5 * taste[item])
    value = 20 * np.exp(0.5 * taste[item])
    clicked = rng.random(rows) < click
    bought = clicked & (rng.random(rows) < purchase / click)
    spent = np.where(bought, value * rng.lognormal(-0.5, 1, rows), 0)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "categorical.npy", np.column_stack([item, tags]).astype(np.int32))
    np.save(folder / "continuous.npy", np.column_stack([quality, noise]).astype(np.float32))
    np.save(folder / "labels.npy", np.column_stack([clicked, bought, spent]).astype(np.float32))
    return np.column_stack([click, purchase, purchase * value])


def fit(folder: Path, out: Path, **changes: Any) -> Training:
    flat: dict[str, Any] = {
        "layout": LAYOUT,
        "objective_kinds": KINDS,
        "parents": PARENTS,
        "ranker": SMALL,
        "batch_rows": 256,
        "epochs": 3,
        "lr": 5e-3,
        "loggers": (),
    }
    return train(folder / "train", folder / "validation", out=out, **(flat | changes))


def predict(ranker: Ranker, folder: Path) -> NDArray[np.float32]:
    arrays = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("categorical", "continuous"))
    with torch.no_grad():
        predictions: NDArray[np.float32] = ranker(*arrays).numpy()
    return predictions


def same_weights(left: Ranker, right: Ranker) -> bool:
    other = right.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in left.state_dict().items())


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads that wait for each other on a busy machine are ten times as slow as one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder / "train", 4_000, seed=1)
    write_shop(folder / "validation", 2_000, seed=2)
    return folder


@pytest.mark.parametrize("resident_gib", [1.0, 0.0])
def test_a_learnable_shop_is_learnt_almost_to_the_best_there_is(tmp_path: Path, resident_gib: float) -> None:
    write_shop(tmp_path / "train", 60_000, seed=1)
    truth = write_shop(tmp_path / "validation", 20_000, seed=2)
    trained = fit(tmp_path, tmp_path / "out", resident_gib=resident_gib, batch_rows=512, epochs=3)
    predictions = predict(trained.ranker, tmp_path / "validation")
    labels = np.load(tmp_path / "validation" / "labels.npy")
    for objective in (0, 1):
        best = roc_auc_score(labels[:, objective], truth[:, objective]) - 0.5
        assert roc_auc_score(labels[:, objective], predictions[:, objective]) - 0.5 > 0.985 * best
    np.testing.assert_allclose(predictions.mean(0), truth.mean(0), rtol=0.1)
    assert np.corrcoef(np.log(predictions[:, 2]), np.log(truth[:, 2]))[0, 1] > 0.95


def test_the_seed_decides_the_weights(shop: Path, tmp_path: Path) -> None:
    first, again, other = (fit(shop, tmp_path / str(i), seed=seed, epochs=1) for i, seed in enumerate((3, 3, 4)))
    assert same_weights(first.ranker, again.ranker)
    assert not same_weights(first.ranker, other.ranker)


def test_training_stops_when_validation_gets_no_better_and_the_best_epoch_is_kept(shop: Path, tmp_path: Path) -> None:
    trained = fit(shop, tmp_path, epochs=40, patience=2, lr=3e-2, ranker=SMALL | {"dropout": 0.0})
    scores = [epoch["val_score"] for epoch in trained.history]
    assert len(scores) < 40
    assert trained.best_epoch == int(np.argmin(scores)) == len(scores) - 3
    best = fit(shop, tmp_path / "again", epochs=40, patience=1, lr=3e-2, ranker=SMALL | {"dropout": 0.0})
    assert best.history[: len(best.history)] == trained.history[: len(best.history)]
    labels, predictions = np.load(shop / "validation" / "labels.npy"), predict(trained.ranker, shop / "validation")
    click, base = labels[:, 0], np.load(shop / "train" / "labels.npy")[:, 0].mean()
    entropies = [-(click * np.log(p) + (1 - click) * np.log(1 - p)).mean() for p in (predictions[:, 0], base)]
    assert trained.history[trained.best_epoch]["val_0"] == pytest.approx(entropies[0] / entropies[1], rel=1e-4)


def test_without_validation_every_epoch_runs_and_the_last_one_counts(shop: Path, tmp_path: Path) -> None:
    write_shop(tmp_path / "train", 1_000, seed=3)
    flat: dict[str, Any] = {"objective_kinds": KINDS, "parents": PARENTS, "layout": LAYOUT, "ranker": SMALL}
    trained = train(tmp_path / "train", None, out=tmp_path / "out", epochs=3, patience=1, loggers=(), **flat)
    assert [epoch["epoch"] for epoch in trained.history] == [0, 1, 2]
    assert trained.best_epoch == 2


def test_an_interrupted_run_resumes_to_the_same_weights(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = fit(shop, tmp_path / "undisturbed", epochs=4)
    step, steps = learner.Learner.training_step, []

    def fail_in_the_third_epoch(self: learner.Learner, batch: Any, batch_idx: int) -> None:
        steps.append(batch_idx)
        if len(steps) == 40:
            raise InterruptedError
        step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(learner.Learner, "training_step", fail_in_the_third_epoch)
        with pytest.raises(InterruptedError):
            fit(shop, tmp_path / "cut", epochs=4)
    resumed = fit(shop, tmp_path / "cut", epochs=4, resume=True)
    assert resumed.history == undisturbed.history
    assert same_weights(resumed.ranker, undisturbed.ranker)


def test_a_best_epoch_of_a_run_that_cannot_be_resumed_is_forgotten(shop: Path, tmp_path: Path) -> None:
    undisturbed = fit(shop, tmp_path / "undisturbed", epochs=2)
    fit(shop, tmp_path / "cut", epochs=1)
    (tmp_path / "cut" / "checkpoints" / "last.ckpt").unlink()
    resumed = fit(shop, tmp_path / "cut", epochs=2, resume=True)
    assert same_weights(resumed.ranker, undisturbed.ranker)


KILLED = """
import sys
from pathlib import Path
import torch
from tests.models.test_training import fit
torch.set_num_threads(1)
fit(Path(sys.argv[1]), Path(sys.argv[2]), epochs=6)
"""


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(shop: Path, tmp_path: Path) -> None:
    last = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    command = [sys.executable, "-c", KILLED, str(shop), str(tmp_path / "killed")]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as process:
        deadline = time.monotonic() + 120
        while not last.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert last.exists()
    resumed = fit(shop, tmp_path / "killed", epochs=6, resume=True)
    undisturbed = fit(shop, tmp_path / "undisturbed", epochs=6)
    assert resumed.history == undisturbed.history
    assert same_weights(resumed.ranker, undisturbed.ranker)


def test_a_finished_run_is_not_trained_further_by_resuming(shop: Path, tmp_path: Path) -> None:
    stopped = fit(shop, tmp_path, epochs=20, patience=1, lr=5e-2)
    assert len(stopped.history) < 20
    resumed = fit(shop, tmp_path, epochs=20, patience=1, lr=5e-2, resume=True)
    assert resumed.history == stopped.history
    assert same_weights(resumed.ranker, stopped.ranker)


def test_a_run_that_is_not_resumed_forgets_the_one_before(shop: Path, tmp_path: Path) -> None:
    first = fit(shop, tmp_path, epochs=1)
    assert same_weights(fit(shop, tmp_path, epochs=1).ranker, first.ranker)


def test_unknown_labels_are_left_out(shop: Path, tmp_path: Path) -> None:
    for side, rows in (("train", 4_000), ("validation", 2_000)):
        write_shop(tmp_path / side, rows, seed=5)
        labels = np.load(tmp_path / side / "labels.npy")
        labels[::2, 1:] = np.nan
        np.save(tmp_path / side / "labels.npy", labels)
    trained = fit(tmp_path, tmp_path / "out")
    assert np.isfinite(predict(trained.ranker, tmp_path / "validation")).all()
    figures = [value for epoch in trained.history for name, value in epoch.items() if name != "gradient_cosines"]
    assert np.isfinite(figures).all()
    assert trained.history[-1]["val_1"] < 1


def test_a_validation_where_nothing_happened_does_not_stop_training(shop: Path, tmp_path: Path) -> None:
    write_shop(tmp_path / "train", 4_000, seed=1)
    write_shop(tmp_path / "validation", 500, seed=2)
    np.save(tmp_path / "validation" / "labels.npy", np.zeros((500, 3), np.float32))
    trained = fit(tmp_path, tmp_path / "out", epochs=2, patience=5)
    assert len(trained.history) == 2
    assert np.isnan(trained.history[0]["val_2"])  # no purchase, so no value to judge
    assert np.isfinite(trained.history[0]["val_score"])


def test_a_sparse_table_learns_as_a_dense_one_does(shop: Path, tmp_path: Path) -> None:
    dense, sparse = (fit(shop, tmp_path / str(s), ranker=SMALL | {"sparse_embedding": s}) for s in (False, True))
    assert sparse.history[-1]["val_score"] == pytest.approx(dense.history[-1]["val_score"], abs=0.02)


def test_an_unseen_value_is_predicted_like_an_average_one(tmp_path: Path) -> None:
    write_shop(tmp_path / "train", 30_000, seed=1)
    write_shop(tmp_path / "validation", 5_000, seed=2)
    trained = fit(tmp_path, tmp_path / "out", unseen_rate=0.05)
    write_shop(tmp_path / "unseen", 20_000, seed=3)
    ids, rate = np.load(tmp_path / "unseen" / "categorical.npy"), np.load(tmp_path / "unseen" / "labels.npy").mean(0)
    ids[:, 0] = 2
    np.save(tmp_path / "unseen" / "categorical.npy", ids)
    np.testing.assert_allclose(predict(trained.ranker, tmp_path / "unseen")[:, :2].mean(0), rate[:2], rtol=0.12)


def test_values_are_shown_as_unseen_where_the_unseen_id_would_not_learn_or_where_all_are(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = np.load(shop / "train" / "categorical.npy")
    for folder in ("train", "validation"):
        shutil.copytree(shop / folder, tmp_path / folder)
    ids[0, 0] = 2  # the first column has the unseen id, the tags have not
    np.save(tmp_path / "train" / "categorical.npy", ids)
    shown: list[torch.Tensor] = []
    mask = learner.mask_values

    def spy(categorical: torch.Tensor, rates: torch.Tensor) -> torch.Tensor:
        shown.append(rates)
        return mask(categorical, rates)

    monkeypatch.setattr(learner, "mask_values", spy)
    fit(tmp_path, tmp_path / "out", epochs=1, unseen_rate=0.05, mask_rate=0.01)
    assert shown[0].tolist() == pytest.approx([0.01, 0.05, 0.05, 0.05])


def test_buckets_and_hours_have_no_unseen_id_to_be_shown() -> None:
    layout = Layout((Slot("item", 9), Slot("tags", 9, 2), Slot("hour", 25)), ())
    free = [False, True, True, True]
    assert mask_rates(layout, {"item", "tags"}, free, 0.05, 0.01) == [0.01, 0.05, 0.05, 0.0]
    assert mask_rates(layout, None, free, 0.05, 0.01) == [0.01, 0.05, 0.05, 0.05]


def test_the_learning_rate_rises_and_then_stays() -> None:
    rates = [learner.rate(step, steps=100, warmup=0.1) for step in range(101)]
    np.testing.assert_allclose(rates, [*np.arange(1, 11) / 10, *[1.0] * 91])
    assert learner.rate(0, steps=3, warmup=0.0) == 1.0


def test_training_writes_tensorboard_logs_and_nothing_to_a_screen_that_is_none(
    shop: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fit(shop, tmp_path, epochs=1, loggers=("tensorboard",))
    assert list((tmp_path / "logs").glob("events.out.tfevents.*"))
    assert capfd.readouterr() == ("", "")


def test_an_unknown_logger_is_refused(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="loggers must be tensorboard or wandb; got 'mlflow'"):
        fit(shop, tmp_path, loggers=("mlflow",))


def test_features_of_another_layout_are_refused(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold arrays with \(2, 2, 3\) columns; got \(4, 2, 3\)"):
        fit(shop, tmp_path, layout=Layout((Slot("item", 34), Slot("tag", 14)), ("quality", "noise")))
