"""What a ranker predicts: binary objectives, chained ones, and values; from its logits to expected values."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KINDS = ("binary", "value")
# How a chained binary objective is learnt; `entire_space` predicts p(k) itself, the others p(k | parent).
ESTIMATORS = ("esmm", "ipw", "dr", "entire_space")
VALUE_LOSSES = ("gamma", "ziln", "squared_log", "quantile")
# Expected values stay below e^20 of a currency unit, so that no exponential overflows.
LOG_VALUE_LIMIT = 20.0
# What a zero-inflated lognormal supposes before it learns: most values above 0, spread by a factor of e.
_ZILN_SHARE, _ZILN_DEVIATION = 0.95, 1.0


def check_objectives(
    kinds: Sequence[str],
    parents: Sequence[int],
    estimators: Sequence[str] | None = None,
    value_losses: Sequence[str] | None = None,
) -> None:
    """Refuse objectives that make no chain.

    Args:
        kinds: `binary` or `value` for each objective, (K,).
        parents: index of the objective that each one is given, or -1, (K,).
        estimators: out of `ESTIMATORS` for each objective, (K,).
        value_losses: out of `VALUE_LOSSES` for each objective, (K,).

    Raises:
        ValueError: an unknown kind, estimator or loss, a parent out of range, a parent that is no binary objective, or
            a cycle.
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
    for name, given, known in (
        ("estimators", estimators, ESTIMATORS),
        ("value_losses", value_losses, VALUE_LOSSES),
    ):
        if given is not None and (len(given) != len(kinds) or not set(given) <= set(known)):
            raise ValueError(f"{name} must name one of {', '.join(known)} per objective; got {list(given)}")
    for objective in range(len(kinds)):
        ancestry(objective, parents)


def ancestry(objective: int, parents: Sequence[int]) -> list[int]:
    """Return an objective and its ancestors, nearest first.

    Raises:
        ValueError: they go round in a cycle.
    """
    chain = [objective]
    while parents[chain[-1]] >= 0:
        chain.append(parents[chain[-1]])
        if len(chain) > len(parents):
            raise ValueError(f"parents must form no cycle; got {list(parents)}")
    return chain


def chain_parents(kinds: Sequence[str], parents: Sequence[int], estimators: Sequence[str] | None) -> list[int]:
    """Return the parents (K,) that predictions are multiplied by: none for what is predicted on the entire space."""
    named = estimators or ["esmm"] * len(kinds)
    return [
        -1 if kind == "binary" and estimator == "entire_space" else parent
        for kind, parent, estimator in zip(kinds, parents, named, strict=True)
    ]


class ObjectiveChain(nn.Module):
    """From L logits to K expected values.

    The logit of a binary objective is that of p(k | parent), the logit of a value log E[v_k | parent]. Both are one
    step of a chain, and log E[k] is the sum of the steps from the root to k:

        p(purchase) = p(click) · p(purchase | click)        E[value] = p(purchase) · E[value | purchase]

    A binary objective on the entire space begins a chain of its own. A zero-inflated lognormal value has three logits:
    of v > 0 in its objective's place, and of the mean and the deviation of log v behind all K. So L is K plus two for
    each of these values.

    Args:
        kinds: `binary` or `value` for each objective, (K,).
        parents: index of the objective that each one is given, or -1, (K,).
        estimators: out of `ESTIMATORS` for each objective, (K,); of `entire_space` alone predictions depend.
        value_losses: out of `VALUE_LOSSES` for each objective, (K,); of `ziln` alone predictions depend.

    Raises:
        ValueError: the objectives make no chain.

    Source: Ma et al., Entire Space Multi-Task Model, SIGIR 2018, equation 2; Wang et al., A Deep Probabilistic Model
    for Customer Lifetime Value Prediction, 2019, section 3.
    """

    is_value: Tensor
    least: Tensor
    chains: Tensor
    owners: Tensor
    lognormal: Tensor

    def __init__(
        self,
        kinds: Sequence[str],
        parents: Sequence[int],
        estimators: Sequence[str] | None = None,
        value_losses: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        check_objectives(kinds, parents, estimators, value_losses)
        multiplied = chain_parents(kinds, parents, estimators)
        negative = torch.zeros(len(kinds), len(kinds))
        for objective in range(len(kinds)):
            negative[ancestry(objective, multiplied), objective] = -1.0
        is_value = torch.tensor([kind == "value" for kind in kinds])
        zilns = lognormal_values(kinds, value_losses)
        self.objectives = len(kinds)
        self.lognormals = len(zilns)
        self.logits = self.objectives + 2 * self.lognormals
        buffers = {
            "is_value": is_value,
            "least": torch.where(is_value, -LOG_VALUE_LIMIT, 0.0),
            "chains": negative,
            "owners": torch.tensor([*range(len(kinds)), *zilns, *zilns]),  # the objective of each logit
            "lognormal": torch.tensor(zilns, dtype=torch.long),
        }
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """Map logits (B, L) to expected values (B, K): probabilities, or units of the value."""
        return self.negative_steps(logits).mm(self.chains).exp()

    def negative_steps(self, logits: Tensor) -> Tensor:
        """Return -log p(k | parent) or -log E[v_k | parent] (B, K) of logits (B, L), by one formula for both.

        log(e^-x + 1) is -log sigmoid(x), and log(e^-x + e^-20) is -x as long as x is well below 20.
        """
        return torch.logaddexp(-self.own_logits(logits), self.least)

    def own_logits(self, logits: Tensor) -> Tensor:
        """Map logits (B, L) to one an objective (B, K): of p(k | parent), or log E[v_k | parent]."""
        if self.lognormals == 0:
            return logits
        own, means, deviations = logits.split([self.objectives, self.lognormals, self.lognormals], 1)
        log_means = F.logsigmoid(own.index_select(1, self.lognormal)) + means + 0.5 * F.softplus(deviations).square()
        steps: Tensor = own.index_copy(1, self.lognormal, log_means)
        return steps


def lognormal_values(kinds: Sequence[str], value_losses: Sequence[str] | None) -> list[int]:
    """Return the indices of the values that are zero-inflated lognormal."""
    losses = value_losses or ["gamma"] * len(kinds)
    return [k for k, (kind, loss) in enumerate(zip(kinds, losses, strict=True)) if kind == "value" and loss == "ziln"]


def constant_logits(
    kinds: Sequence[str], base_rates: Sequence[float], value_losses: Sequence[str] | None = None
) -> Tensor:
    """Return the logits (L,) of a predictor that knows nothing but the base rates.

    Args:
        kinds: `binary` or `value` for each objective, (K,).
        base_rates: mean label where the parent happened, or of all rows on the entire space, (K,).
        value_losses: out of `VALUE_LOSSES` for each objective, (K,).
    """
    rates = torch.tensor(base_rates, dtype=torch.float32)
    is_value = torch.tensor([kind == "value" for kind in kinds])
    logits = torch.where(is_value, rates.clamp(min=1e-6).log(), torch.logit(rates, eps=1e-6))
    zilns = lognormal_values(kinds, value_losses)
    if not zilns:
        return logits
    share, deviation = torch.tensor(_ZILN_SHARE), torch.tensor(_ZILN_DEVIATION)
    means = logits[zilns] - share.log() - deviation.square() / 2
    logits[zilns] = torch.logit(share)
    return torch.cat([logits, means, deviation.expm1().log().expand(len(zilns))])
