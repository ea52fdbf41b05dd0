"""One training step, one validation and the learning rate: the ranker as Lightning trains it."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations, pairwise
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW, Optimizer, SparseAdam
from torch.optim.lr_scheduler import LambdaLR

from models.balancing import SURGERIES, Balance, cosines, gramian, scale_gradient
from models.feature_shards import Batch, BatchSource, ResidentBatches, StreamedBatches
from models.labelling import pseudo_labels
from models.objective_losses import ObjectiveLoss
from models.objectives import constant_logits
from models.ranker import Ranker
from models.regularising import adversary, changed_vectors, drop_slots, mask_values, squared_length

_NOISE = (
    ".*does not have many workers.*",
    ".*log_every_n_steps.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*treespec, LeafSpec.*",
    ".*Grad strides do not match.*",
)

VALIDATION_ROWS = 16_384
# Rows of an epoch's first batch whose gradients tell how much the objectives agree.
COSINE_ROWS = 1024


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
        balancing: what weighs the losses besides, out of `BALANCINGS`.
        embedding_l2: weight of half the squared length of a row's vectors, at least 0.
        slot_dropout: share of a row's slots whose vectors are dropped whole, in [0, 1).
        adversarial: length of the change of a row's vectors that training must bear, against theirs, at least 0.
        pseudo_labels: least probability of a class to stand for an unknown label, in (0.5, 1), or None for none.
        mask_rates: share of each column's values that training shows as unseen, in [0, 1), (S,).
        constant: objectives whose training labels never vary, which no validation counts, (K,).
        names: of the objectives, (K,).
        seed: of the order of rows and of all dropout.
    """

    ranker: Ranker
    loss: ObjectiveLoss
    loss_weights: Tensor
    mask_rates: Tensor
    constant: Tensor
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
        mask_rates: Sequence[float],
        seed: int,
        balancing: str = "fixed",
        embedding_l2: float = 0.0,
        slot_dropout: float = 0.0,
        adversarial: float = 0.0,
        pseudo_labels: float | None = None,
        constant: Sequence[bool] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # a sparse table has an optimizer of its own
        self.ranker = ranker
        self.loss = loss
        self.training_source = training
        self.validation_source = validation
        self.batch_rows = batch_rows
        self.batches = training.batches(batch_rows)
        self.steps = epochs * self.batches
        self.lr = lr
        self.warmup = warmup
        self.weight_decay = weight_decay
        self.embedding_decay = embedding_decay
        self.embedding_l2 = embedding_l2
        self.slot_dropout = slot_dropout
        self.adversarial = adversarial
        self.pseudo_labels = pseudo_labels
        self.epochs = epochs
        self.launcher = os.getpid()
        self.masks = any(rate > 0 for rate in mask_rates)
        self.seed = seed
        self.names = list(names or (str(k) for k in range(len(loss_weights))))
        self.history: list[dict[str, Any]] = []
        self.balance = Balance(balancing, len(loss_weights))
        if ranker.options["sparse_embedding"]:  # torch knows its own modules' sparse gradients alone
            tables = [name for name, _ in self.named_parameters() if name.startswith("ranker.embedding.")]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, tables)
        begins = sorted({0, *ranker.embedding.begins, ranker.embedding.outputs})
        self.slot_widths = [end - begin for begin, end in pairwise(begins)]
        self.register_buffer("loss_weights", torch.tensor(loss_weights), persistent=False)
        self.register_buffer("mask_rates", torch.tensor(mask_rates), persistent=False)
        self.register_buffer("constant", torch.tensor(constant or [False] * len(loss_weights)), persistent=False)
        given = ("objective_kinds", "base_rates", "value_losses")
        base = constant_logits(*(ranker.options[name] for name in given))
        self.register_buffer("base_logits", base, persistent=False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        hush_lightning()  # in a process of its own

    def train_dataloader(self) -> ResidentBatches | StreamedBatches:
        """Return this epoch's batches, in an order that follows from the seed and the epoch."""
        return self.training_source(self.batch_rows, self._epoch_seed(), *self._share())

    def val_dataloader(self) -> ResidentBatches | StreamedBatches | list[Batch]:
        """Return the validation batches."""
        return [] if self.validation_source is None else self.validation_source(VALIDATION_ROWS, None, *self._share())

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LambdaLR]]:
        """Return AdamW, SparseAdam where the embedding is sparse, and a schedule for each."""
        named = list(self.ranker.named_parameters())
        embeddings = [p for name, p in named if name.startswith("embedding.")]
        weights = [p for name, p in named if name.endswith("weight") and not name.startswith("embedding.")]
        biases = [p for name, p in named if name.endswith("bias")]
        groups = [
            {"params": weights, "weight_decay": self.weight_decay},
            {"params": [*biases, *self.loss.parameters(), *self.balance.parameters()], "weight_decay": 0.0},
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
        torch.manual_seed(self._epoch_seed() + 7919 * self.trainer.global_rank)
        self.balance.start_epoch()
        self.sums, self.base_sums = torch.zeros_like(self.loss_weights), torch.zeros_like(self.loss_weights)
        self.counted = torch.zeros_like(self.loss_weights)
        self.rows = 0
        self.cosines: dict[str, float] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Take one step on one batch."""
        if self.trainer.world_size > 1 and os.getppid() != self.launcher:
            os._exit(1)  # whoever resumes the killed run must not find this process writing its checkpoints
        categorical, continuous, labels = batch
        labels, positions = self.split_labels(labels)
        rows = len(labels)
        if rows == 0:  # another process has all of the batch, and waits for gradients
            categorical, continuous = (
                categorical.new_zeros(1, categorical.size(1)),
                continuous.new_zeros(1, continuous.size(1)),
            )
            labels, positions = labels.new_full((1, labels.size(1)), torch.nan), None
        if self.masks:
            categorical = mask_values(categorical, self.mask_rates)
        if batch_idx == 0 and len(self.names) > 1:
            self.cosines = self._gradient_cosines(categorical, continuous, labels, positions)
        total, sums = self.step_loss(categorical, continuous, labels, positions, rows)
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(total)
        self._average_sparse_gradients()
        for optimizer in optimizers:
            optimizer.step()
        for schedule in self.schedules:
            schedule.step()
        self.sums += sums.detach()
        self.rows += rows

    def step_loss(
        self, categorical: Tensor, continuous: Tensor, labels: Tensor, positions: Tensor | None, own_rows: int
    ) -> tuple[Tensor, Tensor]:
        """Return what a step on a batch descends, balanced and regularised, and the objectives' summed losses (K,)."""
        rows = self._rows_per_rank(own_rows)
        score = partial(self._sums, labels=labels, positions=positions)
        looked_up: list[Tensor] = []
        states = self._states(categorical, continuous, looked_up.append)
        sums, counts = score(states)
        losses = sums * self.loss_weights / rows
        if self.balance.reads_levels:
            base_sums = self._base_sums(labels)
            self.base_sums += base_sums
            self.counted += counts
            levels = normalised_losses(sums.detach(), base_sums, counts, self.ranker.chain.is_value)
        if self.balance.reads_gradients:
            products = self._mean(gramian(losses.unbind(), self._shared()))
            self.balance.read_gradients(products, self._mean(levels) if self.balance.reads_levels else None)
            self.balance.weights.copy_(self._mean(self.balance.weights))
        if self.balance.balancing in SURGERIES:  # towers learn from their own losses, shared layers from weighed ones
            own = [score(scale_gradient(states, w))[0][k] for k, w in enumerate(self.balance.weights.unbind())]
            total = (torch.stack(own) * self.loss_weights / rows).sum()
        else:
            total = self.balance.total(losses)
        if self.pseudo_labels is not None and labels.isnan().any():
            total = total + self.balance.total(self._pseudo_sums(states, labels, counts) * self.loss_weights / rows)
        if self.embedding_l2 > 0:
            total = total + self.embedding_l2 * squared_length(looked_up[0]) * own_rows / rows
        if self.adversarial > 0:
            (gradient,) = torch.autograd.grad(losses.sum(), looked_up[0], retain_graph=True)
            change = adversary(looked_up[0], gradient, self.adversarial)
            changed = score(self._states(categorical, continuous, lambda vectors: vectors + change))[0]
            total = total + self.balance.total(changed * self.loss_weights / rows)
        return total, sums

    def on_train_epoch_end(self) -> None:
        """Keep the epoch's figures.

        Raises:
            FloatingPointError: the loss is no number any more.
        """
        sums, base_sums, counted = (self._sum(x) for x in (self.sums, self.base_sums, self.counted))
        loss = float(sums.sum()) / float(self._sum(torch.tensor(float(self.rows), device=self.device)))
        for figure in (loss, float(self.trainer.callback_metrics.get("val_score", loss))):
            if not math.isfinite(figure):
                raise FloatingPointError(f"loss must stay finite, which a lower lr may do; got {figure}, lr {self.lr}")
        self.balance.end_epoch(normalised_losses(sums, base_sums, counted, self.ranker.chain.is_value))
        figures: dict[str, Any] = {"loss": loss}
        if self.validation_source is not None:
            figures |= {name: float(v) for name, v in self.trainer.callback_metrics.items() if name.startswith("val")}
        if len(self.names) > 1:
            figures["gradient_cosines"] = self.cosines
        self.history.append({"epoch": self.current_epoch, **figures})
        self.log("loss", loss, rank_zero_only=True)

    def on_validation_epoch_start(self) -> None:
        """Start the sums of a validation."""
        self.losses, self.base_losses = torch.zeros_like(self.loss_weights), torch.zeros_like(self.loss_weights)
        self.counts = torch.zeros_like(self.loss_weights)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the sums."""
        categorical, continuous, labels = batch
        if len(labels) == 0:  # another process has all of it
            return
        labels, _ = self.split_labels(labels)
        with torch.autocast("cpu", enabled=False):  # as a processor will serve it
            logits = self.ranker.logits(categorical, continuous)
        sums, counts = self.loss.validation_sums(logits, labels)
        self.losses += sums
        self.base_losses += self._base_sums(labels)
        self.counts += counts

    def on_validation_epoch_end(self) -> None:
        """Log the normalised losses.

        Raises:
            ValueError: no validation label tells anything.
        """
        sums, base_sums, counts = (self._sum(x) for x in (self.losses, self.base_losses, self.counts))
        losses = normalised_losses(sums, base_sums, counts, self.ranker.chain.is_value)
        losses = losses.masked_fill(self.constant, torch.nan)
        if not (counts[~self.constant] > 0).any():
            raise ValueError("validation must have labels of an objective that varies in training; got none")
        self.log("val_score", losses.nanmean())
        for objective, loss in enumerate(losses.tolist()):
            self.log(f"val_{objective}", loss)

    def split_labels(self, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the objectives' labels (B, K), and the rows' positions (B,) where they stand behind them."""
        objectives = len(self.loss_weights)
        return labels[:, :objectives], labels[:, objectives] if labels.size(1) > objectives else None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the history with the weights."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the history up again."""
        self.history = checkpoint["history"]

    def _average_sparse_gradients(self) -> None:
        """Bring the gradients of sparse tables to their mean over processes, as torch does with all others."""
        if self.trainer.world_size == 1:
            return
        for table in self.ranker.embedding.parameters():
            if table.grad is not None and table.grad.is_sparse:
                gradient = table.grad.coalesce()
                distributed.all_reduce(gradient)
                table.grad = gradient / self.trainer.world_size

    def _gradient_cosines(
        self, categorical: Tensor, continuous: Tensor, labels: Tensor, positions: Tensor | None
    ) -> dict[str, float]:
        """Return how much objectives agree about the shared parameters, `{"click|purchase": cosine}`, on a few rows."""
        few = slice(0, COSINE_ROWS)
        with torch.random.fork_rng([] if self.device.type == "cpu" else [self.device]):
            states = self.ranker.states(categorical[few], continuous[few])
            sums, _ = self._sums(states, labels[few], None if positions is None else positions[few])
            angles = cosines(self._mean(gramian(sums.unbind(), self._shared())))
        pairs = {(i, j): float(angles[i, j]) for i, j in combinations(range(len(self.names)), 2)}
        return {f"{self.names[i]}|{self.names[j]}": angle for (i, j), angle in pairs.items() if math.isfinite(angle)}

    def _states(self, categorical: Tensor, continuous: Tensor, change: Callable[[Tensor], Tensor | None]) -> Tensor:
        """Return the ranker's shared states (K, B, H), its vectors seen or changed on the way where that is asked."""
        if not (self.embedding_l2 > 0 or self.slot_dropout > 0 or self.adversarial > 0):
            return self.ranker.states(categorical, continuous)

        def changed(vectors: Tensor) -> Tensor:
            replaced = change(vectors)
            vectors = vectors if replaced is None else replaced
            return vectors if self.slot_dropout == 0 else drop_slots(vectors, self.slot_widths, self.slot_dropout)

        with changed_vectors(self.ranker.embedding, changed):
            return self.ranker.states(categorical, continuous)

    def _sums(self, states: Tensor, labels: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the sums of the losses that train and the rows that count, both (K,), from shared states (K, B, H)."""
        hidden = self.ranker.towers(states)
        sums: tuple[Tensor, Tensor] = self.loss(self.ranker.logits_of(hidden), labels, hidden, positions)
        return sums

    def _pseudo_sums(self, states: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
        """Return the losses of what the ranker is sure of where labels are unknown, (K,), as if of the rows that count.

        So sure rows weigh what known ones do, times a share that rises from 0 in the first epoch.
        """
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            predictions = self.ranker.chain(self.ranker.logits_of(self.ranker.towers(states.float())))
            sure = pseudo_labels(predictions, labels, ~self.ranker.chain.is_value, self.pseudo_labels or 1.0)
        sums, sure_counts = self._sums(states, sure, None)
        return sums / sure_counts.clamp_min(1) * counts * (self.current_epoch / self.epochs)

    def _base_sums(self, labels: Tensor) -> Tensor:
        return self.loss.validation_sums(self.base_logits.expand(len(labels), -1), labels)[0]

    def _shared(self) -> list[nn.Parameter]:
        named = self.ranker.named_parameters()
        return [p for name, p in named if not name.startswith(("towers.", "heads."))]

    def _share(self) -> tuple[int, int]:
        return self.trainer.global_rank, self.trainer.world_size

    def _rows_per_rank(self, own_rows: int) -> Tensor | int:
        """Return the mean rows of the processes' parts of a batch, by which each divides its losses."""
        return own_rows if self.trainer.world_size == 1 else self._mean(self.loss_weights.new_tensor(own_rows))

    def _mean(self, tensor: Tensor) -> Tensor:
        """Return the mean over processes."""
        return self._reduced(tensor, "mean")

    def _sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over processes."""
        return self._reduced(tensor, "sum")

    def _reduced(self, tensor: Tensor, how: str) -> Tensor:
        if self.trainer.world_size == 1:
            return tensor
        reduced: Tensor = self.trainer.strategy.reduce(tensor.clone(), reduce_op=how)
        return reduced

    def _epoch_seed(self) -> int:
        return self.seed * 1_000_003 + self.current_epoch


def hush_lightning() -> None:
    """Keep Lightning's hints and banners to itself; errors still raise."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)


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
