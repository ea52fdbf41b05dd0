"""What a ranker's predictions hang on: columns shuffled, and gradients along the way from one row to another.

B rows, C slots, D continuous features, K objectives.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from models.bootstrap import Float64Array
from models.histories.encoding import places
from models.metrics import checked
from models.ranker import Ranker

Array = NDArray[Any]

# Rows that one gradient is taken of at once.
_GRADIENT_ROWS = 16_384


def normalised_gini(labels: Array, scores: Array) -> float:
    """Return how well scores order labels: 1 as well as the labels themselves, 0 no better than chance.

    cov(y, rank(score)) / cov(y, rank(y)), ties by mean ranks; of labels 0 and 1 it is 2 AUC − 1.

    Args:
        labels: values or 0 and 1, (B,).
        scores: (B,).

    Returns:
        At most 1; NaN where all labels are equal.

    Raises:
        ValueError: lengths differ or are 0, or a label or score is not finite.

    Source: Frees, Meyers and Cummings, Summarizing Insurance Scores Using a Gini Index, JASA 2011; over that of the
        perfect order as in section 4 of Wang et al., A Deep Probabilistic Model for Customer Lifetime Value
        Prediction, 2019.
    """
    labels, scores = checked(labels, scores)
    centred = labels - labels.mean()
    possible = centred @ rankdata(labels)
    return float(centred @ rankdata(scores) / possible) if possible > 0 else float("nan")


def skills(labels: Array, predictions: Array) -> Float64Array:
    """Return the normalised Gini of each objective, (K,), over the rows where its label is known; NaN without any.

    Args:
        labels: what happened, (B, K); NaN where unknown.
        predictions: expected values, (B, K).
    """
    found = np.full(labels.shape[1], np.nan)
    for objective in range(labels.shape[1]):
        known = np.isfinite(labels[:, objective])
        if known.any():
            found[objective] = normalised_gini(labels[known, objective], predictions[known, objective])
    return found


def permutation_importance(
    predict: Callable[[str | None, Array], Array],
    names: Sequence[str],
    labels: Array,
    *,
    repeats: int = 3,
    seed: int = 0,
) -> dict[str, Float64Array]:
    """Return how much skill predictions lose where a column's values belong to other rows.

    Args:
        predict: takes a column's name, or None, and an order of rows (B,); returns predictions (B, K) of rows whose
            values of that column stand in that order.
        names: of the columns.
        labels: what happened, (B, K); NaN where unknown.
        repeats: orders drawn for each column.
        seed: of the orders.

    Returns:
        For each name the fall of the normalised Gini, (repeats, K).

    Source: Breiman, Random Forests, Machine Learning 2001, section 10; Fisher, Rudin and Dominici, All Models are
        Wrong, but Many are Useful, JMLR 2019, section 3.
    """
    rng = np.random.default_rng(seed)
    rows = len(labels)
    whole = skills(labels, predict(None, np.arange(rows)))
    orders = [rng.permutation(rows) for _ in range(repeats)]
    return {name: np.stack([whole - skills(labels, predict(name, order)) for order in orders]) for name in names}


def integrated_gradients(
    ranker: Ranker,
    rows: tuple[Tensor, Tensor],
    baselines: tuple[Tensor, Tensor],
    *,
    objective: int,
    steps: int = 32,
) -> tuple[Float64Array, Float64Array]:
    """Return how much each feature moves a prediction, on the way from a baseline row to a row.

    What moves is the log-odds of a binary objective, the logarithm of a value. A row's attributions sum up to its
    prediction less the baseline's (completeness), but for the error of the integral.

    Args:
        ranker: in evaluation mode, on a CPU.
        rows: `categorical` (B, S) and `continuous` (B, D).
        baselines: of the same shapes, one for each row.
        objective: index of the prediction.
        steps: points of the integral.

    Returns:
        Attributions (B, C + D), a slot's vector added up; and what their sum misses of completeness, (B,).

    Raises:
        RuntimeError: captum is not installed.

    Source: Sundararajan, Taly and Yan, Axiomatic Attribution for Deep Networks, ICML 2017, equation 1; baselines that
        are other rows as Erion et al., Improving performance of deep learning models with axiomatic attribution priors
        and expected gradients, Nature Machine Intelligence 2021.
    """
    try:
        from captum.attr import LayerIntegratedGradients
    except ImportError:
        raise RuntimeError(
            "integrated_gradients must have captum installed; got none, `pip install steelyard[report]` adds it"
        ) from None

    def moved(categorical: Tensor, continuous: Tensor) -> Tensor:
        predictions = ranker(categorical, continuous)[:, objective].double()
        if ranker.options["objective_kinds"][objective] == "binary":
            return torch.logit(predictions, eps=1e-9)
        logarithms: Tensor = predictions.clamp(min=1e-12).log()
        return logarithms

    columns = vector_slots(ranker)
    layers = [ranker.embedding, ranker.standardize] if len(columns) else [ranker.standardize]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Multiple layers provided.*")
        gradients = LayerIntegratedGradients(moved, layers)
    found = gradients.attribute(rows, baselines, n_steps=steps, internal_batch_size=_GRADIENT_ROWS)
    parts = [part.detach().double().numpy() for part in (found if isinstance(found, list) else [found])]
    slots = len(ranker.options["widths"])
    attributions = np.zeros((len(rows[0]), slots + parts[-1].shape[1]))
    for slot in range(slots):
        attributions[:, slot] = parts[0][:, columns == slot].sum(axis=1)
    attributions[:, slots:] = parts[-1]
    with torch.no_grad():
        _add_filled(ranker, moved, rows, baselines, attributions)
        whole = (moved(*rows) - moved(*baselines)).numpy()
    return attributions, whole - attributions.sum(axis=1)


def _add_filled(
    ranker: Ranker,
    moved: Callable[[Tensor, Tensor], Tensor],
    rows: tuple[Tensor, Tensor],
    baselines: tuple[Tensor, Tensor],
    attributions: Float64Array,
) -> None:
    """Add to encoded histories what it moves that other places of theirs are filled: no gradient sees that step."""
    if ranker.histories is None:
        return
    vectors, ids = ranker.embedding(baselines[0]), baselines[0].clone()
    fixed = ranker.embedding.register_forward_hook(lambda module, inputs, output: vectors)
    try:
        before = moved(ids, baselines[1])
        begins = np.cumsum([0, *ranker.options["widths"]])
        for slot, target in enumerate(ranker.options["history_targets"]):
            if target >= 0:
                own = slice(begins[slot], begins[slot + 1])
                ids[:, own] = rows[0][:, own]
                after = moved(ids, baselines[1])
                attributions[:, slot] += (after - before).numpy()
                before = after
    finally:
        fixed.remove()


def vector_slots(ranker: Ranker) -> NDArray[np.int64]:
    """Return the slot that each column of the embedding's output belongs to."""
    options = ranker.options
    widths = options["widths"]
    own = options["slot_embeddings"] or [None] * len(widths)
    embeddings = [width or options["embedding"] for width in own]
    read = options["histories"] != "mean" and options["history_targets"]
    slot_of = places(widths, options["history_targets"] if read else [-1] * len(widths))
    columns = np.full(sum(embeddings[slot] for slot in slot_of), -1)
    for place, slot in enumerate(slot_of):
        begin = ranker.embedding.begins[place]
        columns[begin : begin + embeddings[slot]] = slot
    return columns
