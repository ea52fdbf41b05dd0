"""How well does each ranker predict, on the same rows and columns, tuned as long?

Steelyard by its defaults and tuned, LightGBM, torch-rechub, DeepCTR-Torch, FuxiCTR and merlin-models read the features
that Steelyard's workflow makes: ids, out-of-fold target encodings, counts. Each has as many trials of Optuna's TPE,
chosen by the loss of validation rows alone; labels of test rows are not in the folder that it reads. Figures are means
over seeds. `make peers` installs the others; one that is not installed is named as left out.

    python benchmarks/quality.py --data census --quick --json census.json --plot census.png

KuaiRand and the census are read from ../shared/data or $STEELYARD_DATA; the simulated shop needs no data, and its truth
stands beside the rankers as `bayes`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.harness import benchmark_parser, hardware
from benchmarks.quality_data import DATA, pack
from feature_eng.digests import file_sha256
from models import metrics

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "benchmarks" / "peers"
PEER_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
METRICS = ("auc", "gauc", "logloss", "ece")
# each system's file in benchmarks/peers, and the package that it needs
SYSTEMS = {
    "steelyard": ("steelyard_rankers", None),
    "steelyard (tuned)": ("steelyard_rankers", None),
    "LightGBM": ("lightgbm_rankers", "lightgbm"),
    "torch-rechub MMoE": ("rechub_rankers", "torch_rechub"),
    "torch-rechub PLE": ("rechub_rankers", "torch_rechub"),
    "torch-rechub ESMM": ("rechub_rankers", "torch_rechub"),
    "torch-rechub AITM": ("rechub_rankers", "torch_rechub"),
    "DeepCTR-Torch MMoE": ("deepctr_rankers", "deepctr_torch"),
    "DeepCTR-Torch PLE": ("deepctr_rankers", "deepctr_torch"),
    "FuxiCTR MMoE": ("fuxictr_rankers", "fuxictr"),
    "merlin-models MMoE": ("merlin_rankers", "merlin"),
    "merlin-models PLE": ("merlin_rankers", "merlin"),
}
BAYES = "bayes"
TABLE_WIDTH = 132
REFUSED = "refused.txt"


def main() -> None:
    """Run the benchmark from the command line."""
    parser = benchmark_parser(__doc__, quick="2 trials and 1 seed, and 30,000 rows of the simulated shop")
    parser.add_argument("--data", choices=list(DATA), default="simulated", help="what to learn")
    parser.add_argument("--rows", type=int, help="rows of the simulated shop to train on")
    parser.add_argument("--trials", type=int, help="settings that each system may try")
    parser.add_argument("--seeds", type=int, help="fits of each system with its best settings")
    parser.add_argument("--systems", help="those whose names start with one of these, separated by commas")
    parser.add_argument("--out", type=Path, help="folder for features and results, out/quality by default")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs a system ends with this process
    trials = (2 if given.quick else 20) if given.trials is None else given.trials
    seeds = given.seeds or (1 if given.quick else 3)
    rows = given.rows or (30_000 if given.quick else 300_000)
    folder = (given.out or ROOT / "out" / "quality") / given.data
    features = pack(DATA[given.data], folder, rows)
    results, left_out = measure(chosen_systems(given.systems), features, folder, trials=trials, seeds=seeds)
    show(results, left_out)
    if given.json:
        save(given.json, {"hardware": hardware(), "data": given.data, "trials": trials, "left_out": left_out}, results)
    if given.plot and results:
        plot(given.plot, results, given.data)


def chosen_systems(wanted: str | None) -> list[str]:
    """Return the systems whose names start with one of the wanted words, whatever their case.

    Raises:
        ValueError: a word starts none.
    """
    words = [word.strip().lower() for word in (wanted or "").split(",") if word.strip()]
    for word in words:
        if not any(name.lower().startswith(word) for name in SYSTEMS):
            raise ValueError(f"systems must start one of {', '.join(SYSTEMS)}; got {word}")
    return [name for name in SYSTEMS if not words or any(name.lower().startswith(word) for word in words)]


def measure(
    systems: Sequence[str], features: Path, folder: Path, *, trials: int, seeds: int
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return a result for each system and objective, and why systems were left out.

    Args:
        systems: names out of `SYSTEMS`.
        features: folder that `pack` wrote.
        folder: of the features' answers, and for what the systems write; a system's earlier results are taken where
            they come from the same features, code and numbers.
        trials: settings that each system may try.
        seeds: fits of each with its best settings.
    """
    answers = {path.stem: np.load(path) for path in sorted((folder / "answers").glob("*.npy"))}
    objectives = json.loads((features / "task.json").read_text(encoding="utf-8"))["objectives"]
    results, left_out = [], {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        whole = progress.add_task("systems", total=len(systems))
        for name in systems:
            out = folder / "systems" / name.replace(" ", "-")
            reason = absent(name)
            if reason is None:
                fits = f"{name}: fits"
                bar = progress.add_task(fits, total=None)
                reason = finished(
                    name, features, out, trials, seeds, lambda done, bar=bar: progress.update(bar, completed=done)
                )
                progress.remove_task(bar)
            if reason is None:
                results += judged(name, out, seeds, objectives, answers)
            else:
                left_out[name] = reason
            progress.advance(whole)
    if "truth" in answers:
        seconds = {"seconds": 0.0, "seeds": 1}
        results += [row | seconds for row in figures(BAYES, [answers["truth"]], objectives, answers)]
    return results, left_out


def absent(system: str) -> str | None:
    """Return why a system cannot run here, or None."""
    _, package = SYSTEMS[system]
    if package is None:
        found = subprocess.run([sys.executable, "-c", "import optuna"], capture_output=True, check=False)
        return None if found.returncode == 0 else "optuna is not installed"
    if not PEER_PYTHON.exists():
        return f"{PEER_PYTHON.parent.parent.name} is not there; `make peers` makes it"
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    found = subprocess.run([PEER_PYTHON, "-c", code], capture_output=True, check=False)
    return None if found.returncode == 0 else f"{package} is not installed in .venv-peers; `make peers` installs it"


def finished(
    system: str, features: Path, out: Path, trials: int, seeds: int, tell: Callable[[int], None]
) -> str | None:
    """Run a system, unless it ran on the same inputs before; return why it gave nothing, or None."""
    module, package = SYSTEMS[system]
    identity = inputs_hash(features, module, {"system": system, "trials": trials, "seeds": seeds})
    record = out / "inputs.txt"
    if record.exists() and record.read_text(encoding="utf-8") == identity:
        return (out / REFUSED).read_text(encoding="utf-8") if (out / REFUSED).exists() else None
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    python = sys.executable if package is None else str(PEER_PYTHON)
    command = [python, "-m", "benchmarks.peers.ranking", module, system, str(features), str(out)]
    command += ["--trials", str(trials), "--seeds", str(seeds)]
    log = out / "log.txt"
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)
        try:
            while process.poll() is None:
                tell(fits_done(out))
                time.sleep(0.5)
        finally:
            process.terminate()
    told = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    if process.returncode:
        reason = told[-1] if told else f"exit code {process.returncode}"
        if not fits_done(out) and process.returncode == 1 and "Traceback" not in "\n".join(told):
            (out / REFUSED).write_text(reason, encoding="utf-8")
            record.write_text(identity, encoding="utf-8")
            return reason
        return f"failed: {reason} (see {log})"
    record.write_text(identity, encoding="utf-8")
    return None


def fits_done(out: Path) -> int:
    """Return how many fits a system has told of."""
    told = out / "fits.jsonl"
    return len(told.read_text(encoding="utf-8").splitlines()) if told.exists() else 0


def inputs_hash(features: Path, module: str, numbers: Mapping[str, Any]) -> str:
    """Return a digest of all that a system's results come from: features, its code, numbers, versions."""
    code = [PEERS / "ranking.py", PEERS / f"{module}.py", ROOT / "constraints-peers.txt"]
    if module == "steelyard_rankers":
        code += sorted((ROOT / "models").rglob("*.py"))
    files = [*sorted(path for path in features.rglob("*") if path.is_file()), *code]
    told = {"numbers": dict(numbers), "files": [(path.name, file_sha256(path)) for path in files]}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def judged(
    system: str, out: Path, seeds: int, objectives: Sequence[str], answers: Mapping[str, NDArray[Any]]
) -> list[dict[str, Any]]:
    """Return a system's results from what it wrote."""
    predictions = [np.load(out / f"predictions-{seed}.npy") for seed in range(seeds)]
    seconds = json.loads((out / "tuned.json").read_text(encoding="utf-8"))["seconds"]
    more = {"seconds": float(np.median(seconds)), "seeds": seeds}
    return [row | more for row in figures(system, predictions, objectives, answers)]


def figures(
    system: str,
    predictions: Sequence[NDArray[np.float32]],
    objectives: Sequence[str],
    answers: Mapping[str, NDArray[Any]],
) -> list[dict[str, Any]]:
    """Return each objective's metrics, means over seeds with their deviations; None where there are no groups.

    Args:
        system: its name.
        predictions: of test rows, (B, K), for each seed; a system that has fewer columns predicts the first ones.
        objectives: names, (K,).
        answers: `labels` (B, K), and where they are known `groups` (B,).
    """
    results = []
    for k, objective in enumerate(objectives[: predictions[0].shape[1]]):
        labels = answers["labels"][:, k]
        known = np.isfinite(labels)
        y, groups = labels[known], answers.get("groups")
        found: dict[str, list[float]] = {name: [] for name in METRICS}
        for predicted in predictions:
            p = predicted[known, k]
            found["auc"].append(metrics.auc(y, p))
            found["logloss"].append(metrics.log_loss(y, p))
            found["ece"].append(metrics.calibration_error(y, p))
            if groups is not None:
                found["gauc"].append(metrics.gauc(y, p, groups[known]))
        row: dict[str, Any] = {"system": system, "objective": objective}
        for name in METRICS:
            row[name] = float(np.mean(found[name])) if found[name] else None
            row[f"{name}_deviation"] = float(np.std(found[name], ddof=1)) if len(found[name]) > 1 else None
        results.append(row)
    return results


def show(results: Sequence[Mapping[str, Any]], left_out: Mapping[str, str]) -> None:
    """Print results as a table, deviations beside the means, and what was left out."""
    console, table = Console(), Table()
    console = Console(width=max(console.width, TABLE_WIDTH))  # a wrapped number is hard to read
    for name in ("system", "objective", *METRICS, "seconds", "seeds"):
        table.add_column(name, justify="left" if name in ("system", "objective") else "right", no_wrap=True)
    for row in results:
        cells = [_with_deviation(row[name], row[f"{name}_deviation"]) for name in METRICS]
        table.add_row(row["system"], row["objective"], *cells, f"{row['seconds']:,.1f}", str(row["seeds"]))
    console.print(table)
    for system, reason in left_out.items():
        console.print(f"left out: {system}: {reason}", markup=False, highlight=False)


def _with_deviation(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.4f}" if deviation is None else f"{mean:.4f} ± {deviation:.4f}"


def save(path: Path, about: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    """Write results as JSON."""
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(json.dumps({**about, "results": list(results)}, indent=1), encoding="utf-8")
    beside.replace(path)


def plot(path: Path, results: Sequence[Mapping[str, Any]], data: str) -> None:
    """Write the systems' AUC, a panel an objective, as PNG or SVG, by the path's ending."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    objectives = list(dict.fromkeys(row["objective"] for row in results))
    figure, panels = pyplot.subplots(
        1, len(objectives), figsize=(4 * len(objectives) + 2, 4.5), layout="constrained", squeeze=False
    )
    for axes, objective in zip(panels[0], objectives, strict=True):
        own = sorted((row for row in results if row["objective"] == objective), key=lambda row: row["auc"])
        for place, row in enumerate(own):
            colour = "tab:orange" if row["system"].startswith("steelyard") else "tab:blue"
            axes.errorbar(row["auc"], place, xerr=row["auc_deviation"], fmt="o", color=colour, capsize=3)
        axes.set(title=objective, xlabel="AUC on test rows", yticks=range(len(own)))
        axes.set_yticklabels([row["system"] for row in own])
        axes.grid(alpha=0.3, axis="x")
    figure.suptitle(data)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
