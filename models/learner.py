"""One training step, one validation and the learning rate: the ranker as Lightning trains it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer, SparseAdam
from torch.optim.lr_scheduler import LambdaLR

from feature_eng.inputs import UNSEEN_ID, VOCABULARY_START
from models.feature_shards import Batch, BatchSource, ResidentBatches, StreamedBatches
from models.objective_losses import ObjectiveLoss
from models.objectives import constant_logits
from models.ranker import Ranker

VALIDATION_ROWS = 16_384


class Learner(pl.LightningModule):
    """Trains a ranker on the sum of its objectives' log likelihoods.

    The score that stops training and picks the best epoch is the mean over objectives of normalised loss: 1 for a
    predictor that knows only the base rates, lower for a better one. So every objective counts, however rare, and
    calibration counts besides order, which a mean of AUCs would not see and the blend needs.

    Args:
        ranker: trained in place.
        loss: of the ranker's objectives; its towers are trained beside the ranker.
        training: source of training batches.
        validation: source of validation batches.
        epochs: most passes over the training rows.
        batch_rows: rows of a training batch.
        lr: highest learning rate.
        warmup: share of all steps over which the learning rate rises to `lr`, in [0, 1).
        weight_decay: AdamW's, of all weights but biases and embeddings.
        embedding_decay: AdamW's, of embeddings; a sparse table has none.
        loss_weights: weight of each objective's loss, (K,).
        unseen_rate: share of values that training shows as unseen, in [0, 1), so that the unseen id learns.
        unseen_columns: columns of `categorical` where that is done, (S,).
        seed: of the order of rows and of all dropout.
    """

    ranker: Ranker
    loss: ObjectiveLoss
    loss_weights: Tensor
    unseen_columns: Tensor
    base_logits: Tensor

    def __init__(
        self,
        ranker: Ranker,
        loss: ObjectiveLoss,
        training: BatchSource,
        validation: BatchSource | None,
        *,
        epochs: int,
        batch_rows: int,
        lr: float,
        warmup: float,
        weight_decay: float,
        embedding_decay: float,
        loss_weights: Sequence[float],
        unseen_rate: float,
        unseen_columns: Sequence[bool],
        seed: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # a sparse table has an optimizer of its own
        self.ranker = ranker
        self.loss = loss
        self.training_source = training
        self.validation_source = validation
        self.batch_rows = batch_rows
        self.batches = len(training(batch_rows, 0))
        self.steps = epochs * self.batches
        self.lr = lr
        self.warmup = warmup
        self.weight_decay = weight_decay
        self.embedding_decay = embedding_decay
        self.unseen_rate = unseen_rate
        self.seed = seed
        self.history: list[dict[str, float]] = []
        self.register_buffer("loss_weights", torch.tensor(loss_weights), persistent=False)
        self.register_buffer("unseen_columns", torch.tensor(unseen_columns), persistent=False)
        given = ("objective_kinds", "base_rates", "value_losses")
        base = constant_logits(*(ranker.options[name] for name in given))
        self.register_buffer("base_logits", base, persistent=False)

    def train_dataloader(self) -> ResidentBatches | StreamedBatches:
        """Return this epoch's batches, in an order that follows from the seed and the epoch."""
        return self.training_source(self.batch_rows, self._epoch_seed())

    def val_dataloader(self) -> ResidentBatches | StreamedBatches | list[Batch]:
        """Return the validation batches."""
        return [] if self.validation_source is None else self.validation_source(VALIDATION_ROWS, None)

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LambdaLR]]:
        """Return AdamW, SparseAdam where the embedding is sparse, and a schedule for each."""
        named = list(self.ranker.named_parameters())
        embeddings = [p for name, p in named if name.startswith("embedding.")]
        weights = [p for name, p in named if name.endswith("weight") and not name.startswith("embedding.")]
        biases = [p for name, p in named if name.endswith("bias")]
        groups = [
            {"params": weights, "weight_decay": self.weight_decay},
            {"params": [*biases, *self.loss.parameters()], "weight_decay": 0.0},
        ]
        sparse = self.ranker.options["sparse_embedding"]
        if embeddings and not sparse:
            groups.append({"params": embeddings, "weight_decay": self.embedding_decay})
        optimizers: list[Optimizer] = [AdamW(groups, lr=self.lr, fused=True)]
        if embeddings and sparse:
            optimizers.append(SparseAdam(embeddings, lr=self.lr))
        schedule = partial(rate, steps=self.steps, warmup=self.warmup)
        self.schedules = [LambdaLR(optimizer, schedule) for optimizer in optimizers]
        return optimizers, self.schedules

    def on_train_start(self) -> None:
        """Leave a run that had stopped early stopped, when it is resumed."""
        stopping = self.trainer.early_stopping_callback
        if stopping is not None and stopping.wait_count >= stopping.patience:
            self.trainer.should_stop = True

    def on_train_epoch_start(self) -> None:
        """Seed dropout by the epoch, so that a resumed run draws what an undisturbed one draws."""
        torch.manual_seed(self._epoch_seed())
        self.sums = torch.zeros_like(self.loss_weights)
        self.rows = 0

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Take one step on one batch."""
        categorical, continuous, labels = batch
        labels, positions = self.split_labels(labels)
        hidden = self.ranker.hidden(self.unsee(categorical), continuous)
        sums, _ = self.loss(self.ranker.logits_of(hidden), labels, hidden, positions)
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward((sums * self.loss_weights).sum() / len(labels))
        for optimizer in optimizers:
            optimizer.step()
        for schedule in self.schedules:
            schedule.step()
        self.sums += sums.detach()
        self.rows += len(labels)

    def on_train_epoch_end(self) -> None:
        """Keep the epoch's figures."""
        figures = {"loss": float(self.sums.sum()) / self.rows}
        if self.validation_source is not None:
            figures |= {name: float(v) for name, v in self.trainer.callback_metrics.items() if name.startswith("val")}
        self.history.append({"epoch": self.current_epoch, **figures})
        self.log("loss", figures["loss"])

    def on_validation_epoch_start(self) -> None:
        """Start the sums of a validation."""
        self.losses, self.base_losses = torch.zeros_like(self.loss_weights), torch.zeros_like(self.loss_weights)
        self.counts = torch.zeros_like(self.loss_weights)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the sums."""
        categorical, continuous, labels = batch
        labels, _ = self.split_labels(labels)
        sums, counts = self.loss.validation_sums(self.ranker.logits(categorical, continuous), labels)
        self.losses += sums
        self.base_losses += self.loss.validation_sums(self.base_logits.expand(len(labels), -1), labels)[0]
        self.counts += counts

    def on_validation_epoch_end(self) -> None:
        """Log the normalised losses."""
        losses = normalised_losses(self.losses, self.base_losses, self.counts, self.ranker.chain.is_value)
        self.log("val_score", losses.nanmean())
        for objective, loss in enumerate(losses.tolist()):
            self.log(f"val_{objective}", loss)

    def split_labels(self, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the objectives' labels (B, K), and the rows' positions (B,) where they stand behind them."""
        objectives = len(self.loss_weights)
        return labels[:, :objectives], labels[:, objectives] if labels.size(1) > objectives else None

    def unsee(self, categorical: Tensor) -> Tensor:
        """Return ids (B, S) with a share of the listed values shown as unseen."""
        if self.unseen_rate == 0:
            return categorical
        drawn = torch.rand(categorical.shape, device=categorical.device) < self.unseen_rate
        return categorical.masked_fill(drawn & self.unseen_columns & (categorical >= VOCABULARY_START), UNSEEN_ID)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the history with the weights."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the history up again."""
        self.history = checkpoint["history"]

    def _epoch_seed(self) -> int:
        return self.seed * 1_000_003 + self.current_epoch


def rate(step: int, steps: int, warmup: float) -> float:
    """Return the share of the highest learning rate at a step: a linear rise, then all of it.

    Args:
        step: from 0.
        steps: of the whole training.
        warmup: share of all steps that the rise takes, in [0, 1).
    """
    return min(1.0, (step + 1) / max(1, round(warmup * steps)))


def normalised_losses(losses: Tensor, base_losses: Tensor, counts: Tensor, is_value: Tensor) -> Tensor:
    """Return each objective's loss against that of its base rate: 1 is no better, lower is better.

    Args:
        losses: summed over rows, (K,).
        base_losses: of the base rates, summed over the same rows, (K,).
        counts: rows that counted, (K,).
        is_value: which objectives are values, (K,).

    Returns:
        (K,): normalised entropy of binary objectives; of values, 1 and the nats per row that the base rate does better.
        NaN where no row counted.

    Source: He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, ADKDD 2014, equation 1.
    """
    scales = torch.where(is_value, counts, base_losses)
    return 1 + (losses - base_losses) / scales
