"""What a client knows of a served ranker: how users and items become its tensors, and its answers rankings."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_eng.inputs import NULL_INT, NULL_STRING, Input
from models.blending import weights_from

Array = NDArray[Any]
Row = Mapping[str, Any]
Items = Mapping[str, Any] | Sequence[Row] | Any  # columns, rows, or a DataFrame

DATATYPES = {"int64": "INT64", "string": "BYTES", "float32": "FP32"}
_DTYPES: dict[str, Any] = {"int64": np.int64, "string": np.object_, "float32": np.float32}


class RankingError(RuntimeError):
    """The server refused a request, or could not be reached."""


@dataclass(frozen=True)
class RankedItem:
    """One candidate: its item id (its index where the schema names no item), score, and predictions by objective."""

    item: Any
    score: float
    predictions: dict[str, float]
    index: int


@dataclass(frozen=True)
class ServedRanker:
    """What the server says of its ensemble."""

    inputs: tuple[Input, ...]
    objectives: tuple[str, ...]
    item: str | None
    weights: tuple[float, ...]
    max_candidates: int

    @classmethod
    def from_parameter(cls, text: str) -> ServedRanker:
        """Read the ensemble's `steelyard` parameter."""
        raw = json.loads(text)
        return cls(
            inputs=tuple(Input(**column) for column in raw["columns"]),
            objectives=tuple(raw["objectives"]),
            item=raw["item"],
            weights=tuple(raw["weights"]),
            max_candidates=raw["max_candidates"],
        )

    def tensors(self, user: Row, items: Items, weights: Mapping[str, float] | None) -> dict[str, tuple[Array, str]]:
        """Return a request's arrays with their Triton datatypes, by tensor name.

        Args:
            user: the user's and the context's values by column; None is a null.
            items: a list of mappings, a mapping of columns, or a DataFrame, with the item columns; others are ignored.
            weights: by objective; the server's own where absent.

        Raises:
            ValueError: a column is missing, a value does not fit its column, or a weight names no objective.
        """
        columns = _columns(items)
        if not columns:
            raise ValueError("items must hold at least one candidate; got none")
        wanted = {"item": columns, "user": user, "context": user}
        missing = [f"{i.name} ({i.role})" for i in self.inputs if i.name not in wanted[i.role]]
        if missing:
            raise ValueError(f"request must have {', '.join(missing)}; {_suggestions(self.inputs, user, columns)}")
        tensors: dict[str, tuple[Array, str]] = {}
        for given in self.inputs:
            values = columns[given.name] if given.role == "item" else [user[given.name]]
            for name, array in zip(given.tensors, _arrays(given, values), strict=True):
                offsets = given.is_list and name == given.tensors[1]
                tensors[name] = (array, "INT64" if offsets else DATATYPES[given.dtype])
        if weights is not None:
            tensors["objective_weights"] = (weights_from(self.objectives, weights), "FP32")
        return tensors

    def ranking(self, items: Items, scores: Array, predictions: Array) -> list[RankedItem]:
        """Return the candidates, the highest score first, equal ones in the order given.

        Args:
            items: as they were sent.
            scores: (N,).
            predictions: (N, K).
        """
        columns = _columns(items)
        names = list(columns[self.item]) if self.item is not None and self.item in columns else range(len(scores))
        return [
            RankedItem(
                item=names[index],
                score=float(scores[index]),
                predictions=dict(zip(self.objectives, map(float, predictions[index]), strict=True)),
                index=int(index),
            )
            for index in np.argsort(-scores, kind="stable")
        ]


def _columns(items: Items) -> Mapping[str, Any]:
    """Return items as columns."""
    if isinstance(items, Mapping):
        return items
    if hasattr(items, "columns"):
        return {str(name): items[name].to_numpy(dtype=object, na_value=None).tolist() for name in items.columns}
    rows = list(items)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _suggestions(inputs: Iterable[Input], user: Row, columns: Mapping[str, Any]) -> str:
    given = [*map(str, user), *map(str, columns)]
    unused = [name for name in given if name not in {i.name for i in inputs}]
    near = {i.name: difflib.get_close_matches(i.name, unused, n=1) for i in inputs if i.name not in given}
    hints = [f"{match[0]} may be meant as {name}" for name, match in near.items() if match]
    return f"got {', '.join(given) or 'nothing'}" + (f" ({'; '.join(hints)})" if hints else "")


def _arrays(given: Input, values: Any) -> Iterator[Array]:
    if not given.is_list:
        yield _array(given, values)
        return
    lists = [_list(given, row) for row in values]
    yield _array(given, [value for row in lists for value in row])
    yield np.cumsum([0, *map(len, lists)], dtype=np.int64)


def _list(given: Input, row: Any) -> list[Any]:
    if row is None or (isinstance(row, float) and np.isnan(row)):
        return []
    if isinstance(row, (str, bytes)) or not isinstance(row, Iterable):
        raise ValueError(f"{given.name} must hold lists of {given.dtype} values; got {row!r}")
    return list(row)


def _array(given: Input, values: Any) -> Array:
    try:
        encoded = [_encoded(given.dtype, value) for value in values]
        return np.array(encoded, dtype=_DTYPES[given.dtype])
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{given.name} must hold {given.dtype} values; got {error}") from None


def _encoded(dtype: str, value: Any) -> Any:
    """Return one value as the server wants it; None and NaN are nulls, moments become milliseconds since 1970 UTC."""
    null = value is None or value != value
    if dtype == "string":
        return NULL_STRING.encode() if null else value if isinstance(value, bytes) else str(value).encode()
    if dtype == "float32":
        return np.nan if null else float(value)
    if null:
        return NULL_INT
    if isinstance(value, (date, np.datetime64)):
        return _milliseconds(value)
    if int(value) != value:
        raise ValueError(f"{value!r}, which is no whole number")
    return int(value)


def _milliseconds(moment: date | np.datetime64) -> int:
    """Return the whole milliseconds from 1970 UTC to a moment, which is in UTC where it names no zone."""
    if isinstance(moment, datetime) and moment.tzinfo:
        moment = moment.astimezone(timezone.utc).replace(tzinfo=None)
    return int(np.datetime64(moment, "ms").astype(np.int64))
