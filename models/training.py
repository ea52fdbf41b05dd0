"""Trains a ranker on a folder of features, with checkpoints that a killed run resumes from."""

from __future__ import annotations

import logging
import shutil
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from feature_eng.layout import Layout
from models.averaging import PolynomialAveraging
from models.balancing import Balance
from models.feature_shards import BatchSource, Features, Summary, summarise
from models.learner import Learner, hush_lightning
from models.objective_losses import ObjectiveLoss, unsampled_rates
from models.objectives import chain_parents
from models.ranker import Ranker

# Above this many rows of the embedding table, a full gradient costs more than SparseAdam's bookkeeping.
DENSE_TABLE_ROWS = 500_000

# Steps of an epoch whose weights count for the average.
AVERAGED_AN_EPOCH = 200


@dataclass(frozen=True)
class Training:
    """What a training gives: the ranker of its best epoch, and the figures of every epoch.

    Attributes:
        ranker: on the CPU, ready to predict.
        history: for each epoch `epoch`, `loss` (nats per row), with a validation `val_score` and `val_<k>`, the
            normalised losses that `Learner` explains, and of several objectives `gradient_cosines`, the cosines between
            their losses' gradients by the shared parameters, as `{"click|purchase": 0.3}`.
        best_epoch: index into the history.
    """

    ranker: Ranker
    history: tuple[dict[str, Any], ...]
    best_epoch: int


def train(
    features: Path,
    validation: Path | None,
    *,
    layout: Layout,
    objective_kinds: Sequence[str],
    parents: Sequence[int],
    out: Path,
    names: Sequence[str] | None = None,
    listed: Collection[str] | None = None,
    objectives: Mapping[str, Any] | None = None,
    ranker: Mapping[str, Any] | None = None,
    batch_rows: int = 2048,
    epochs: int = 4,
    patience: int = 2,
    lr: float = 3e-3,
    warmup: float = 0.05,
    averaging: float | None = 9.0,
    weight_decay: float = 1e-4,
    embedding_decay: float = 1e-2,
    loss_weights: Sequence[float] | None = None,
    balancing: str = "fixed",
    unseen_rate: float = 0.02,
    mask_rate: float = 0.0,
    slot_dropout: float = 0.0,
    embedding_l2: float = 0.0,
    adversarial: float = 0.0,
    pseudo_labels: float | None = None,
    devices: int = 1,
    resident_gib: float = 1.0,
    precision: Any = "auto",
    seed: int = 0,
    resume: bool = False,
    loggers: Sequence[str] = ("tensorboard",),
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Training:
    """Train a ranker until its validation gets no better, and return the best epoch's.

    Args:
        features: folder with `categorical.npy`, `continuous.npy` and `labels.npy` (see `Features`).
        validation: the same for validation rows; without it all epochs run and the last one counts.
        layout: what the features' columns are.
        objective_kinds: `binary` or `value` for each label, (K,).
        parents: index of the objective that each one is given, or -1, (K,).
        out: folder for checkpoints and logs.
        names: of the objectives, (K,); their indices where absent.
        listed: slots whose ids from 4 up are a vocabulary's, which has an unseen id; all of them where absent.
        objectives: flat arguments of `ObjectiveLoss` that differ from its defaults, such as `{"focusings": [2, 0]}`.
        ranker: flat arguments of `Ranker` that differ from its defaults, such as `{"experts": 8}`.
        batch_rows: rows of a training batch.
        epochs: most passes over the training rows.
        patience: epochs without a better validation after which training stops.
        lr: highest learning rate.
        warmup: share of all steps over which the learning rate rises, in [0, 1); it stays from then on.
        averaging: how far the average of the weights, which is what predicts, leans towards the latest steps, as
            `PolynomialAveraging` explains; None keeps the weights of the last step.
        weight_decay: AdamW's, of all weights but biases and embeddings.
        embedding_decay: AdamW's, of embeddings.
        loss_weights: weight of each objective's loss, (K,); all 1 where absent.
        balancing: what weighs the losses besides, out of `models.balancing.BALANCINGS`.
        unseen_rate: share of values that training shows as unseen, in [0, 1), in listed columns that never hold the
            unseen id, so that it learns.
        mask_rate: share of values that training shows as unseen in every listed column, in [0, 1).
        slot_dropout: share of a row's slots whose vectors are dropped whole, in [0, 1).
        embedding_l2: weight of half the squared length of a row's vectors, at least 0.
        adversarial: length of the change of a row's vectors that training must bear, against theirs, at least 0; a step
            takes about twice as long.
        pseudo_labels: least probability of a class to stand for a binary label that is unknown (NaN), in (0.5, 1); None
            leaves such rows out. Their weight rises from 0 in the first epoch to almost that of known labels.
        devices: processes that train together, each with its own GPU or its own share of the processor's cores, and its
            own part of the rows of a batch.
        resident_gib: memory that the rows may take to stay resident; larger ones are read from disk in blocks.
        precision: a Lightning precision; `auto` is bfloat16 mixed where the GPU or the CPU multiplies it fast, float16
            mixed on other GPUs, float32 on other CPUs. Weights, losses and predictions are float32 in any case.
        seed: of weights, order and dropout.
        resume: continue from the last finished epoch of a run with the same arguments in `out`, if there is one.
        loggers: any of `tensorboard` and `wandb`.
        progress: whether to show a progress bar where stderr is a terminal.
        callbacks: Lightning's, told of the training besides its own.

    Raises:
        ValueError: an unknown logger or balancing, a number out of its range, objectives that make no chain, labels
            that never vary, a feature that is not finite, or features that do not fit the layout.
        FloatingPointError: the loss is no number any more.
        ImportError: `balancing` needs a package that is missing.
    """
    check_training(
        balancing=balancing,
        unseen_rate=unseen_rate,
        mask_rate=mask_rate,
        slot_dropout=slot_dropout,
        embedding_l2=embedding_l2,
        adversarial=adversarial,
        pseudo_labels=pseudo_labels,
        devices=devices,
        batch_rows=batch_rows,
        lr=lr,
        warmup=warmup,
        weight_decay=weight_decay,
        embedding_decay=embedding_decay,
        averaging=averaging,
        patience=patience,
        seed=seed,
        loss_weights=loss_weights,
        parents=parents,
    )
    sources = [Features.open(folder) for folder in (features, validation) if folder is not None]
    for source in sources:
        check_columns(source, layout, len(objective_kinds))
    told = dict(objectives or {})
    summary = summarise(sources[0], objective_kinds, chain_parents(objective_kinds, parents, told.get("estimators")))
    shown_names = list(names or (str(k) for k in range(len(parents))))
    if all(summary.constant):
        raise ValueError(f"labels must vary in training; got one value in all rows of {', '.join(shown_names)}")
    summary = replace(summary, base_rates=tuple(unsampled_rates(summary.base_rates, told.get("negatives"))))
    torch.manual_seed(seed)
    predicted = {name: told[name] for name in ("estimators", "value_losses") if name in told}
    fresh = build_ranker(layout, objective_kinds, parents, summary, predicted | dict(ranker or {}))
    loss = ObjectiveLoss(
        objective_kinds,
        parents,
        hidden=fresh.towers.outputs,
        base_rates=summary.base_rates,
        positions=sources[0].positioned,
        **told,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batches = [BatchSource(source, resident_gib, device) for source in sources]
    learner = Learner(
        fresh,
        loss,
        batches[0],
        batches[1] if validation is not None else None,
        epochs=epochs,
        batch_rows=batch_rows,
        lr=lr,
        warmup=warmup,
        weight_decay=weight_decay,
        embedding_decay=embedding_decay,
        loss_weights=loss_weights or [1.0] * len(parents),
        balancing=balancing,
        mask_rates=mask_rates(layout, listed, summary.unseen_free, unseen_rate, mask_rate),
        slot_dropout=slot_dropout,
        embedding_l2=embedding_l2,
        adversarial=adversarial,
        pseudo_labels=pseudo_labels,
        constant=summary.constant,
        names=shown_names,
        seed=seed,
    )
    checkpoints = out / "checkpoints"
    last = checkpoints / "last.ckpt"
    if not (resume and last.exists()):
        shutil.rmtree(checkpoints, ignore_errors=True)
    shown = progress and sys.stderr.isatty()
    with _quiet():
        trainer = pl.Trainer(
            accelerator="auto",
            devices=devices,
            strategy="auto" if devices == 1 else "ddp_spawn",
            use_distributed_sampler=False,
            precision=fastest_precision() if precision == "auto" else precision,
            max_epochs=epochs,
            limit_val_batches=1.0 if validation is not None else 0,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1,
            logger=_loggers(loggers, out),
            callbacks=[
                *_averaging(averaging, learner),
                *_callbacks(checkpoints, patience if validation is not None else None, shown),
                *callbacks,
            ],
            enable_progress_bar=shown,
            enable_model_summary=False,
            default_root_dir=out,
        )
        trainer.fit(learner, ckpt_path=last if last.exists() else None, weights_only=True)
    return _best(fresh, checkpoints)


def build_ranker(
    layout: Layout, objective_kinds: Sequence[str], parents: Sequence[int], summary: Summary, options: Mapping[str, Any]
) -> Ranker:
    """Return an untrained ranker for a layout that starts from what its training rows show.

    Args:
        layout: what the features' columns are.
        objective_kinds: `binary` or `value` for each objective, (K,).
        parents: index of the objective that each one is given, or -1, (K,).
        summary: of the training rows.
        options: flat arguments of `Ranker` that differ from its defaults.
    """
    cardinalities = [slot.cardinality for slot in layout.categorical]
    found: dict[str, Any] = {
        "slot_embeddings": [slot.embedding for slot in layout.categorical],
        "sparse_embedding": sum(cardinalities) > DENSE_TABLE_ROWS,
        "continuous_means": list(summary.means),
        "continuous_scales": list(summary.scales),
        "base_rates": list(summary.base_rates),
    }
    widths = [slot.width for slot in layout.categorical]
    return Ranker(
        cardinalities, widths, len(layout.continuous), list(objective_kinds), list(parents), **(found | dict(options))
    )


def mask_rates(
    layout: Layout, listed: Collection[str] | None, unseen_free: Sequence[bool], unseen_rate: float, mask_rate: float
) -> list[float]:
    """Return the share of each column's values that training shows as unseen, (S,): none of buckets and hours."""
    own = [listed is None or slot.name in listed for slot in layout.categorical for _ in range(slot.width)]
    rates = [max(mask_rate, unseen_rate if free else 0.0) for free in unseen_free]
    return [rate if is_listed else 0.0 for rate, is_listed in zip(rates, own, strict=True)]


def check_columns(features: Features, layout: Layout, objectives: int) -> None:
    """Refuse features whose columns are not those of the layout.

    Raises:
        ValueError: naming the columns wanted and found.
    """
    wanted = (layout.categorical_width, len(layout.continuous), objectives)
    if features.columns != wanted:
        raise ValueError(f"{features.folder} must hold arrays with {wanted} columns; got {features.columns}")


def check_training(
    *,
    epochs: int = 1,
    balancing: str = "fixed",
    unseen_rate: float = 0.0,
    mask_rate: float = 0.0,
    slot_dropout: float = 0.0,
    embedding_l2: float = 0.0,
    adversarial: float = 0.0,
    pseudo_labels: float | None = None,
    devices: int = 1,
    batch_rows: int = 2048,
    lr: float = 0.0,
    warmup: float = 0.0,
    weight_decay: float = 0.0,
    embedding_decay: float = 0.0,
    averaging: float | None = None,
    patience: int = 0,
    seed: int = 0,
    loss_weights: Sequence[float] | None = None,
    parents: Sequence[int] = (),
    **_: Any,
) -> None:
    """Refuse arguments of `train` that cannot be, before there are rows to train on.

    Raises:
        ValueError: naming the first.
        ImportError: `balancing` needs a package that is missing.
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1; got {epochs}")
    Balance(balancing, 2)
    shares = {"unseen_rate": unseen_rate, "mask_rate": mask_rate, "slot_dropout": slot_dropout, "warmup": warmup}
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ValueError(f"{name} must be in [0, 1); got {share}")
    sizes = {"embedding_l2": embedding_l2, "adversarial": adversarial, "lr": lr, "weight_decay": weight_decay}
    sizes |= {"embedding_decay": embedding_decay, "averaging": averaging or 0.0, "patience": patience, "seed": seed}
    for name, size in sizes.items():
        if not size >= 0:
            raise ValueError(f"{name} must be at least 0; got {size}")
    if loss_weights is not None and (len(loss_weights) != len(parents) or not min(loss_weights) >= 0):
        raise ValueError(f"loss_weights must be {len(parents)} numbers that are at least 0; got {loss_weights}")
    if pseudo_labels is not None and not 0.5 < pseudo_labels < 1:
        raise ValueError(f"pseudo_labels must be in (0.5, 1); got {pseudo_labels}")
    if devices < 1 or batch_rows < devices:
        raise ValueError(f"devices must be from 1 to batch_rows; got {devices} for {batch_rows} rows")


def _best(ranker: Ranker, checkpoints: Path) -> Training:
    """Read the best epoch's weights, or the last one's where nothing chose; other processes may have written them."""
    last = torch.load(checkpoints / "last.ckpt", map_location="cpu", weights_only=True)
    history = last["history"]
    scores = [epoch.get("val_score", -epoch["epoch"]) for epoch in history]
    best = checkpoints / "best.ckpt"
    saved = torch.load(best, map_location="cpu", weights_only=True) if best.exists() else last
    own = {name: tensor for name, tensor in saved["state_dict"].items() if name.startswith("ranker.")}
    weights = {name.removeprefix("ranker."): tensor for name, tensor in own.items()}
    ranker = ranker.cpu().eval()
    ranker.load_state_dict(weights)
    return Training(ranker, tuple(history), scores.index(min(scores)))


def _averaging(recency: float | None, learner: Learner) -> list[Callback]:
    """Return what averages the weights, often enough to miss nothing and seldom enough for tables of any size."""
    if recency is None:
        return []
    optimizers = 2 if learner.ranker.options["sparse_embedding"] else 1
    return [PolynomialAveraging(recency, optimizers * max(1, learner.batches // AVERAGED_AN_EPOCH))]


def _callbacks(checkpoints: Path, patience: int | None, progress: bool) -> list[Callback]:
    """Return what saves every epoch, and what stops where a validation can tell."""
    found: list[Callback] = [RichProgressBar(20, console_kwargs={"stderr": True})] if progress else []
    # a killed run may have left a better epoch than its last one knows: names stay, and files are written over
    saved: dict[str, Any] = {"save_on_train_epoch_end": True, "enable_version_counter": False}
    if patience is not None:
        found.append(EarlyStopping("val_score", patience=patience, check_on_train_epoch_end=True))
        found.append(ModelCheckpoint(checkpoints, "best", monitor="val_score", **saved))
    return [*found, ModelCheckpoint(checkpoints, "last", **saved)]


def _loggers(names: Sequence[str], out: Path) -> list[Logger]:
    found: list[Logger] = []
    for name in names:
        if name == "tensorboard":
            found.append(TensorBoardLogger(out, name="logs", version=""))
        elif name == "wandb":
            from pytorch_lightning.loggers import WandbLogger  # its package is optional

            found.append(WandbLogger(project="steelyard", save_dir=out))
        else:
            raise ValueError(f"loggers must be tensorboard or wandb; got {name!r}")
    return found


def fastest_precision() -> Literal["32-true", "16-mixed", "bf16-mixed"]:
    """Return the Lightning precision that trains fastest here and as well as float32."""
    if not torch.cuda.is_available():
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # newer than the oldest torch
        fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
        return "bf16-mixed" if fast else "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


@contextmanager
def _quiet() -> Iterator[None]:
    """Hush Lightning for as long as the context lasts."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            hush_lightning()
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
