"""What a request carries, and how ids and nulls are written: all that serving needs to know of a schema."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Role = Literal["user", "item", "context"]
Dtype = Literal["int64", "string", "float32", "float64"]

# Ids of the values that a vocabulary does not list; the first listed value gets VOCABULARY_START.
PADDING_ID, NULL_ID, UNSEEN_ID, RARE_ID, VOCABULARY_START = 0, 1, 2, 3, 4
# How a null is written where the dtype has none of its own: in cleaned logs, plans and requests.
NULL_INT = -(2**63)
NULL_STRING = ""


@dataclass(frozen=True)
class Input:
    """One raw column of a request; a list column travels as `name__values` and `name__offsets`."""

    name: str
    role: Role
    dtype: Dtype
    is_list: bool = False

    @cached_property
    def tensors(self) -> tuple[str, ...]:
        """Names of the arrays that carry the column."""
        return (f"{self.name}__values", f"{self.name}__offsets") if self.is_list else (self.name,)
