"""The losses that train a ranker's objectives, and those that judge it on validation rows."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.binary_losses import binary_loss
from models.objectives import LOG_VALUE_LIMIT, ObjectiveChain, chain_parents, lognormal_values
from models.training_towers import ImputationTower, PositionTower
from models.value_losses import gamma_loss, quantile_loss, squared_log_loss, ziln_loss

# What an objective may be told, with the least and the largest value; ends belong to it where the flag says so.
RANGES = {
    "positive_weights": (0.0, float("inf"), False),
    "smoothings": (0.0, 1.0, True),
    "focusings": (0.0, float("inf"), True),
    "negatives": (0.0, 1.0, False),
    "propensity_floors": (0.0, 1.0, False),
    "entire_space_weights": (0.0, float("inf"), True),
    "quantiles": (0.0, 1.0, False),
}


class ObjectiveLoss(nn.Module):
    """The loss of each objective, summed over the rows that count for it.

    A binary objective without a parent has the cross-entropy of p(k), weighed, smoothed or focused where asked. One
    with a parent has, by its estimator,

    - `esmm`: the cross-entropy of p(k) = p(parent) · p(k | parent) over every row, so that rows without the parent
      teach too;
    - `ipw`: that of p(k | parent) where the parent happened, over p(parent), so that it is the loss over every row had
      the parent happened everywhere, scaled to weights of mean 1 in a batch; plus the loss of `esmm` times
      `entire_space_weights`;
    - `dr`: the same with what an imputation tower expects subtracted where the parent happened and added everywhere, so
      that it is right where either p(parent) or the tower is;
    - `entire_space`: the cross-entropy of p(k) from a logit of its own, plus max(0, p(k) - p(parent)) times
      `entire_space_weights`.

    A value has its own loss where its parent happened.

    Args:
        kinds: `binary` or `value` for each objective, (K,), as for the lists below.
        parents: index of the objective that each one is given, or -1.
        estimators: of binary objectives with a parent, out of `ESTIMATORS`; else `esmm`.
        value_losses: out of `VALUE_LOSSES`; else `gamma`.
        positive_weights: see `binary_loss`.
        smoothings: see `binary_loss`.
        focusings: see `binary_loss`.
        negatives: share of the rows without the objective that the training rows still hold; logits are of all rows.
        propensity_floors: least p(parent) that a row is weighed with.
        entire_space_weights: of the second loss of `ipw`, `dr` and `entire_space`.
        quantiles: which one a `quantile` value predicts.
        hidden: width H of the hidden layers that imputation towers read.
        base_rates: mean label where the parent happened, where imputation towers start.
        positions: whether training rows have positions, which then add to logits of p(k) themselves.

    Raises:
        ValueError: the objectives make no chain, or a number is out of its range.

    Source: Ma et al., Entire Space Multi-Task Model, SIGIR 2018, equation 3; Wang et al., ESCM²: Entire Space
    Counterfactual Multi-Task Model, SIGIR 2022, section 4; Wang et al., Doubly Robust Joint Learning, ICML 2019,
    section 4; Swaminathan and Joachims, The Self-Normalized Estimator, NeurIPS 2015; Xi et al., Modeling the Sequential
    Dependence among Audience Multi-step Conversions, KDD 2021, section 3.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        parents: Sequence[int],
        *,
        estimators: Sequence[str] | None = None,
        value_losses: Sequence[str] | None = None,
        positive_weights: Sequence[float] | None = None,
        smoothings: Sequence[float] | None = None,
        focusings: Sequence[float] | None = None,
        negatives: Sequence[float] | None = None,
        propensity_floors: Sequence[float] | None = None,
        entire_space_weights: Sequence[float] | None = None,
        quantiles: Sequence[float] | None = None,
        hidden: int = 1,
        base_rates: Sequence[float] | None = None,
        positions: bool = False,
    ) -> None:
        super().__init__()
        count = len(kinds)
        self.chain = ObjectiveChain(kinds, parents, estimators, value_losses)
        self.kinds, self.parents = list(kinds), list(parents)
        self.estimators = list(estimators or ["esmm"] * count)
        self.value_losses = list(value_losses or ["gamma"] * count)
        self.positive_weights = _numbers("positive_weights", positive_weights, 1.0, count)
        self.smoothings = _numbers("smoothings", smoothings, 0.0, count)
        self.focusings = _numbers("focusings", focusings, 0.0, count)
        self.negatives = _numbers("negatives", negatives, 1.0, count)
        self.propensity_floors = _numbers("propensity_floors", propensity_floors, 0.05, count)
        self.entire_space_weights = _numbers("entire_space_weights", entire_space_weights, 0.1, count)
        self.quantiles = _numbers("quantiles", quantiles, 0.5, count)
        multiplied = chain_parents(kinds, parents, estimators)
        self.multiplied = multiplied
        self.ancestors_first = sorted(range(count), key=lambda k: _depth(k, self.parents))
        self.extra = {k: place for place, k in enumerate(lognormal_values(kinds, value_losses))}
        self.seen_first = [k for k in range(count) if kinds[k] == "binary" and multiplied[k] < 0]
        self.imputed = [k for k in range(count) if self._estimator(k) == "dr"]
        rates = base_rates or [0.5] * count
        self.imputation = ImputationTower(hidden, [rates[k] for k in self.imputed]) if self.imputed else None
        self.position = PositionTower(len(self.seen_first)) if positions and self.seen_first else None

    def forward(
        self, logits: Tensor, labels: Tensor, hidden: Tensor | None = None, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the losses that train.

        Args:
            logits: (B, L).
            labels: (B, K), NaN where unknown; such a row does not count for that objective.
            hidden: the layer that each objective's logit was computed from, (K, B, H); needed by `dr`.
            positions: (B,), from 1, NaN where unknown; needed where training rows have positions.

        Returns:
            Sums in nats (K,), or in the value loss's own unit, and counts of rows (K,).
        """
        logits = self._as_shown(logits.float(), positions)
        imputed = None
        if self.imputation is not None and hidden is not None:
            imputed = self.imputation(hidden[self.imputed].float())
        steps, misses, log_p, log_not = self._log_probabilities(logits)
        observed, known = ~labels.isnan(), labels.nan_to_num()
        sums, counts = [], []
        for k, parent in enumerate(self.parents):
            counted, label = observed[:, k], known[:, k]
            estimator = self._estimator(k)
            if self.kinds[k] == "value":
                counted = self._where_parent(counted, known, parent)
                loss = self._value_loss(k, logits, steps[:, k], label)
            else:
                loss = self._binary_loss(k, log_p[k], log_not[k], label)
                if estimator == "entire_space":
                    exceeding = (log_p[k].exp() - log_p[parent].exp()).clamp_min(0)
                    loss = loss + self.entire_space_weights[k] * exceeding
                if estimator in ("ipw", "dr"):
                    counted = counted & observed[:, parent]
                    happened = known[:, parent] * counted
                    propensity = log_p[parent].detach().exp().clamp_min(self.propensity_floors[k])
                    own = self._binary_loss(k, steps[:, k], misses[:, k], label)
                    weights = happened / propensity
                    conditional = weights * own
                    if imputed is not None and estimator == "dr":
                        expected = imputed[:, self.imputed.index(k)]
                        conditional = self._doubly_robust(k, steps, misses, expected, label, own, weights)
                    # weights of mean 1 where the parent happened, lest a rare parent make its child drown the others
                    scale = happened.sum() / weights.sum().clamp_min(1e-6)
                    loss = scale * conditional + self.entire_space_weights[k] * loss
            sums.append((loss * counted).sum())
            counts.append(counted.sum())
        return torch.stack(sums), torch.stack(counts)

    def validation_sums(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses of predictions as served: plain cross-entropy of p(k), and values' own losses.

        Args:
            logits: (B, L).
            labels: (B, K), NaN where unknown; such a row does not count for that objective.

        Returns:
            Sums in nats (K,), or in the value loss's own unit, and counts of rows (K,).
        """
        logits = logits.float()
        steps, _, log_p, log_not = self._log_probabilities(logits)
        observed, known = ~labels.isnan(), labels.nan_to_num()
        sums, counts = [], []
        for k, parent in enumerate(self.parents):
            counted, label = observed[:, k], known[:, k]
            if self.kinds[k] == "value":
                counted = self._where_parent(counted, known, parent)
                loss = self._value_loss(k, logits, steps[:, k], label)
            else:
                loss = binary_loss(log_p[k], log_not[k], label)
            sums.append((loss * counted).sum())
            counts.append(counted.sum())
        return torch.stack(sums), torch.stack(counts)

    def _as_shown(self, logits: Tensor, positions: Tensor | None) -> Tensor:
        """Return logits (B, L) of the training rows: with their positions, and without the negatives they lack."""
        lifts = {k: -torch.tensor(kept).log() for k, kept in enumerate(self.negatives) if kept < 1}
        columns = {k: logits[:, k] + lift.to(logits.device) for k, lift in lifts.items()}
        if self.position is not None and positions is not None:
            added = self.position(positions)
            for place, k in enumerate(self.seen_first):
                columns[k] = columns.get(k, logits[:, k]) + added[:, place]
        if not columns:
            return logits
        return torch.stack([columns.get(k, logits[:, k]) for k in range(logits.size(1))], 1)

    def _log_probabilities(self, logits: Tensor) -> tuple[Tensor, Tensor, dict[int, Tensor], dict[int, Tensor]]:
        """Return log p(k | parent) and log(1 - p(k | parent)), (B, K), and log p(k) and log(1 - p(k)) by objective."""
        steps, misses = -self.chain.negative_steps(logits), F.logsigmoid(-logits)
        log_p: dict[int, Tensor] = {}
        log_not: dict[int, Tensor] = {}
        for k in self.ancestors_first:
            parent = self.multiplied[k]
            log_p[k], log_not[k] = steps[:, k], misses[:, k]
            if parent >= 0 and self.kinds[k] == "binary":
                log_p[k] = log_p[parent] + steps[:, k]
                # 1 - p q = (1 - p) + p (1 - q): no cancellation, however sure either is.
                log_not[k] = torch.logaddexp(misses[:, k], steps[:, k] + log_not[parent])
        return steps, misses, log_p, log_not

    def _doubly_robust(
        self, k: int, steps: Tensor, misses: Tensor, expected: Tensor, label: Tensor, own: Tensor, weights: Tensor
    ) -> Tensor:
        """Return the doubly robust loss, and that of the imputation tower, of logits `expected` (B,)."""
        error = self._binary_loss(k, steps[:, k], misses[:, k], expected.sigmoid().detach())
        # the paper's squared error of errors is least at the same tower, but tells it little where p(k | parent) is 1/2
        fit = F.binary_cross_entropy_with_logits(expected, label, reduction="none")
        return error + weights * (own - error) + weights * fit

    def _binary_loss(self, k: int, log_p: Tensor, log_not: Tensor, label: Tensor) -> Tensor:
        return binary_loss(
            log_p,
            log_not,
            label,
            positive_weight=self.positive_weights[k],
            smoothing=self.smoothings[k],
            focusing=self.focusings[k],
        )

    def _value_loss(self, k: int, logits: Tensor, log_mean: Tensor, value: Tensor) -> Tensor:
        loss = self.value_losses[k]
        if loss == "ziln":
            mean = len(self.kinds) + self.extra[k]
            return ziln_loss(logits[:, k], logits[:, mean], logits[:, mean + len(self.extra)], value)
        if loss == "gamma":
            return gamma_loss(log_mean, value)
        log_value = log_mean.clamp_min(-LOG_VALUE_LIMIT)
        if loss == "quantile":
            return quantile_loss(log_value, value, self.quantiles[k])
        return squared_log_loss(log_value, value)

    def _estimator(self, k: int) -> str:
        return self.estimators[k] if self.kinds[k] == "binary" and self.parents[k] >= 0 else "esmm"

    @staticmethod
    def _where_parent(counted: Tensor, known: Tensor, parent: int) -> Tensor:
        return counted & (known[:, parent] == 1) if parent >= 0 else counted


def unsampled_rates(rates: Sequence[float], negatives: Sequence[float] | None) -> list[float]:
    """Return the rates of all rows (K,) from those of training rows, which hold a share of the negatives, (K,)."""
    kept = negatives or [1.0] * len(rates)
    return [r * rate / (r * rate + 1 - rate) if r < 1 else rate for r, rate in zip(kept, rates, strict=True)]


def _depth(k: int, parents: Sequence[int]) -> int:
    depth = 0
    while parents[k] >= 0:
        k, depth = parents[k], depth + 1
    return depth


def _numbers(name: str, given: Sequence[float] | None, default: float, count: int) -> list[float]:
    """Return one number an objective, within its range."""
    numbers = [default] * count if given is None else list(given)
    low, high, closed = RANGES[name]
    largest = "" if high == float("inf") else f" and at most {high:g}"
    for number in numbers:
        inside = (low <= number if closed else low < number) and number <= high
        if not inside or number == float("inf"):
            raise ValueError(f"{name} must be {'at least' if closed else 'above'} {low:g}{largest}; got {number}")
    if len(numbers) != count:
        raise ValueError(f"{name} must have one number per objective; got {len(numbers)} for {count}")
    return numbers
