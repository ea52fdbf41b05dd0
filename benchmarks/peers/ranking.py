"""What rankers under comparison share: the rows that they read, how they are tuned, and what they write.

Each runs in a process of its own, with its own environment, so this file needs no more than numpy and Optuna:

    .venv-peers/bin/python -m benchmarks.peers.ranking lightgbm_rankers LightGBM FEATURES OUT --trials 20 --seeds 3

It reads features that `benchmarks/quality.py` wrote, never a label of a test row, and writes predictions.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Settings = Mapping[str, Any]
Predictions = tuple[NDArray[np.float32], NDArray[np.float32]]  # of validation and of test rows
FITS = "fits.jsonl"
LIMIT = 10.0


@dataclass(frozen=True)
class Part:
    """Ids (B, S), standardised numbers (B, D), and labels (B, K), NaN where unknown; test rows have none."""

    categorical: NDArray[np.int32]
    continuous: NDArray[np.float32]
    labels: NDArray[np.float32]


@dataclass(frozen=True)
class Rows:
    """What every system reads.

    Attributes:
        train: rows to learn from.
        validation: rows that stop a training and choose settings.
        test: rows to predict.
        names: of the slots, (C,).
        cardinalities: ids of each slot, (C,).
        widths: columns of each slot in `categorical`, (C,), summing to S.
        objectives: names of the K objectives, all binary.
        parents: index of the objective that each one is given, or -1, (K,).
        folder: where the arrays lie.
    """

    train: Part
    validation: Part
    test: Part
    names: tuple[str, ...]
    cardinalities: tuple[int, ...]
    widths: tuple[int, ...]
    objectives: tuple[str, ...]
    parents: tuple[int, ...]
    folder: Path

    def slots(self) -> Iterator[tuple[str, int, slice]]:
        """Yield each slot's name, cardinality and columns."""
        start = 0
        for name, cardinality, width in zip(self.names, self.cardinalities, self.widths, strict=True):
            yield name, cardinality, slice(start, start + width)
            start += width


@dataclass(frozen=True)
class System:
    """A ranker under comparison.

    Attributes:
        fit: (rows, settings, seed) → predictions (B, K) of validation and test rows.
        start: settings of the first trial, and the only ones where there is no space.
        space: (Optuna trial) → settings; None where nothing is tuned.
        alone: whether each objective has a model, and settings, of its own.
        refuses: why it cannot do these rows, or None.
    """

    fit: Callable[[Rows, Settings, int], Predictions]
    start: Settings
    space: Callable[[Any], dict[str, Any]] | None = None
    alone: bool = False
    refuses: Callable[[Rows], str | None] = lambda rows: None


def main() -> None:
    """Tune one system and write its predictions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", help="a file of benchmarks/peers, without its ending")
    parser.add_argument("system", help="one of its SYSTEMS")
    parser.add_argument("features", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--seeds", type=int, required=True)
    given = parser.parse_args()
    system: System = importlib.import_module(f"benchmarks.peers.{given.module}").SYSTEMS[given.system]
    rows = load_rows(given.features)
    refused = system.refuses(rows)
    if refused:
        raise SystemExit(refused)
    search = load_rows(given.features / "search") if (given.features / "search").exists() else rows
    run(system, rows, given.out, search=search, trials=given.trials, seeds=given.seeds)


def load_rows(folder: Path) -> Rows:
    """Read features; numbers get mean 0 and deviation 1 on training rows and stay within ±10.

    Where there are no test rows, as for a search, validation rows stand for them.
    """
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    slots = task["layout"]["categorical"]
    parts = {}
    for name in ("train", "validation", "test"):
        there = test_folder(folder) if name == "test" else folder / name
        arrays = {kind: np.load(there / f"{kind}.npy") for kind in ("categorical", "continuous")}
        rows = len(arrays["categorical"])
        none = np.full((rows, len(task["objectives"])), np.nan, dtype=np.float32)
        parts[name] = Part(**arrays, labels=none if name == "test" else np.load(there / "labels.npy"))
    means, deviations = standards(parts["train"].continuous)
    for name, part in parts.items():
        scaled = np.clip((part.continuous - means) / deviations, -LIMIT, LIMIT).astype(np.float32)
        parts[name] = replace(part, continuous=scaled)
    return Rows(
        **parts,
        names=tuple(slot["name"] for slot in slots),
        cardinalities=tuple(slot["cardinality"] for slot in slots),
        widths=tuple(slot["width"] for slot in slots),
        objectives=tuple(task["objectives"]),
        parents=tuple(task["parents"]),
        folder=folder,
    )


def test_folder(features: Path) -> Path:
    """Return where the rows to predict lie."""
    return features / "test" if (features / "test").exists() else features / "validation"


def standards(continuous: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the means and deviations of columns (B, D); 1 where a column is constant."""
    means, deviations = continuous.mean(0, dtype=np.float64), continuous.std(0, dtype=np.float64)
    return means, np.where(deviations > 1e-6 * np.maximum(np.abs(means), 1), deviations, 1.0)


def run(system: System, rows: Rows, out: Path, *, search: Rows, trials: int, seeds: int) -> None:
    """Tune a system, fit it with each seed, and write `predictions-<seed>.npy`, `validation-<seed>.npy`, `tuned.json`.

    A line of `fits.jsonl` tells of every fit that is done.

    Args:
        system: that runs.
        rows: that the last fits learn from and predict.
        out: folder of what is written.
        search: rows that choose settings.
        trials: settings that it may try.
        seeds: fits with the best of them.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / FITS).unlink(missing_ok=True)
    chosen = [tune(system, share, trials, out) for share in shares_of(system, search)]
    shares = shares_of(system, rows)
    seconds = []
    for seed in range(seeds):
        started = time.perf_counter()
        predicted = [system.fit(share, settings, seed) for share, settings in zip(shares, chosen, strict=True)]
        seconds.append(time.perf_counter() - started)
        validation, test = (np.concatenate(columns, 1) for columns in zip(*predicted, strict=True))
        np.save(out / f"validation-{seed}.npy", validation)
        np.save(out / f"predictions-{seed}.npy", test)
        loss = normalised_loss(rows.validation.labels[:, : validation.shape[1]], validation)
        tell(out, {"seed": seed, "loss": loss, "seconds": seconds[-1]})
    told = {"settings": [dict(settings) for settings in chosen], "seconds": seconds}
    (out / "tuned.json").write_text(json.dumps(told, indent=1), encoding="utf-8")


def shares_of(system: System, rows: Rows) -> list[Rows]:
    """Return the rows of each of a system's models."""
    return [one_objective(rows, k) for k in range(len(rows.objectives))] if system.alone else [rows]


def one_objective(rows: Rows, k: int) -> Rows:
    """Return the rows with one objective, which is given nothing."""
    parts = {
        name: replace(getattr(rows, name), labels=getattr(rows, name).labels[:, [k]])
        for name in ("train", "validation", "test")
    }
    return replace(rows, **parts, objectives=(rows.objectives[k],), parents=(-1,))


def tune(system: System, rows: Rows, trials: int, out: Path) -> Settings:
    """Return the settings whose predictions of validation rows have the lowest loss.

    The search is Optuna's TPE with a fixed seed; its first trial takes the settings that the system starts from.
    """
    if system.space is None or trials < 1:
        return system.start
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=max(trials // 3, 2)))
    study.enqueue_trial(dict(system.start))
    space = system.space

    def objective(trial: Any) -> float:
        started = time.perf_counter()
        settings = space(trial)
        loss = normalised_loss(rows.validation.labels, system.fit(rows, settings, 0)[0])
        trial.set_user_attr("settings", settings)
        tell(out, {"trial": trial.number, "loss": loss, "seconds": time.perf_counter() - started, "settings": settings})
        return loss

    study.optimize(objective, n_trials=trials)
    best: Settings = study.best_trial.user_attrs["settings"]
    return best


def tell(out: Path, fit: Mapping[str, Any]) -> None:
    """Append what a fit gave."""
    with (out / FITS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(fit) + "\n")


def normalised_loss(labels: NDArray[np.float32], predictions: NDArray[np.float32]) -> float:
    """Return the mean over objectives of the log loss against that of their base rate: below 1 is better.

    Args:
        labels: 0 or 1, NaN where unknown, (B, K).
        predictions: probabilities, (B, K), cut to [1e-7, 1 - 1e-7].

    Source: He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, ADKDD 2014, equation 1.
    """
    losses = []
    for y, p in zip(labels.T.astype(np.float64), predictions.T.astype(np.float64), strict=True):
        known = np.isfinite(y)
        base = np.full(known.sum(), y[known].mean())
        losses.append(_log_loss(y[known], p[known]) / _log_loss(y[known], base))
    return float(np.mean(losses))


def _log_loss(y: NDArray[np.float64], p: NDArray[np.float64]) -> float:
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log1p(-p)))


def best_epochs(
    model: Any,
    train_epoch: Callable[[], None],
    predict: Callable[[Part], NDArray[np.float32]],
    rows: Rows,
    *,
    columns: slice = slice(None),
    epochs: int = 12,
    patience: int = 2,
) -> Predictions:
    """Train a torch module until its validation gets no better, and predict each objective as its own best epoch does.

    One epoch for all would be what is served; but where a rare objective learns last, the others would overfit by then.

    Args:
        model: trained in place.
        train_epoch: takes one pass over the training rows.
        predict: a part's rows → probabilities (B, K).
        rows: what is learnt from and predicted.
        columns: objectives that `predict` gives.
        epochs: most passes.
        patience: passes without a better validation of any objective after which training stops.
    """
    labels = rows.validation.labels[:, columns]
    best, kept, waited = [np.inf] * labels.shape[1], [None] * labels.shape[1], 0
    for _ in range(epochs):
        train_epoch()
        predicted = predict(rows.validation)
        losses = [normalised_loss(labels[:, [k]], predicted[:, [k]]) for k in range(labels.shape[1])]
        better = [k for k, loss in enumerate(losses) if loss < best[k] or kept[k] is None]
        waited = 0 if better else waited + 1
        if waited == patience:
            break
        weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()} if better else None
        for k in better:
            best[k], kept[k] = losses[k], weights
    validation, test = [], []
    for k, weights in enumerate(kept):
        model.load_state_dict(weights)
        validation.append(predict(rows.validation)[:, k])
        test.append(predict(rows.test)[:, k])
    return np.stack(validation, 1), np.stack(test, 1)


def shuffled(rows: int, batch_rows: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield the indices of batches in random order; the last, shorter one stays out, which batch norm may not bear."""
    order = rng.permutation(rows)
    for start in range(0, rows - rows % batch_rows if rows >= batch_rows else rows, batch_rows):
        yield order[start : start + batch_rows]


if __name__ == "__main__":
    main()
