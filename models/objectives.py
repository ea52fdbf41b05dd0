"""What a ranker predicts: binary objectives, chained ones, and values; their predictions and losses."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KINDS = ("binary", "value")
# Expected values stay below e^20 of a currency unit, so that no exponential overflows.
LOG_VALUE_LIMIT = 20.0


def check_objectives(kinds: Sequence[str], parents: Sequence[int]) -> None:
    """Refuse objectives that make no chain.

    Args:
        kinds: `binary` or `value` for each objective, (K,).
        parents: index of the objective that each one is given, or -1, (K,).

    Raises:
        ValueError: an unknown kind, a parent out of range, a parent that is no binary objective, or a cycle.
    """
    if len(kinds) == 0 or len(kinds) != len(parents):
        raise ValueError(f"parents must name one parent per objective; got {len(parents)} for {len(kinds)} kinds")
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"objective_kinds must be binary or value; got {kind!r}")
    for parent in parents:
        if not -1 <= parent < len(kinds):
            raise ValueError(f"parents must be -1 or an objective's index; got {parent}")
        if parent >= 0 and kinds[parent] != "binary":
            raise ValueError(f"parents must be binary objectives; got objective {parent}, a {kinds[parent]}")
    for objective in range(len(kinds)):
        _chain(objective, parents)


def _chain(objective: int, parents: Sequence[int]) -> list[int]:
    """Return an objective and its ancestors, nearest first."""
    chain = [objective]
    while parents[chain[-1]] >= 0:
        chain.append(parents[chain[-1]])
        if len(chain) > len(parents):
            raise ValueError(f"parents must form no cycle; got {list(parents)}")
    return chain


class ObjectiveChain(nn.Module):
    """From K logits to K expected values, and to the losses that train them.

    The logit of a binary objective is that of p(k | parent), the logit of a value log E[v_k | parent]. Both are one
    step of a chain, and log E[k] is the sum of the steps from the root to k:

        p(purchase) = p(click) · p(purchase | click)        E[value] = p(purchase) · E[value | purchase]

    A binary objective is trained on p(k) over every row, so that rows without the parent teach too (ESMM). A value is
    trained where its parent happened, by the gamma quasi-likelihood v·e^-m + m with m the logit. That is stationary at
    E[v] = e^m whatever the distribution of v, takes v = 0, and weighs relative errors, so no tail drowns the rest.

    Args:
        kinds: `binary` or `value` for each objective, (K,).
        parents: index of the objective that each one is given, or -1, (K,).

    Source: Ma et al., Entire Space Multi-Task Model, SIGIR 2018, equations 2 and 3; Wedderburn, Quasi-likelihood
    functions, Biometrika 1974, table 1.
    """

    is_value: Tensor
    least: Tensor
    chains: Tensor

    def __init__(self, kinds: Sequence[str], parents: Sequence[int]) -> None:
        super().__init__()
        check_objectives(kinds, parents)
        chains = [_chain(objective, parents) for objective in range(len(kinds))]
        negative = torch.zeros(len(kinds), len(kinds))
        for objective, chain in enumerate(chains):
            negative[chain, objective] = -1.0
        self.parents = list(parents)
        self.ancestors_first = sorted(range(len(kinds)), key=lambda objective: len(chains[objective]))
        is_value = torch.tensor([kind == "value" for kind in kinds])
        self.register_buffer("is_value", is_value, persistent=False)
        self.register_buffer("least", torch.where(is_value, -LOG_VALUE_LIMIT, 0.0), persistent=False)
        self.register_buffer("chains", negative, persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """Map logits (B, K) to expected values (B, K): probabilities, or units of the value."""
        return self.negative_steps(logits).mm(self.chains).exp()

    def negative_steps(self, logits: Tensor) -> Tensor:
        """Return -log p(k | parent) or -log E[v_k | parent] of logits (B, K), by one formula for both.

        log(e^-x + 1) is -log sigmoid(x), and log(e^-x + e^-20) is -x as long as x is well below 20.
        """
        return torch.logaddexp(-logits, self.least)

    def loss_sums(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return each objective's loss summed over the rows that count for it, and how many they are.

        Args:
            logits: (B, K).
            labels: (B, K), NaN where unknown; such a row does not count for that objective.

        Returns:
            Sums in nats (K,) and counts (K,).
        """
        observed = ~labels.isnan()
        labels = labels.nan_to_num()
        logits = logits.float()
        steps, misses = -self.negative_steps(logits), F.logsigmoid(-logits)
        log_p: dict[int, Tensor] = {}
        log_not: dict[int, Tensor] = {}
        sums, counts = [logits.new_zeros(())] * len(self.parents), [logits.new_zeros(())] * len(self.parents)
        for k in self.ancestors_first:
            parent, label, counted = self.parents[k], labels[:, k], observed[:, k]
            if self.is_value[k]:
                if parent >= 0:
                    counted = counted & (labels[:, parent] == 1)
                loss = gamma_loss(steps[:, k], label)
            else:
                log_p[k], log_not[k] = steps[:, k], misses[:, k]
                if parent >= 0:
                    log_p[k] = log_p[parent] + steps[:, k]
                    # 1 - p q = (1 - p) + p (1 - q): no cancellation, however sure either is.
                    log_not[k] = torch.logaddexp(misses[:, k], steps[:, k] + log_not[parent])
                loss = -(label * log_p[k] + (1 - label) * log_not[k])
            sums[k], counts[k] = (loss * counted).sum(), counted.sum()
        return torch.stack(sums), torch.stack(counts)


def gamma_loss(log_mean: Tensor, value: Tensor) -> Tensor:
    """Return the gamma quasi-likelihood loss v·e^-m + m of values (B,) at log means m (B,)."""
    log_mean = log_mean.clamp_min(-LOG_VALUE_LIMIT)
    return value * torch.exp(-log_mean) + log_mean


def constant_logits(kinds: Sequence[str], base_rates: Sequence[float]) -> Tensor:
    """Return the logits (K,) of a predictor that knows nothing but the base rates.

    Args:
        kinds: `binary` or `value` for each objective, (K,).
        base_rates: mean label where the parent happened, (K,).
    """
    rates = torch.tensor(base_rates, dtype=torch.float32)
    is_value = torch.tensor([kind == "value" for kind in kinds])
    return torch.where(is_value, rates.clamp(min=1e-6).log(), torch.logit(rates, eps=1e-6))
