"""LightGBM: boosted trees, a model an objective, which read ids, target encodings and counts."""

from __future__ import annotations

from typing import Any

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.ranking import Part, Predictions, Rows, Settings, System

MOST_TREES = 1_500


def matrix(part: Part) -> NDArray[np.float32]:
    """Return ids, by falling frequency, and numbers side by side, (B, S + D)."""
    return np.concatenate([part.categorical.astype(np.float32), part.continuous], 1)


def fit(rows: Rows, settings: Settings, seed: int) -> Predictions:
    """Boost until validation gets no better; ids of at most `most_categories` are split as sets, others by order."""
    named = [c for _, ids, columns in rows.slots() for c in range(columns.start, columns.stop) if _single(columns)
             and ids <= settings["most_categories"]]  # fmt: skip
    train, validation = (
        lgb.Dataset(matrix(part), part.labels[:, 0], categorical_feature=named, free_raw_data=False)
        for part in (rows.train, rows.validation)
    )
    parameters = {
        "objective": "binary",
        "metric": "binary_logloss",
        "seed": seed,
        "bagging_freq": 1,
        "verbose": -1,
        **{name: value for name, value in settings.items() if name != "most_categories"},
    }
    validation.reference = train
    model = lgb.train(
        parameters,
        train,
        MOST_TREES,
        valid_sets=[validation],
        callbacks=[lgb.early_stopping(30, verbose=False)],
    )
    predicted = [np.asarray(model.predict(matrix(part)), np.float32)[:, None] for part in (rows.validation, rows.test)]
    return predicted[0], predicted[1]


def _single(columns: slice) -> bool:
    return columns.stop - columns.start == 1


def space(trial: Any) -> dict[str, Any]:
    """Suggest settings."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.15, log=True),
        "num_leaves": trial.suggest_int("num_leaves", 7, 127, log=True),
        "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", 10, 400, log=True),
        "feature_fraction": trial.suggest_float("feature_fraction", 0.3, 1.0),
        "bagging_fraction": trial.suggest_float("bagging_fraction", 0.5, 1.0),
        "lambda_l2": trial.suggest_float("lambda_l2", 1e-3, 30.0, log=True),
        "most_categories": trial.suggest_categorical("most_categories", [0, 100, 1000]),
    }


START = {
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_data_in_leaf": 50,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "lambda_l2": 1.0,
    "most_categories": 100,
}
SYSTEMS = {"LightGBM": System(fit, START, space, alone=True)}
