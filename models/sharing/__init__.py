"""How objectives share what they learn: the architectures between a ranker's inputs and its towers, by name."""

from collections.abc import Callable, Sequence

from torch import nn

from models.sharing.aitm import InformationTransfer
from models.sharing.mmoe import MultiGateMixture
from models.sharing.ple import ProgressiveExtraction
from models.sharing.shared_bottom import SharedBottom


def shared_bottom(inputs: int, widths: Sequence[int], parents: Sequence[int], dropout: float, **_: int) -> nn.Module:
    """Return one perceptron for all objectives."""
    return SharedBottom(inputs, widths, len(parents), dropout)


def mmoe(
    inputs: int, widths: Sequence[int], parents: Sequence[int], dropout: float, *, experts: int, **_: int
) -> nn.Module:
    """Return a mixture of experts for each objective; of one expert, that is a shared bottom."""
    if experts == 1:
        return SharedBottom(inputs, widths, len(parents), dropout)
    return MultiGateMixture(inputs, experts, widths, len(parents), dropout)


def ple(
    inputs: int,
    widths: Sequence[int],
    parents: Sequence[int],
    dropout: float,
    *,
    experts: int,
    task_experts: int,
    levels: int,
) -> nn.Module:
    """Return levels of shared experts and of experts of one objective."""
    return ProgressiveExtraction(inputs, experts, task_experts, levels, widths, len(parents), dropout)


def aitm(inputs: int, widths: Sequence[int], parents: Sequence[int], dropout: float, **_: int) -> nn.Module:
    """Return a perceptron for each objective that also reads its parent's."""
    return InformationTransfer(inputs, widths, parents, dropout)


# Each takes the width I of the input, widths, parents, dropout and the numbers `experts`, `task_experts` and `levels`;
# it gives a module with `outputs`, a width H, that maps (B, I) to (K, B, H).
SHARING: dict[str, Callable[..., nn.Module]] = {
    "mmoe": mmoe,
    "shared_bottom": shared_bottom,
    "ple": ple,
    "aitm": aitm,
}
