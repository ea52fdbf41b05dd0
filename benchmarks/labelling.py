"""Do labels of the rows that `steelyard label` suggests teach more than labels of random rows?

A ranker learns the census's two objectives from a few labelled rows. Out of 20,000 more it gets as many labels again:
of random rows, or of those whose labels have the highest entropy. The rankers fitted on both are judged on the test
rows. Columns that come from labels, such as target encodings, stay out. Seeds draw other rows; intervals are of the
mean gain.

    python benchmarks/labelling.py --quick --json labelling.json

The census is read from ../shared/data or $STEELYARD_DATA.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness import bar_plot, benchmark_parser, report
from benchmarks.quality_data import DATA, pack
from feature_eng.layout import Layout
from models.labelling import label_entropy, most_telling
from models.metrics import auc, log_loss
from models.training import train

POOL_ROWS = 20_000
RAW_NUMBERS = 6  # the census schema names them before those that come from labels
Rows = dict[str, NDArray[Any]]


def main() -> None:
    """Run the benchmark from the command line."""
    parser = benchmark_parser(__doc__, quick="2 seeds instead of 8")
    parser.add_argument("--labels", type=int, default=500, help="labelled rows to begin with, and to ask for")
    parser.add_argument("--seeds", type=int, help="draws of the rows")
    given = parser.parse_args()
    seeds = given.seeds or (2 if given.quick else 8)
    with tempfile.TemporaryDirectory(prefix="steelyard-labelling-") as folder:
        results = measure(Path(folder), given.labels, seeds)
    report(results, given.json)
    if given.plot:
        bars = {f"{each['objective']}: {each['system']}": each["auc"] for each in results}
        bar_plot(given.plot, bars, title=f"After {given.labels} more labels", y="AUC")


def measure(folder: Path, labels: int, seeds: int) -> list[dict[str, Any]]:
    """Return the AUC and log loss of each choice of rows, and what suggestions gain on chance, with 95 % intervals."""
    features = pack(DATA["census"], folder, 0)
    task = json.loads((features / "task.json").read_text(encoding="utf-8"))
    task["layout"]["continuous"] = task["layout"]["continuous"][:RAW_NUMBERS]
    layout = Layout.from_json(task["layout"])
    names = task["objectives"]
    rows, test = load(features / "train"), load(features / "test")
    test["labels"] = np.load(folder / "answers" / "labels.npy")
    figures = [one_draw(rows, test, layout, labels, seed, folder / "work") for seed in range(seeds)]
    return [
        {"objective": name, "system": system, **summary([each[system][:, k] for each in figures], first)}
        for k, name in enumerate(names)
        for first in [[each["random"][:, k] for each in figures]]
        for system in ("random", "entropy")
    ]


def load(folder: Path) -> Rows:
    """Read a part's arrays, of numbers those that do not come from labels."""
    arrays = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    return arrays | {"continuous": np.ascontiguousarray(arrays["continuous"][:, :RAW_NUMBERS])}


def one_draw(
    rows: Rows, test: Rows, layout: Layout, labels: int, seed: int, work: Path
) -> dict[str, NDArray[np.float64]]:
    """Return AUC and log loss (2, K) of rankers with random labels and with suggested ones."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(rows["labels"]))
    known, pool = order[:labels], order[labels : labels + POOL_ROWS]
    kinds, parents = ["binary"] * rows["labels"].shape[1], [-1] * rows["labels"].shape[1]

    def fit(chosen: NDArray[np.int64]) -> Any:
        (work / "train").mkdir(parents=True, exist_ok=True)
        for name, array in rows.items():
            np.save(work / "train" / f"{name}.npy", array[chosen])
        return train(
            work / "train",
            None,
            layout=layout,
            objective_kinds=kinds,
            parents=parents,
            out=work / "out",
            batch_rows=64,
            epochs=12,
            seed=seed,
            loggers=(),
            progress=False,
        ).ranker

    entropies = label_entropy(predict(fit(known), rows, pool), kinds, parents)
    asked = {"random": pool[:labels], "entropy": pool[most_telling(entropies, labels)]}
    return {system: judge(fit(np.concatenate([known, more])), test) for system, more in asked.items()}


def predict(ranker: Any, rows: Rows, chosen: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.float32]:
    """Return predictions (B, K) of the chosen rows."""
    with torch.inference_mode():
        arrays = (torch.from_numpy(rows[name][chosen]) for name in ("categorical", "continuous"))
        predictions: NDArray[np.float32] = ranker(*arrays).numpy()
    return predictions


def judge(ranker: Any, test: Rows) -> NDArray[np.float64]:
    """Return AUC and log loss of each objective, (2, K)."""
    predictions, labels = predict(ranker, test), test["labels"]
    pairs = list(zip(labels.T, predictions.T, strict=True))
    return np.array([[metric(y, p) for y, p in pairs] for metric in (auc, log_loss)])


def summary(figures: list[NDArray[np.float64]], first: list[NDArray[np.float64]]) -> Mapping[str, float | None]:
    """Return mean AUC and log loss over seeds, and the mean gain of AUC on the first system's, by pairs."""
    gains = np.array([own[0] - other[0] for own, other in zip(figures, first, strict=True)])
    spread = 1.96 * gains.std(ddof=1) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
    same = figures is first or not gains.any()
    return {
        "auc": float(np.mean([own[0] for own in figures])),
        "logloss": float(np.mean([own[1] for own in figures])),
        "auc_gain": None if same else float(gains.mean()),
        "gain_low": None if same else float(gains.mean() - spread),
        "gain_high": None if same else float(gains.mean() + spread),
    }


if __name__ == "__main__":
    main()
