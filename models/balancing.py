"""How much each objective's loss counts in a training step: fixed, learnt, or found from the objectives' gradients.

Weights that come from gradients need only their inner products, the Gramian (K, K), never the gradients side by side.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

# `fixed` leaves losses as they are; the next three weigh whole losses; the last five weigh what reaches shared layers.
BALANCINGS = ("fixed", "uncertainty", "dwa", "gradnorm", "pcgrad", "mgda", "cagrad", "nash", "aligned")
SURGERIES = BALANCINGS[4:]

DWA_TEMPERATURE = 2.0
GRADNORM_STRENGTH = 1.5
GRADNORM_RATE = 0.025
CAGRAD_RADIUS = 0.5


class Balance(nn.Module):
    """The weight of each objective's loss in the next step, and what it takes to find it; all of it is saved.

    Args:
        balancing: out of `BALANCINGS`.
        objectives: number of objectives K.

    Raises:
        ValueError: an unknown balancing.
        ImportError: a balancing out of `SURGERIES` without torchjd.
    """

    weights: Tensor
    levels: Tensor

    def __init__(self, balancing: str, objectives: int) -> None:
        super().__init__()
        if balancing not in BALANCINGS:
            raise ValueError(f"balancing must be one of {', '.join(BALANCINGS)}; got {balancing!r}")
        self.balancing = balancing
        self.log_variances = nn.Parameter(torch.zeros(objectives)) if balancing == "uncertainty" else None
        self.surgery = gramian_weighting(balancing, objectives) if balancing in SURGERIES else None
        self.reads_gradients = balancing in SURGERIES or balancing == "gradnorm"
        self.reads_levels = balancing in ("dwa", "gradnorm")
        self.register_buffer("weights", torch.ones(objectives))
        self.register_buffer("levels", torch.full((2, objectives), torch.nan))  # of the last two epochs

    def total(self, losses: Tensor) -> Tensor:
        """Return the one loss that trains, of each objective's (K,)."""
        if self.log_variances is not None:
            return uncertainty_loss(losses, self.log_variances)
        return (losses * self.weights).sum()

    @torch.no_grad()
    def read_gradients(self, gramian: Tensor, levels: Tensor | None) -> None:
        """Find the weights of this step.

        Args:
            gramian: inner products of the gradients of the losses by the shared parameters, (K, K).
            levels: normalised losses of the batch, (K,), NaN where no row counted; `gradnorm` needs them.
        """
        if self.surgery is not None:
            reached = gramian.diagonal() > 0  # nothing pulls for an objective without a row in the batch
            if reached.all() or (reached.any() and self.balancing != "nash"):
                with torch.autocast(gramian.device.type, enabled=False):
                    found = self.surgery(gramian[reached][:, reached].float())
                self.weights.masked_scatter_(reached, found)
        elif levels is not None:
            self.weights.copy_(gradnorm_weights(self.weights, gramian.diagonal().clamp_min(0).sqrt(), levels))

    def end_epoch(self, levels: Tensor) -> None:
        """Find the weights of the next epoch from the normalised losses of this one, (K,)."""
        if self.balancing == "dwa":
            self.levels.copy_(torch.stack([self.levels[1], levels]))
            self.weights.copy_(dynamic_weights(self.levels[0], self.levels[1]))

    def start_epoch(self) -> None:
        """Forget what a solver keeps from step to step, so that a resumed run finds what an undisturbed one finds."""
        reset = getattr(self.surgery, "reset", None)
        if reset is not None:
            reset()


def uncertainty_loss(losses: Tensor, log_variances: Tensor) -> Tensor:
    """Return Σ_k exp(-s_k) L_k + s_k / 2, where s_k = log σ_k² is learnt.

    Args:
        losses: (K,).
        log_variances: s, (K,).

    Source: Kendall et al., Multi-Task Learning Using Uncertainty to Weigh Losses, CVPR 2018, equation 10.
    """
    return (torch.exp(-log_variances) * losses + log_variances / 2).sum()


def dynamic_weights(before: Tensor, latest: Tensor, *, temperature: float = DWA_TEMPERATURE) -> Tensor:
    """Return K · softmax(r / T), where r_k is the loss of the last epoch over that of the one before it.

    Args:
        before: loss of each objective in the epoch before the last, (K,), NaN where unknown.
        latest: in the last epoch, (K,).
        temperature: T, above 0; the higher, the more alike the weights.

    Source: Liu et al., End-to-End Multi-Task Learning with Attention, CVPR 2019, equation 7.
    """
    ratios = (latest / before).nan_to_num(1.0, 1.0, 1.0)
    return len(ratios) * torch.softmax(ratios / temperature, 0)


def gradnorm_weights(
    weights: Tensor,
    norms: Tensor,
    levels: Tensor,
    *,
    strength: float = GRADNORM_STRENGTH,
    rate: float = GRADNORM_RATE,
) -> Tensor:
    """Return weights one step closer to gradients whose norms follow how slowly each objective learns.

    The step descends Σ_k |w_k n_k - mean(w n) · r_k^α|, with the norms n over their mean, so that `rate` has no unit.

    Args:
        weights: w, summing to K, (K,).
        norms: of the gradients of the losses without weights, (K,).
        levels: losses over what they began as, (K,), NaN where unknown; r is these over their mean.
        strength: α, at least 0.
        rate: length of the step.

    Source: Chen et al., GradNorm, ICML 2018, equations 1 and 2 and algorithm 1.
    """
    known = levels.nan_to_num(float(levels.nanmean().nan_to_num(1.0))).clamp_min(1e-3)
    norms = norms / norms.mean().clamp_min(1e-12)
    weighted = weights * norms
    targets = weighted.mean() * (known / known.mean()) ** strength
    moved = (weights - rate * norms * (weighted - targets).sign()).clamp_min(1e-3)
    return len(moved) * moved / moved.sum()


def gramian(losses: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """Return the inner products of the losses' gradients by the parameters, (K, K); the graph stays for a backward.

    Args:
        losses: K numbers of one graph.
        parameters: what they are differentiated by; gradients may be sparse.
    """
    found = [torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for loss in losses]
    products = torch.zeros(len(losses), len(losses), device=losses[0].device)
    for gradients in zip(*found, strict=True):
        reached = [k for k, gradient in enumerate(gradients) if gradient is not None]
        if not reached:
            continue
        # sparse gradients of one batch have the same rows in the same order
        dense = [g.coalesce().values() if g.is_sparse else g for g in gradients if g is not None]
        flat = torch.stack([g.flatten().float() for g in dense])
        places = torch.tensor(reached, device=products.device)
        with torch.autocast(flat.device.type, enabled=False):
            products[places.unsqueeze(1), places] += flat @ flat.t()
    return products


def cosines(gramian: Tensor) -> Tensor:
    """Return the cosines between gradients (K, K) of their inner products, NaN where one is 0."""
    norms = gramian.diagonal().clamp_min(0).sqrt()
    return (gramian / torch.outer(norms, norms)).where(torch.outer(norms, norms) > 0, torch.nan).clamp(-1, 1)


def scale_gradient(x: Tensor, scale: Tensor) -> Tensor:
    """Return x itself, whose gradient is multiplied on its way back."""
    held = x.detach()
    return held + scale * (x - held)


def gramian_weighting(balancing: str, objectives: int) -> Callable[[Tensor], Tensor]:
    """Return what maps a Gramian (K, K) to the weights (K,) of the gradients in their combination.

    Args:
        balancing: out of `SURGERIES`.
        objectives: number of objectives K.

    Raises:
        ImportError: torchjd is missing.

    Source: Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020, algorithm 1; Sener and Koltun,
    Multi-Task Learning as Multi-Objective Optimization, NeurIPS 2018, algorithm 2; Liu et al., Conflict-Averse Gradient
    Descent, NeurIPS 2021, algorithm 1; Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022, algorithm 1;
    Senushkin et al., Independent Component Alignment, CVPR 2023, algorithm 1.
    """
    try:
        from torchjd import aggregation  # an extra's
    except ImportError:
        raise ImportError(
            f"balancing must have torchjd installed for {balancing}; got none: pip install steelyard[balancing]"
        ) from None
    if balancing == "nash":
        return NashWeighting(objectives)
    made: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
        "pcgrad": aggregation.PCGradWeighting,
        "mgda": aggregation.MGDAWeighting,
        "cagrad": lambda: aggregation.CAGradWeighting(c=CAGRAD_RADIUS),
        "aligned": aggregation.AlignedMTLWeighting,
    }
    return partial(_of_unit_trace, weighting=made[balancing]())


def _of_unit_trace(gramian: Tensor, *, weighting: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the weights of a Gramian brought to one scale, lest short gradients be taken for none."""
    return weighting(gramian / gramian.trace())


class NashWeighting:
    """Weights α of a bargain between objectives: Gramian · α = 1 / α, to a common factor.

    torchjd's solver reads gradients side by side; any K by K root of the Gramian has the same inner products.

    Args:
        objectives: number of objectives K.
    """

    def __init__(self, objectives: int) -> None:
        from torchjd.aggregation import NashMTL

        self.solver = NashMTL(n_tasks=objectives)

    def __call__(self, gramian: Tensor) -> Tensor:
        """Map a Gramian (K, K) to weights (K,)."""
        values, vectors = torch.linalg.eigh(gramian)
        root = vectors * values.clamp_min(0).sqrt()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not DPP.*|.*may be inaccurate.*")  # a bargain need not be
            weights: Tensor = self.solver.weighting(root)
        return weights

    def reset(self) -> None:
        """Forget the last bargain, where the next search would start."""
        self.solver.reset()
