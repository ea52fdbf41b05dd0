"""Losses of values at one row: gamma quasi-likelihood, zero-inflated lognormal, squared log error, pinball."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from models.objectives import LOG_VALUE_LIMIT


def gamma_loss(log_mean: Tensor, value: Tensor) -> Tensor:
    """Return the gamma quasi-likelihood loss v·e^-m + m, which is least at E[v] = e^m whatever the distribution of v.

    It takes v = 0, and weighs relative errors, so that no tail drowns the rest.

    Args:
        log_mean: m, (B,).
        value: v, (B,), at least 0.

    Source: Wedderburn, Quasi-likelihood functions, Biometrika 1974, table 1.
    """
    log_mean = log_mean.clamp_min(-LOG_VALUE_LIMIT)
    return value * torch.exp(-log_mean) + log_mean


def ziln_loss(logit: Tensor, mean: Tensor, deviation: Tensor, value: Tensor) -> Tensor:
    """Return the negative log likelihood of a value that is 0, or lognormal.

    Args:
        logit: of v > 0, (B,).
        mean: of log v where v > 0, (B,).
        deviation: softplus of it is the deviation of log v, (B,).
        value: v, (B,), at least 0.

    Returns:
        Nats (B,).

    Source: Wang et al., A Deep Probabilistic Model for Customer Lifetime Value Prediction, 2019, section 3.
    """
    positive = value > 0
    log_value = torch.where(positive, value, 1.0).log()
    sigma = F.softplus(deviation).clamp_min(1e-3)  # as many equal values would make it 0
    normal = log_value + sigma.log() + 0.5 * math.log(2 * math.pi) + 0.5 * ((log_value - mean) / sigma).square()
    return F.binary_cross_entropy_with_logits(logit, positive.to(logit.dtype), reduction="none") + normal * positive


def squared_log_loss(log_value: Tensor, value: Tensor) -> Tensor:
    """Return (log(1 + v) − log(1 + e^m))², whose e^m is a typical value rather than the mean.

    Args:
        log_value: m, (B,).
        value: v, (B,), at least 0.
    """
    return (value.log1p() - F.softplus(log_value)).square()


def quantile_loss(log_value: Tensor, value: Tensor, quantile: float) -> Tensor:
    """Return the pinball loss of log(1 + v), which is least where e^m is the quantile of v.

    A quantile of log(1 + v) is that of v, and on this scale no tail drowns the rest.

    Args:
        log_value: m, (B,).
        value: v, (B,), at least 0.
        quantile: in (0, 1).

    Source: Koenker and Bassett, Regression Quantiles, Econometrica 1978, equation 1.1.
    """
    above = value.log1p() - F.softplus(log_value)
    return torch.maximum(quantile * above, (quantile - 1) * above)
