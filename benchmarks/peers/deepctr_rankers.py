"""DeepCTR-Torch: MMoE and PLE as it ships them, trained by its own `fit`, an epoch at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat
from deepctr_torch.models import MMOE, PLE
from numpy.typing import NDArray

from benchmarks.peers.ranking import Part, Predictions, Rows, Settings, System, best_epochs

PREDICTED_ROWS = 16_384


def features(rows: Rows, embedding: int) -> list[Any]:
    """Return what the package calls feature columns: slots, lists, numbers."""
    found: list[Any] = []
    for name, ids, columns in rows.slots():
        width = columns.stop - columns.start
        slot = SparseFeat(name, ids, embedding_dim=embedding)
        found.append(slot if width == 1 else VarLenSparseFeat(slot, maxlen=width, combiner="mean"))
    return [*found, *(DenseFeat(f"number_{d}", 1) for d in range(rows.train.continuous.shape[1]))]


def inputs(rows: Rows, part: Part) -> list[NDArray[np.float32]]:
    """Return a part's rows as the package takes them: float32 columns in the features' order."""
    slots = [part.categorical[:, columns].astype(np.float32) for _, _, columns in rows.slots()]
    return [*slots, *(part.continuous[:, [d]] for d in range(part.continuous.shape[1]))]


def train(model: Any, rows: Rows, settings: Settings) -> Predictions:
    """Train a model until its validation gets no better, and predict."""
    tasks = len(rows.objectives)
    model.compile(torch.optim.Adam(model.parameters(), lr=settings["lr"]), loss=["binary_crossentropy"] * tasks)
    given = {id(part): inputs(rows, part) for part in (rows.train, rows.validation, rows.test)}

    def predict(part: Part) -> NDArray[np.float32]:
        predicted: NDArray[np.float32] = model.predict(given[id(part)], PREDICTED_ROWS).astype(np.float32)
        return predicted

    def train_epoch() -> None:
        model.fit(given[id(rows.train)], rows.train.labels, batch_size=settings["batch_rows"], epochs=1, verbose=0)

    return best_epochs(model, train_epoch, predict, rows)


def shape(rows: Rows, settings: Settings, seed: int) -> dict[str, Any]:
    """Return what both models take."""
    return {
        "expert_dnn_hidden_units": (settings["width"], settings["width"] // 2),
        "gate_dnn_hidden_units": (),
        "tower_dnn_hidden_units": (32,),
        "l2_reg_embedding": settings["embedding_l2"],
        "l2_reg_dnn": settings["l2"],
        "dnn_dropout": settings["dropout"],
        "task_types": ["binary"] * len(rows.objectives),
        "task_names": list(rows.objectives),
        "seed": seed,
    }


def fit_mmoe(rows: Rows, settings: Settings, seed: int) -> Predictions:
    """Train MMoE."""
    columns = features(rows, settings["embedding"])
    return train(MMOE(columns, num_experts=settings["experts"], **shape(rows, settings, seed)), rows, settings)


def fit_ple(rows: Rows, settings: Settings, seed: int) -> Predictions:
    """Train PLE, with as many experts of an objective as shared ones."""
    own = max(settings["experts"] // 2, 1)
    numbers = {"shared_expert_num": own, "specific_expert_num": own, "num_levels": settings["levels"]}
    columns = features(rows, settings["embedding"])
    return train(PLE(columns, **numbers, **shape(rows, settings, seed)), rows, settings)


def space(trial: Any) -> dict[str, Any]:
    """Suggest settings of either model; its penalties are of a batch's sum, so they are large numbers."""
    return {
        "embedding": trial.suggest_categorical("embedding", [4, 8, 16, 32]),
        "width": trial.suggest_categorical("width", [32, 64, 128, 256]),
        "experts": trial.suggest_categorical("experts", [2, 4, 8]),
        "levels": trial.suggest_categorical("levels", [1, 2]),
        "dropout": trial.suggest_float("dropout", 0.0, 0.6),
        "lr": trial.suggest_float("lr", 1e-3, 1e-2, log=True),
        "l2": trial.suggest_float("l2", 1e-7, 1e-1, log=True),
        "embedding_l2": trial.suggest_float("embedding_l2", 1e-6, 1.0, log=True),
        "batch_rows": trial.suggest_categorical("batch_rows", [512, 1024, 2048]),
    }


START = {
    "embedding": 16,
    "width": 128,
    "experts": 4,
    "levels": 1,
    "dropout": 0.2,
    "lr": 1e-3,
    "l2": 1e-5,
    "embedding_l2": 1e-3,
    "batch_rows": 2048,
}
SYSTEMS = {
    "DeepCTR-Torch MMoE": System(fit_mmoe, START, space),
    "DeepCTR-Torch PLE": System(fit_ple, START, space),
}
