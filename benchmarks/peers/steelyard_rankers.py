"""Steelyard's own ranker under the same rules: by its defaults, and tuned."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.peers.ranking import Predictions, Rows, Settings, System, test_folder
from feature_eng.layout import Layout
from models.training import train

PREDICTED_ROWS = 16_384
TRAINING = ("lr", "batch_rows", "epochs", "weight_decay", "embedding_decay", "averaging", "unseen_rate")


def fit(rows: Rows, settings: Settings, seed: int) -> Predictions:
    """Train as `steelyard fit` does; settings are those of `train`, the others those of `Ranker`."""
    task = json.loads((rows.folder / "task.json").read_text(encoding="utf-8"))
    told = {name: value for name, value in settings.items() if name in TRAINING}
    ranker = {name: value for name, value in settings.items() if name not in TRAINING}
    with tempfile.TemporaryDirectory(prefix="steelyard-quality-") as folder:
        trained = train(
            rows.folder / "train",
            rows.folder / "validation",
            layout=Layout.from_json(task["layout"]),
            objective_kinds=["binary"] * len(rows.objectives),
            parents=rows.parents,
            objectives=task["learning"],
            out=Path(folder),
            ranker=task["relations"] | ranker,
            seed=seed,
            loggers=(),
            progress=False,
            **told,
        )
    return predict(trained.ranker, rows.folder / "validation"), predict(trained.ranker, test_folder(rows.folder))


def predict(ranker: Any, features: Path) -> NDArray[np.float32]:
    """Return a ranker's predictions (B, K) of a folder's rows."""
    arrays = [torch.from_numpy(np.load(features / f"{name}.npy")) for name in ("categorical", "continuous")]
    with torch.inference_mode():
        batches = [ranker(*batch) for batch in zip(*(array.split(PREDICTED_ROWS) for array in arrays), strict=True)]
    predictions: NDArray[np.float32] = torch.cat(batches).numpy()
    return predictions


def space(trial: Any) -> dict[str, Any]:
    """Suggest architecture, widths and regularisation."""
    sharing = trial.suggest_categorical("sharing", ["shared_bottom", "mmoe", "ple", "aitm"])
    width = trial.suggest_categorical("width", [32, 64, 128, 256])
    depth = trial.suggest_int("depth", 1, 2)
    settings: dict[str, Any] = {
        "sharing": sharing,
        "expert_widths": [width // 2**layer for layer in range(depth)],
        "embedding": trial.suggest_categorical("embedding", [4, 8, 16, 32]),
        "crosses": trial.suggest_int("crosses", 0, 2),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
        "embedding_dropout": trial.suggest_float("embedding_dropout", 0.0, 0.5),
        "lr": trial.suggest_float("lr", 1e-3, 1e-2, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-5, 1e-1, log=True),
        "embedding_decay": trial.suggest_float("embedding_decay", 1e-4, 1.0, log=True),
        "batch_rows": trial.suggest_categorical("batch_rows", [512, 1024, 2048]),
        "epochs": trial.suggest_int("epochs", 3, 10),
    }
    if sharing == "mmoe":
        settings["experts"] = 4
    return settings


START = {
    "sharing": "shared_bottom",
    "width": 64,
    "depth": 1,
    "embedding": 8,
    "crosses": 1,
    "dropout": 0.1,
    "embedding_dropout": 0.1,
    "lr": 3e-3,
    "weight_decay": 1e-4,
    "embedding_decay": 1e-2,
    "batch_rows": 2048,
    "epochs": 4,
}
SYSTEMS = {"steelyard": System(fit, {}), "steelyard (tuned)": System(fit, START, space)}
