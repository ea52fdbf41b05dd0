"""FuxiCTR: MMoE out of its layers and its multi-task model, as the package holds the parts but not the whole."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import MultiTaskModel
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.peers.ranking import Part, Predictions, Rows, Settings, System, best_epochs, shuffled

PREDICTED_ROWS = 16_384


class Mixture(MultiTaskModel):
    """Experts that all objectives share, a gate and a tower for each; numbers have vectors too, as slots do."""

    def __init__(self, feature_map: Any, rows: Rows, settings: Settings, folder: str) -> None:
        tasks = len(rows.objectives)
        super().__init__(
            feature_map,
            model_id="mmoe",
            task=["binary_classification"] * tasks,
            num_tasks=tasks,
            embedding_regularizer=float(settings["embedding_l2"]),
            net_regularizer=float(settings["l2"]),
            model_root=folder,
            metrics=["AUC"],
            verbose=0,
        )
        embedding, width = settings["embedding"], settings["width"]
        hidden = [width, width // 2]
        inputs = feature_map.num_fields * embedding
        self.embedding = FeatureEmbedding(feature_map, embedding)
        self.experts = nn.ModuleList(
            MLP_Block(inputs, hidden, dropout_rates=settings["dropout"], batch_norm=settings["batch_norm"])
            for _ in range(settings["experts"])
        )
        self.gates = nn.ModuleList(nn.Linear(inputs, settings["experts"]) for _ in range(tasks))
        self.towers = nn.ModuleList(MLP_Block(hidden[-1], [32], output_dim=1) for _ in range(tasks))
        self.compile("adam", "binary_crossentropy", settings["lr"])
        self.reset_parameters()
        self.model_to_device()

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Map a batch to a probability an objective, named as the package names them."""
        x = self.embedding(self.get_inputs(batch), flatten_emb=True)
        experts = torch.stack([expert(x) for expert in self.experts], 1)  # (B, E, H)
        found = {}
        for label, gate, tower, activate in zip(
            self.feature_map.labels, self.gates, self.towers, self.output_activation, strict=True
        ):
            mixed = (torch.softmax(gate(x), 1).unsqueeze(2) * experts).sum(1)
            found[f"{label}_pred"] = activate(tower(mixed))
        return found


def feature_map(rows: Rows, folder: str) -> Any:
    """Return the package's registry of features."""
    found = FeatureMap("rows", folder)
    for name, ids, columns in rows.slots():
        spec: dict[str, Any] = {"source": "", "type": "categorical", "vocab_size": ids}
        if columns.stop - columns.start > 1:
            spec |= {"type": "sequence", "max_len": columns.stop - columns.start, "padding_idx": 0}
            spec["feature_encoder"] = "layers.MaskedAveragePooling()"
        found.features[name] = spec
    for d in range(rows.train.continuous.shape[1]):
        found.features[f"number_{d}"] = {"source": "", "type": "numeric"}
    found.labels = list(rows.objectives)
    found.num_fields = found.get_num_fields()
    found.set_column_index()
    return found


def inputs(rows: Rows, part: Part) -> dict[str, Tensor]:
    """Return a part's rows by feature."""
    ids, numbers = torch.from_numpy(part.categorical).long(), torch.from_numpy(part.continuous)
    slots = {name: ids[:, columns].squeeze(1) for name, _, columns in rows.slots()}
    return slots | {f"number_{d}": numbers[:, d] for d in range(numbers.shape[1])}


def fit(rows: Rows, settings: Settings, seed: int) -> Predictions:
    """Train the mixture by the package's own step."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    labels = {name: torch.from_numpy(rows.train.labels[:, k]) for k, name in enumerate(rows.objectives)}
    given = {id(part): inputs(rows, part) for part in (rows.train, rows.validation, rows.test)}
    with tempfile.TemporaryDirectory() as folder:
        model = Mixture(feature_map(rows, folder), rows, settings, folder)
    model._max_gradient_norm = 10.0  # as its `fit` sets it

    def predict(part: Part) -> NDArray[np.float32]:
        model.eval()
        found = []
        with torch.inference_mode():
            for start in range(0, len(part.labels), PREDICTED_ROWS):
                taken = slice(start, start + PREDICTED_ROWS)
                predicted = model({name: values[taken] for name, values in given[id(part)].items()})
                found.append(torch.cat([predicted[f"{name}_pred"] for name in rows.objectives], 1))
        return torch.cat(found).numpy()

    def train_epoch() -> None:
        model.train()
        x = given[id(rows.train)] | labels
        for taken in shuffled(len(rows.train.labels), settings["batch_rows"], rng):
            chosen = torch.from_numpy(taken)
            model.train_step({name: values[chosen] for name, values in x.items()})

    return best_epochs(model, train_epoch, predict, rows)


def space(trial: Any) -> dict[str, Any]:
    """Suggest settings."""
    return {
        "embedding": trial.suggest_categorical("embedding", [4, 8, 16, 32]),
        "width": trial.suggest_categorical("width", [32, 64, 128, 256]),
        "experts": trial.suggest_categorical("experts", [2, 4, 8]),
        "dropout": trial.suggest_float("dropout", 0.0, 0.6),
        "batch_norm": trial.suggest_categorical("batch_norm", [False, True]),
        "lr": trial.suggest_float("lr", 1e-3, 1e-2, log=True),
        "l2": trial.suggest_float("l2", 1e-8, 1e-3, log=True),
        "embedding_l2": trial.suggest_float("embedding_l2", 1e-8, 1e-3, log=True),
        "batch_rows": trial.suggest_categorical("batch_rows", [512, 1024, 2048]),
    }


START = {
    "embedding": 16,
    "width": 128,
    "experts": 4,
    "dropout": 0.2,
    "batch_norm": False,
    "lr": 1e-3,
    "l2": 1e-7,
    "embedding_l2": 1e-6,
    "batch_rows": 2048,
}
SYSTEMS = {"FuxiCTR MMoE": System(fit, START, space)}
