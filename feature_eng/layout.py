"""Where each feature stands in the packed arrays that a plan writes and a ranker reads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

# The one number of a shop that has none, always 0; no column of a schema may have this name.
NO_NUMBER = "__zero__"


@dataclass(frozen=True)
class Slot:
    """One categorical feature: `width` adjacent columns of ids below `cardinality`, 0 where a list has ended."""

    name: str
    cardinality: int
    width: int = 1
    embedding: int | None = None


@dataclass(frozen=True)
class Layout:
    """The columns of `categorical` int32 (B, S) and `continuous` float32 (B, D), in order."""

    categorical: tuple[Slot, ...]
    continuous: tuple[str, ...]

    @property
    def categorical_width(self) -> int:
        """S, the number of columns of `categorical`."""
        return sum(slot.width for slot in self.categorical)

    def to_json(self) -> dict[str, Any]:
        """Return a form that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Layout:
        """Read what `to_json` wrote."""
        return cls(tuple(Slot(**slot) for slot in raw["categorical"]), tuple(raw["continuous"]))
