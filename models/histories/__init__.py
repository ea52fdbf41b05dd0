"""How a list of past values becomes one vector that depends on a row's target slot: encoders, by name."""

from collections.abc import Callable

from torch import nn

from models.histories.attention import TargetAttention
from models.histories.transformer import HistoryTransformer


def attention(embedding: int, length: int, dropout: float, *, width: int, layers: int) -> nn.Module:
    """Return DIN's attention unit, whatever `length`, `dropout` and `layers` are."""
    return TargetAttention(embedding, width)


def transformer(embedding: int, length: int, dropout: float, *, width: int, layers: int) -> nn.Module:
    """Return a causal Transformer over the history and the target, whatever `width` is."""
    return HistoryTransformer(embedding, length, layers, dropout)


# Each takes the width E of a vector, the longest history W, dropout and the numbers `width` and `layers`; it gives a
# module that maps a history (B, W, E), whether each place is filled (B, W) and a target (B, E) to (B, E).
HISTORIES: dict[str, Callable[..., nn.Module]] = {"attention": attention, "transformer": transformer}
