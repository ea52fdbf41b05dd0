"""Training with losses that the schema chose, from a folder of features to a ranker."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import learner
from models.ranker import load_ranker, save_ranker
from tests.models.test_training import fit, predict, same_weights, write_shop

TOLD: dict[str, Any] = {
    "estimators": ["esmm", "dr", "esmm"],
    "value_losses": ["gamma", "gamma", "ziln"],
    "focusings": [1.0, 0.0, 0.0],
}


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("placed")
    for seed, side, rows in ((1, "train", 4_000), (2, "validation", 2_000)):
        write_shop(folder / side, rows, seed)
        places = np.random.default_rng(seed).integers(1, 6, (rows, 1))
        np.save(folder / side / "positions.npy", places.astype(np.float32))
    return folder


def test_towers_that_help_to_train_are_in_no_file_of_the_ranker(placed: Path, tmp_path: Path) -> None:
    trained = fit(placed, tmp_path / "out", epochs=2, objectives=TOLD)
    last = torch.load(tmp_path / "out" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert {"loss.position.logits", "loss.imputation.weights"} <= set(last)
    assert last["loss.position.logits"].abs().max() > 0  # it has learnt something
    assert last["loss.imputation.weights"].abs().max() > 0
    save_ranker(trained.ranker, tmp_path / "ranker")
    again = load_ranker(tmp_path / "ranker")
    assert same_weights(again, trained.ranker)
    assert not [name for name in again.state_dict() if name.startswith("loss") or "position" in name]
    predictions = predict(again, placed / "validation")
    assert predictions.shape == (2_000, 3)
    np.testing.assert_array_equal(predictions, predict(trained.ranker, placed / "validation"))


def test_an_interrupted_run_resumes_with_its_towers(
    placed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = fit(placed, tmp_path / "undisturbed", epochs=2, objectives=TOLD)
    step, steps = learner.Learner.training_step, []

    def fail_in_the_second_epoch(self: learner.Learner, batch: Any, batch_idx: int) -> None:
        steps.append(batch_idx)
        if len(steps) == 20:
            raise InterruptedError
        step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(learner.Learner, "training_step", fail_in_the_second_epoch)
        with pytest.raises(InterruptedError):
            fit(placed, tmp_path / "cut", epochs=2, objectives=TOLD)
    resumed = fit(placed, tmp_path / "cut", epochs=2, objectives=TOLD, resume=True)
    assert resumed.history == undisturbed.history
    assert same_weights(resumed.ranker, undisturbed.ranker)


def test_a_ranker_trained_without_most_negatives_is_calibrated_over_all_rows(tmp_path: Path) -> None:
    write_shop(tmp_path / "train", 60_000, seed=1)
    truth = write_shop(tmp_path / "validation", 5_000, seed=2)
    arrays = {name: np.load(tmp_path / "train" / f"{name}.npy") for name in ("categorical", "continuous", "labels")}
    kept = (arrays["labels"][:, 0] == 1) | (np.random.default_rng(0).random(60_000) < 0.2)
    for name, values in arrays.items():
        np.save(tmp_path / "train" / f"{name}.npy", values[kept])
    trained = fit(tmp_path, tmp_path / "out", batch_rows=512, objectives={"negatives": [0.2, 1.0, 1.0]})
    predictions = predict(trained.ranker, tmp_path / "validation")
    np.testing.assert_allclose(predictions[:, :2].mean(0), truth[:, :2].mean(0), rtol=0.04)
    for rows in np.array_split(np.argsort(truth[:, 0]), 4):
        assert predictions[rows, 0].mean() == pytest.approx(truth[rows, 0].mean(), rel=0.1)
