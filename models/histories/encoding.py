"""Vectors of all slots, where some lists are read beside the slot that they are the history of."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def check_targets(widths: Sequence[int], embeddings: Sequence[int], targets: Sequence[int]) -> None:
    """Refuse targets that no history can be read beside.

    Args:
        widths: columns of each slot, (C,).
        embeddings: width of each slot's vector, (C,).
        targets: index of the slot that each list is a history of, or -1, (C,).

    Raises:
        ValueError: naming the rule and the slot.
    """
    if len(targets) != len(widths):
        raise ValueError(f"history_targets must name one slot, or -1, per slot; got {len(targets)} for {len(widths)}")
    for slot, target in enumerate(targets):
        if not -1 <= target < len(widths):
            raise ValueError(f"history_targets must be -1 or a slot's index; got {target}")
        if target < 0:
            continue
        if widths[slot] < 2 or widths[target] != 1:
            raise ValueError(f"history_targets must lead from a list to a single slot; got {target} for slot {slot}")
        if embeddings[slot] != embeddings[target]:
            raise ValueError(
                f"history_targets must have vectors as wide as their history's; got {embeddings[target]} for "
                f"{embeddings[slot]} of slot {slot}"
            )


def places(widths: Sequence[int], targets: Sequence[int]) -> list[int]:
    """Return the slot of every place, where each column of a history is a place and any other slot is one."""
    counts = [width if target >= 0 else 1 for width, target in zip(widths, targets, strict=True)]
    return [slot for slot, count in enumerate(counts) for _ in range(count)]


class HistoryEncoding(nn.Module):
    """Slots' vectors from the vectors of `places`: histories are encoded, all others pass.

    Args:
        widths: columns of each slot in `categorical`, (C,), summing to S.
        embeddings: width of each slot's vector, (C,).
        targets: index of the slot that each list is a history of, or -1, (C,).
        begins: where each place's vector begins, in the order of `places`.
        encoder: makes the encoder of a history from the width of its vectors and its number of columns.

    Raises:
        ValueError: see `check_targets`.
    """

    plain: Tensor

    def __init__(
        self,
        widths: Sequence[int],
        embeddings: Sequence[int],
        targets: Sequence[int],
        begins: Sequence[int],
        encoder: Callable[[int, int], nn.Module],
    ) -> None:
        super().__init__()
        check_targets(widths, embeddings, targets)
        slot_of = places(widths, targets)
        first = [begins[slot_of.index(slot)] for slot in range(len(widths))]  # a history's places are side by side
        histories = [slot for slot, target in enumerate(targets) if target >= 0]
        others = [slot for slot, target in enumerate(targets) if target < 0]
        kept = [torch.arange(first[slot], first[slot] + embeddings[slot]) for slot in others]
        self.register_buffer("plain", torch.cat(kept), persistent=False)
        self.columns = [sum(widths[:slot]) for slot in histories]
        self.lengths = [widths[slot] for slot in histories]
        self.embeddings = [embeddings[slot] for slot in histories]
        self.first = [first[slot] for slot in histories]
        self.targets = [first[targets[slot]] for slot in histories]
        self.encoders = nn.ModuleList(encoder(embeddings[slot], widths[slot]) for slot in histories)
        order = [*others, *histories]
        self.begins = [sum(embeddings[s] for s in order[: order.index(slot)]) for slot in range(len(widths))]

    def forward(self, categorical: Tensor, vectors: Tensor) -> Tensor:
        """Map ids (B, S) and places' vectors to slots' vectors (B, Σ E), beginning at `begins`."""
        encoded = [vectors.index_select(1, self.plain)]
        for index, encoder in enumerate(self.encoders):
            length, embedding = self.lengths[index], self.embeddings[index]
            column, begin, target = self.columns[index], self.first[index], self.targets[index]
            history = vectors[:, begin : begin + length * embedding].unflatten(1, (length, embedding))
            filled = categorical[:, column : column + length] > 0
            encoded.append(encoder(history, filled, vectors[:, target : target + embedding]))
        return torch.cat(encoded, 1)
