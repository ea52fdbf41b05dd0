"""How long each system takes for an epoch of MMoE, in a process of its own, with its own environment.

    .venv-peers/bin/python -m benchmarks.peers.training_epochs torch-rechub FEATURES --epochs 3

prints a JSON list of seconds. All have slots of 16 numbers, four experts of 128 and 64 units, a tower of 32 for each
objective, dropout of 0.1 and Adam; rows come in random order, in batches of 4,096.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.ranking import load_rows

BATCH_ROWS = 4096
EMBEDDING, EXPERTS, WIDTHS, TOWER, DROPOUT, LR = 16, 4, (128, 64), 32, 0.1, 1e-3
# the same shape as Ranker's settings; peers have no crosses
RANKER = {
    "embedding": EMBEDDING,
    "sharing": "mmoe",
    "experts": EXPERTS,
    "expert_widths": WIDTHS,
    "tower_widths": (TOWER,),
    "crosses": 0,
    "dropout": DROPOUT,
}
SHAPE = {"embedding": EMBEDDING, "experts": EXPERTS, "width": WIDTHS[0], "dropout": DROPOUT, "lr": LR}
SHAPE |= {"weight_decay": 0.0, "embedding_l2": 0.0, "l2": 0.0, "batch_rows": BATCH_ROWS}


def main() -> None:
    """Print the seconds of each epoch of one system."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=list(SYSTEMS))
    parser.add_argument("features", type=Path)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="show where the time goes instead")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with redirect_stdout(sys.stderr):
        if given.profile:
            profiled(lambda: SYSTEMS[given.system](given.features, given.epochs))
            return
        seconds = SYSTEMS[given.system](given.features, given.epochs)
    print(json.dumps(seconds))


def profiled(run: Callable[[], object]) -> None:
    """Print what took longest."""
    import cProfile
    import pstats

    profile = cProfile.Profile()
    profile.runcall(run)
    pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(40)


def steelyard(features: Path, epochs: int) -> list[float]:
    """Train as `steelyard fit` does, without a validation; an epoch ends where the next begins."""
    from pytorch_lightning import Callback

    from feature_eng.layout import Layout
    from models.training import train

    task = json.loads((features / "task.json").read_text(encoding="utf-8"))
    starts: list[float] = []

    class Clock(Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            starts.append(time.perf_counter())

    with tempfile.TemporaryDirectory(prefix="steelyard-training-") as folder:
        train(
            features / "train",
            None,
            layout=Layout.from_json(task["layout"]),
            objective_kinds=["binary"] * len(task["objectives"]),
            parents=task["parents"],
            out=Path(folder),
            ranker=RANKER,
            batch_rows=BATCH_ROWS,
            epochs=epochs + 1,  # the last one has no next
            lr=LR,
            loggers=(),
            progress=False,
            callbacks=[Clock()],
        )
    return [after - before for before, after in pairwise(starts)]


def limit(features: Path, epochs: int) -> list[float]:
    """Train the same ranker with the same optimizer on the same resident tensors, and do nothing else."""
    from torch.optim import AdamW

    from feature_eng.layout import Layout
    from models.feature_shards import Features, ResidentBatches, summarise
    from models.objective_losses import ObjectiveLoss
    from models.training import build_ranker, fastest_precision

    task = json.loads((features / "task.json").read_text(encoding="utf-8"))
    kinds, parents = ["binary"] * len(task["objectives"]), task["parents"]
    source = Features.open(features / "train")
    ranker = build_ranker(
        Layout.from_json(task["layout"]), kinds, parents, summarise(source, kinds, parents), RANKER
    ).train()
    loss = ObjectiveLoss(kinds, parents)
    optimizer = AdamW(ranker.parameters(), lr=LR, fused=True)
    rows = source.read(0, source.rows)
    mixed = torch.autocast("cpu", torch.bfloat16, enabled=fastest_precision() == "bf16-mixed")

    def epoch(seed: int) -> None:
        for categorical, continuous, labels in ResidentBatches(rows, BATCH_ROWS, seed):
            optimizer.zero_grad()
            with mixed:
                sums, _ = loss(ranker.logits(categorical, continuous), labels)
            (sums.sum() / len(labels)).backward()
            optimizer.step()

    return timed(epoch, epochs)


def rechub(features: Path, epochs: int) -> list[float]:
    """Train torch-rechub's MMoE with its own loader and trainer."""
    from torch_rechub.models.multi_task import MMOE
    from torch_rechub.trainers import MTLTrainer
    from torch_rechub.utils.data import DataGenerator

    from benchmarks.peers import rechub_rankers

    rows = load_rows(features)
    kinds = ["classification"] * len(rows.objectives)
    experts = rechub_rankers.layers(SHAPE)
    model = MMOE(rechub_rankers.features(rows, EMBEDDING), kinds, EXPERTS, experts, rechub_rankers.towers(rows, SHAPE))
    trainer = MTLTrainer(model, kinds, optimizer_params={"lr": LR, "weight_decay": 0.0})
    x = {name: values.numpy() for name, values in rechub_rankers.inputs(rows, rows.train).items()}
    loader = DataGenerator(x, rows.train.labels).generate_dataloader(
        x_val=x, y_val=rows.train.labels, x_test=x, y_test=rows.train.labels, batch_size=BATCH_ROWS
    )[0]
    return timed(lambda seed: trainer.train_one_epoch(loader), epochs)


def deepctr(features: Path, epochs: int) -> list[float]:
    """Train DeepCTR-Torch's MMoE with its own `fit`."""
    from deepctr_torch.models import MMOE

    from benchmarks.peers import deepctr_rankers

    rows = load_rows(features)
    model = MMOE(
        deepctr_rankers.features(rows, EMBEDDING), num_experts=EXPERTS, **deepctr_rankers.shape(rows, SHAPE, 0)
    )
    losses = ["binary_crossentropy"] * len(rows.objectives)
    model.compile(torch.optim.Adam(model.parameters(), lr=LR), loss=losses)
    x = deepctr_rankers.inputs(rows, rows.train)
    return timed(lambda seed: model.fit(x, rows.train.labels, batch_size=BATCH_ROWS, epochs=1, verbose=0), epochs)


def timed(epoch: Callable[[int], Any], epochs: int) -> list[float]:
    """Return the seconds of each epoch."""

    def each() -> Iterator[float]:
        for number in range(epochs):
            begin = time.perf_counter()
            epoch(number)
            yield time.perf_counter() - begin

    return list(each())


SYSTEMS: dict[str, Callable[[Path, int], list[float]]] = {
    "steelyard": steelyard,
    "limit": limit,
    "torch-rechub": rechub,
    "DeepCTR-Torch": deepctr,
}

if __name__ == "__main__":
    main()
