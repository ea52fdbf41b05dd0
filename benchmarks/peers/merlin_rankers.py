"""merlin-models (its PyTorch API): MMoE and PLE as it ships them, trained on batches out of memory."""

from __future__ import annotations

from typing import Any

import merlin.models.torch as mm
import numpy as np
import torch
from merlin.models.torch.batch import Batch
from merlin.models.torch.models.base import compute_loss
from merlin.schema import ColumnSchema, Schema, Tags
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.peers.ranking import Part, Predictions, Rows, Settings, System, best_epochs, shuffled

PREDICTED_ROWS = 16_384


def schema(rows: Rows) -> Schema:
    """Return the package's schema; a list's places are columns of one domain."""
    found = []
    for name, ids, columns in rows.slots():
        for place in range(columns.stop - columns.start):
            properties = {"domain": {"min": 0, "max": ids - 1, "name": name}}
            found.append(
                ColumnSchema(f"{name}_{place}", dtype=np.int64, tags=[Tags.CATEGORICAL], properties=properties)
            )
    numbers = [
        ColumnSchema(f"number_{d}", dtype=np.float32, tags=[Tags.CONTINUOUS])
        for d in range(rows.train.continuous.shape[1])
    ]
    targets = [
        ColumnSchema(name, dtype=np.float32, tags=[Tags.BINARY_CLASSIFICATION, Tags.TARGET]) for name in rows.objectives
    ]
    return Schema([*found, *numbers, *targets])


def inputs(rows: Rows, part: Part) -> dict[str, Tensor]:
    """Return a part's rows by column: ids (B,), numbers (B, 1)."""
    ids, numbers = torch.from_numpy(part.categorical).long(), torch.from_numpy(part.continuous)
    slots = {
        f"{name}_{place}": ids[:, column]
        for name, _, columns in rows.slots()
        for place, column in enumerate(range(columns.start, columns.stop))
    }
    return slots | {f"number_{d}": numbers[:, [d]] for d in range(numbers.shape[1])}


def build(rows: Rows, settings: Settings, *, levels: int) -> Any:
    """Return MMoE where there is no level, else PLE."""
    whole = schema(rows)
    widths, dropout = [settings["width"], settings["width"] // 2], settings["dropout"]
    tables = mm.EmbeddingTables(settings["embedding"])
    block = mm.TabularInputBlock(whole.excluding_by_tag(Tags.TARGET), agg="concat")
    if rows.train.continuous.shape[1]:
        block.add_route(Tags.CONTINUOUS)
    block.add_route(Tags.CATEGORICAL, tables)
    outputs = mm.TabularOutputBlock(whole, init="defaults")
    expert = mm.MLPBlock(widths, dropout=dropout)
    own = max(settings["experts"] // 2, 1)
    numbers = {"num_shared_experts": own, "num_task_experts": own, "outputs": outputs}
    if levels == 0:
        shared = mm.MMOEBlock(expert, num_experts=settings["experts"], outputs=outputs)
    elif levels == 1:
        shared = mm.CGCBlock(expert, **numbers)
    else:
        shared = mm.PLEBlock(expert, depth=levels, **numbers)
    outputs.prepend_for_each(mm.MLPBlock([32]))
    outputs.prepend(shared)
    return mm.Model(block, outputs)


def fit(rows: Rows, settings: Settings, seed: int, *, levels: int = 0) -> Predictions:
    """Train by the package's own loss."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    given = {id(part): inputs(rows, part) for part in (rows.train, rows.validation, rows.test)}
    labels = {name: torch.from_numpy(rows.train.labels[:, [k]]) for k, name in enumerate(rows.objectives)}
    model = build(rows, settings, levels=levels)
    x = given[id(rows.train)]
    first = {name: values[:2] for name, values in x.items()}
    model.initialize(Batch(first, {name: values[:2] for name, values in labels.items()}))
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": settings[n]} for n in ("weight_decay", "embedding_decay")
    ]
    for name, parameter in model.named_parameters():
        groups["table" in name.lower()]["params"].append(parameter)
    optimizer = torch.optim.AdamW(groups, lr=settings["lr"])

    def predict(part: Part) -> NDArray[np.float32]:
        model.eval()
        found = []
        with torch.inference_mode():
            for start in range(0, len(part.labels), PREDICTED_ROWS):
                taken = slice(start, start + PREDICTED_ROWS)
                predicted = model({name: values[taken] for name, values in given[id(part)].items()})
                found.append(torch.cat([predicted[name].view(-1, 1) for name in rows.objectives], 1))
        return torch.cat(found).numpy()

    def train_epoch() -> None:
        model.train()
        for taken in shuffled(len(rows.train.labels), settings["batch_rows"], rng):
            chosen = torch.from_numpy(taken)
            features = {name: values[chosen] for name, values in x.items()}
            targets = {name: values[chosen] for name, values in labels.items()}
            predictions = model(features, batch=Batch(features, targets))
            optimizer.zero_grad()
            compute_loss(predictions, targets, model.model_outputs(), compute_metrics=False)["loss"].backward()
            optimizer.step()

    return best_epochs(model, train_epoch, predict, rows)


def fit_ple(rows: Rows, settings: Settings, seed: int) -> Predictions:
    """Train PLE, with as many experts of an objective as shared ones."""
    return fit(rows, settings, seed, levels=settings["levels"])


def space(trial: Any) -> dict[str, Any]:
    """Suggest settings of either model."""
    return {
        "embedding": trial.suggest_categorical("embedding", [4, 8, 16, 32]),
        "width": trial.suggest_categorical("width", [32, 64, 128, 256]),
        "experts": trial.suggest_categorical("experts", [2, 4, 8]),
        "levels": trial.suggest_categorical("levels", [1, 2]),
        "dropout": trial.suggest_float("dropout", 0.0, 0.6),
        "lr": trial.suggest_float("lr", 1e-3, 1e-2, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True),
        "embedding_decay": trial.suggest_float("embedding_decay", 1e-6, 1.0, log=True),
        "batch_rows": trial.suggest_categorical("batch_rows", [512, 1024, 2048]),
    }


START = {
    "embedding": 16,
    "width": 128,
    "experts": 4,
    "levels": 1,
    "dropout": 0.2,
    "lr": 1e-3,
    "weight_decay": 1e-4,
    "embedding_decay": 1e-3,
    "batch_rows": 2048,
}
SYSTEMS = {"merlin-models MMoE": System(fit, START, space), "merlin-models PLE": System(fit_ple, START, space)}
