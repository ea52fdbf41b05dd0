"""How fast does MMoE train, beside a bare loop of the same model and beside other packages as they ship?

`limit` is the same ranker, optimizer and resident tensors with nothing else: no checkpoints, averages of weights,
masked values or figures. torch-rechub and DeepCTR-Torch have MMoE of the same shape and read the same features through
their own loaders; `make peers` installs them, and one that is not installed is named as left out. Systems take turns,
each in a process of its own, on 2 threads with batches of 4,096 rows; a figure is of the median epoch but the first.

    python benchmarks/training.py --quick --json training.json --plot training.png

KuaiRand and the census are read from ../shared/data or $STEELYARD_DATA.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.harness import bar_plot, benchmark_parser, report
from benchmarks.quality import PEER_PYTHON
from benchmarks.quality_data import DATA, pack

ROOT = Path(__file__).resolve().parent.parent
# each system, and the package that its environment needs
SYSTEMS = {"steelyard": None, "limit": None, "torch-rechub": "torch_rechub", "DeepCTR-Torch": "deepctr_torch"}
THREADS = 2


def main() -> None:
    """Run the benchmark from the command line."""
    parser = benchmark_parser(__doc__, quick="one turn of each system on the census alone")
    parser.add_argument("--data", action="append", choices=list(DATA), help="what to learn; repeatable")
    parser.add_argument("--rows", type=int, default=100_000, help="rows of a simulated shop")
    parser.add_argument("--rounds", type=int, help="turns of each system")
    parser.add_argument("--epochs", type=int, default=4, help="of a turn, after one that does not count")
    given = parser.parse_args()
    names = given.data or (["census"] if given.quick else ["census", "kuairand"])
    rounds = given.rounds or (1 if given.quick else 3)
    results: list[dict[str, Any]] = []
    left_out = {name: reason for name in SYSTEMS if (reason := absent(name))}
    for name in names:
        with tempfile.TemporaryDirectory(prefix="steelyard-training-") as folder:
            features = pack(DATA[name], Path(folder), given.rows)
            present = [system for system in SYSTEMS if system not in left_out]
            results += [{"data": name, **each} for each in measure(features, present, rounds, given.epochs)]
    report(results, given.json, left_out=left_out)
    for system, reason in left_out.items():
        print(f"left out: {system}: {reason}", file=sys.stderr)
    if given.plot:
        bars = {f"{each['data']}: {each['system']}": each["rows_per_s"] for each in results}
        bar_plot(given.plot, bars, title=f"Training MMoE, {THREADS} threads", y="rows/s")


def measure(features: Path, systems: Sequence[str], rounds: int, epochs: int) -> list[dict[str, Any]]:
    """Return each system's rows per second, and what share that is of the bare loop's.

    Args:
        features: folder that `quality_data.pack` wrote.
        systems: names out of `SYSTEMS`.
        rounds: turns of each system.
        epochs: of a turn, after one that does not count.
    """
    rows = len(np.load(features / "train" / "labels.npy", mmap_mode="r"))
    taken: dict[str, list[float]] = {system: [] for system in systems}
    for _ in range(rounds):
        for system in systems:
            taken[system] += epoch_seconds(system, features, epochs + 1)[1:]
    return rates(rows, taken)


def rates(rows: int, taken: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Return each system's rows per second in its median epoch, and that over the bare loop's."""
    found = {system: rows / median(seconds) for system, seconds in taken.items()}
    bare = found.get("limit")
    return [
        {"system": system, "rows_per_s": rate, "of_limit": None if bare is None else rate / bare}
        for system, rate in found.items()
    ]


def epoch_seconds(system: str, features: Path, epochs: int) -> list[float]:
    """Return the seconds of each epoch of a system, trained in a process of its own.

    Raises:
        RuntimeError: the process failed.
    """
    python = sys.executable if SYSTEMS[system] is None else str(PEER_PYTHON)
    command = [python, "-m", "benchmarks.peers.training_epochs", system, str(features)]
    command += ["--epochs", str(epochs), "--threads", str(THREADS)]
    threads = os.environ | {"OMP_NUM_THREADS": str(THREADS)}
    done = subprocess.run(command, cwd=ROOT, env=threads, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{system} must train; got {done.stderr[-2000:]}")
    seconds: list[float] = json.loads(done.stdout.strip().splitlines()[-1])
    return seconds


def absent(system: str) -> str | None:
    """Return why a system cannot run here, or None."""
    package = SYSTEMS[system]
    if package is None:
        return None
    if not PEER_PYTHON.exists():
        return "`make peers` makes its environment"
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    found = subprocess.run([PEER_PYTHON, "-c", code], capture_output=True, check=False)
    return None if found.returncode == 0 else f"{package} is not installed in .venv-peers; `make peers` installs it"


if __name__ == "__main__":
    main()
