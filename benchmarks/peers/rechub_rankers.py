"""torch-rechub: MMoE, PLE, ESMM and AITM as it ships them, trained by its own trainer on batches out of memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature
from torch_rechub.models.multi_task import AITM, ESMM, MMOE, PLE
from torch_rechub.trainers import MTLTrainer

from benchmarks.peers.ranking import Part, Predictions, Rows, Settings, System, best_epochs, shuffled

PREDICTED_ROWS = 16_384
BUCKETS = 32


def features(rows: Rows, embedding: int) -> list[Any]:
    """Return what the package calls features: slots, lists, numbers."""
    slots = [
        SparseFeature(name, ids, embedding)
        if columns.stop - columns.start == 1
        else SequenceFeature(name, ids, embedding, pooling="mean", padding_idx=0)
        for name, ids, columns in rows.slots()
    ]
    return [*slots, *(DenseFeature(f"number_{d}") for d in range(rows.train.continuous.shape[1]))]


def inputs(rows: Rows, part: Part) -> dict[str, Tensor]:
    """Return a part's rows by feature."""
    ids = torch.from_numpy(part.categorical).long()
    numbers = torch.from_numpy(part.continuous)
    slots = {name: ids[:, columns].squeeze(1) for name, _, columns in rows.slots()}
    return slots | {f"number_{d}": numbers[:, d] for d in range(numbers.shape[1])}


def epoch(x: Mapping[str, Tensor], y: Tensor, rows: int, rng: np.random.Generator, size: int) -> Iterator[Any]:
    """Yield batches as the package's trainer takes them."""
    for taken in shuffled(rows, size, rng):
        chosen = torch.from_numpy(taken)
        yield {name: values[chosen] for name, values in x.items()}, y[chosen]


def train(
    model: nn.Module,
    rows: Rows,
    settings: Settings,
    seed: int,
    given: Mapping[str, dict[str, Tensor]],
    labels: Tensor,
    predicted: slice = slice(None),
    columns: slice = slice(None),
) -> Predictions:
    """Train a model until its validation gets no better, and predict.

    Args:
        model: of the package.
        rows: what is learnt from and predicted.
        settings: of the optimizer and the embeddings' penalty.
        seed: of the order of rows.
        given: each part's rows by feature.
        labels: a column for each of the model's tasks.
        predicted: the model's tasks that are objectives.
        columns: the objectives that they are.
    """
    trainer = MTLTrainer(
        model,
        ["classification"] * labels.shape[1],
        optimizer_params={"lr": settings["lr"], "weight_decay": settings["weight_decay"]},
        regularization_params={
            "embedding_l1": 0.0,
            "embedding_l2": settings["embedding_l2"],
            "dense_l1": 0.0,
            "dense_l2": 0.0,
        },
    )
    rng = np.random.default_rng(seed)
    names = {id(rows.validation): "validation", id(rows.test): "test"}

    def predict(part: Part) -> NDArray[np.float32]:
        model.eval()
        x = given[names[id(part)]]
        count = len(part.labels)
        with torch.inference_mode():
            batches = [
                model({name: values[start : start + PREDICTED_ROWS] for name, values in x.items()})[:, predicted]
                for start in range(0, count, PREDICTED_ROWS)
            ]
        return torch.cat(batches).numpy()

    def train_epoch() -> None:
        trainer.train_one_epoch(list(epoch(given["train"], labels, len(labels), rng, settings["batch_rows"])))

    return best_epochs(model, train_epoch, predict, rows, columns=columns)


def layers(settings: Settings) -> dict[str, Any]:
    """Return an expert's layers as the package's MLP takes them."""
    return {"dims": [settings["width"], settings["width"] // 2], "dropout": settings["dropout"], "activation": "relu"}


def towers(rows: Rows, settings: Settings) -> list[dict[str, Any]]:
    """Return each objective's tower as the package's MLP takes it."""
    return [{"dims": [32], "dropout": settings["dropout"], "activation": "relu"}] * len(rows.objectives)


def joint(model: nn.Module, rows: Rows, settings: Settings, seed: int) -> Predictions:
    """Train a model with a task an objective."""
    given = {name: inputs(rows, getattr(rows, name)) for name in ("train", "validation", "test")}
    return train(model, rows, settings, seed, given, torch.from_numpy(rows.train.labels))


def fit_mmoe(rows: Rows, settings: Settings, seed: int) -> Predictions:
    """Train MMoE."""
    torch.manual_seed(seed)
    kinds = ["classification"] * len(rows.objectives)
    given = features(rows, settings["embedding"])
    model = MMOE(given, kinds, settings["experts"], layers(settings), towers(rows, settings))
    return joint(model, rows, settings, seed)


def fit_ple(rows: Rows, settings: Settings, seed: int) -> Predictions:
    """Train PLE of one level, with as many experts of an objective as shared ones."""
    torch.manual_seed(seed)
    kinds, experts = ["classification"] * len(rows.objectives), settings["experts"]
    given = features(rows, settings["embedding"])
    own = max(experts // 2, 1)
    model = PLE(given, kinds, settings["levels"], own, own, layers(settings), towers(rows, settings))
    return joint(model, rows, settings, seed)


def fit_aitm(rows: Rows, settings: Settings, seed: int) -> Predictions:
    """Train AITM, which hands on from each objective to the next."""
    torch.manual_seed(seed)
    given = features(rows, settings["embedding"])
    model = AITM(given, len(rows.objectives), layers(settings), towers(rows, settings))
    return joint(model, rows, settings, seed)


def fit_esmm(rows: Rows, settings: Settings, seed: int) -> Predictions:
    """Train ESMM on the first objective and its child; it takes no numbers, so they come in 32 buckets."""
    torch.manual_seed(seed)
    cuts = np.quantile(rows.train.continuous, np.linspace(0, 1, BUCKETS + 1)[1:-1], axis=0)
    given = {}
    for name in ("train", "validation", "test"):
        part: Part = getattr(rows, name)
        x = inputs(rows, part)
        for d in range(part.continuous.shape[1]):
            x[f"number_{d}"] = torch.from_numpy(np.searchsorted(cuts[:, d], part.continuous[:, d], side="right"))
        given[name] = x
    embedding = settings["embedding"]
    slots = [feature for feature in features(rows, embedding) if not isinstance(feature, DenseFeature)]
    numbers = [SparseFeature(f"number_{d}", BUCKETS, embedding) for d in range(rows.train.continuous.shape[1])]
    model = ESMM(slots, numbers, layers(settings), layers(settings))
    clicked, converted = torch.from_numpy(rows.train.labels[:, :2]).unbind(1)
    labels = torch.stack([converted, clicked, converted], 1)
    return train(model, rows, settings, seed, given, labels, slice(1, 3), slice(0, 2))


def no_chain(rows: Rows) -> str | None:
    """Return why ESMM cannot do these rows, or None."""
    if rows.parents[:2] == (-1, 0):
        return None
    return "ESMM needs a second objective that is given the first"


def space(trial: Any) -> dict[str, Any]:
    """Suggest settings of any of the models."""
    return {
        "embedding": trial.suggest_categorical("embedding", [4, 8, 16, 32]),
        "width": trial.suggest_categorical("width", [32, 64, 128, 256]),
        "experts": trial.suggest_categorical("experts", [2, 4, 8]),
        "levels": trial.suggest_categorical("levels", [1, 2]),
        "dropout": trial.suggest_float("dropout", 0.0, 0.6),
        "lr": trial.suggest_float("lr", 1e-3, 1e-2, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-7, 1e-3, log=True),
        "embedding_l2": trial.suggest_float("embedding_l2", 1e-8, 1e-3, log=True),
        "batch_rows": trial.suggest_categorical("batch_rows", [512, 1024, 2048]),
    }


START = {
    "embedding": 16,
    "width": 128,
    "experts": 4,
    "levels": 1,
    "dropout": 0.2,
    "lr": 1e-3,
    "weight_decay": 1e-5,
    "embedding_l2": 1e-6,
    "batch_rows": 2048,
}
SYSTEMS = {
    "torch-rechub MMoE": System(fit_mmoe, START, space),
    "torch-rechub PLE": System(fit_ple, START, space),
    "torch-rechub ESMM": System(fit_esmm, START, space, refuses=no_chain),
    "torch-rechub AITM": System(fit_aitm, START, space),
}
