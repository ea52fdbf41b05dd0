"""Features by scikit-learn's own transformers on numpy rows, as they are commonly served."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OrdinalEncoder, StandardScaler

from benchmarks.peers.features import Columns, Packed, System, Tables, is_text
from feature_eng.inputs import UNSEEN_ID


def sklearn_system(tables: Tables) -> System:
    """Return the system; it takes one matrix a dtype: int64, object and float32."""
    names = {
        text: [name for name, (keys, _) in tables.vocabularies.items() if is_text(keys) is text]
        for text in (False, True)
    }
    encoders = {text: _encoder(tables, listed) for text, listed in names.items() if listed}
    # the encoder counts keys in their own order, and from the end where it knows none: there stands the unseen id
    ids = {name: np.append(listed, np.int32(UNSEEN_ID)) for name, (_, listed) in tables.vocabularies.items()}
    places = {name: place for place, name in enumerate(tables.vocabularies)}
    scaler = make_pipeline(FunctionTransformer(_logs, kw_args={"medians": tables.medians}), _scaler(tables))

    def form(columns: Columns) -> tuple[dict[bool, NDArray[Any]], NDArray[np.float32]]:
        keys = {text: np.stack([columns[name] for name in names[text]], axis=1) for text in encoders}
        return keys, np.stack([columns[name] for name in tables.continuous], axis=1)

    def run(matrices: tuple[dict[bool, NDArray[Any]], NDArray[np.float32]]) -> Packed:
        keys, numbers = matrices
        categorical = np.empty((len(numbers), len(places)), dtype=np.int32)
        for text, encoder in encoders.items():
            codes = encoder.transform(keys[text])
            for name, column in zip(names[text], codes.T, strict=True):
                categorical[:, places[name]] = ids[name][column]
        return categorical, scaler.transform(numbers)

    return System(form, run)


def _encoder(tables: Tables, names: list[str]) -> OrdinalEncoder:
    """Return an encoder of the vocabularies, fitted on their first keys."""
    keys = [tables.vocabularies[name][0] for name in names]
    encoder = OrdinalEncoder(categories=keys, handle_unknown="use_encoded_value", unknown_value=-1, dtype=np.int64)
    return encoder.fit(np.stack([listed[:1] for listed in keys], axis=1))


def _logs(values: NDArray[np.float32], medians: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.log1p(np.maximum(np.where(np.isfinite(values), values, medians), np.float32(0))))


def _scaler(tables: Tables) -> StandardScaler:
    """Return a scaler with the numbers that the workflow found."""
    scaler = StandardScaler().fit(np.zeros((1, len(tables.means)), dtype=np.float32))
    scaler.mean_, scaler.scale_ = tables.means, tables.deviations
    return scaler
