"""What a log must hold to, and what is done about the rows that do not."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from feature_eng.inputs import NULL_INT, NULL_STRING
from feature_eng.log_encoding import TRUTH, Encoded, Mask
from feature_eng.schema import Objective, Schema, SchemaError

Policy = Literal["error", "drop", "fill"]
Labels = dict[str, npt.NDArray[np.float32]]


class LogPolicies(BaseModel):
    """What each check does with the rows it finds: `error` stops, `drop` drops and counts them, `fill` mends them.

    | check          | finds                                                    | fill writes       | default |
    |----------------|----------------------------------------------------------|-------------------|---------|
    | dtypes         | a value that is not of the column's dtype                | null              | error   |
    | timestamps     | a moment that does not parse; no moment in `time`        | null              | error   |
    | keys           | a row without its request                                | (refused)         | error   |
    | missing_labels | a label that is null, NaN or infinite                    | 0                 | error   |
    | labels         | a binary label outside {0, 1}                            | (refused)         | error   |
    | negatives      | a value label below 0                                    | 0                 | error   |
    | values         | a value without the conversion it is given               | value 0           | error   |
    | conversions    | a conversion without the click it is given               | click 1           | error   |
    | non_finite     | NaN or infinity in a continuous column                   | null              | fill    |
    | duplicates     | a (request, item), or without requests (user, item, time), seen before | (refused) | drop  |

    Checks run in this order, each on the rows that drops before it left, as fills before it left them. Missing columns
    are an error always.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtypes: Policy = "error"
    timestamps: Policy = "error"
    keys: Literal["error", "drop"] = "error"
    missing_labels: Policy = "error"
    labels: Literal["error", "drop"] = "error"
    negatives: Policy = "error"
    values: Policy = "error"
    conversions: Policy = "error"
    non_finite: Policy = "fill"
    duplicates: Literal["error", "drop"] = "drop"


RULES = {
    "dtypes": "must hold values of its dtype",
    "timestamps": "must hold moments that parse",
    "keys": "must name each row's request",
    "missing_labels": "must be finite in each row",
    "labels": "must be 0 or 1",
    "negatives": "must be at least 0",
    "values": "must be 0 where its conversion is 0",
    "conversions": "must be 0 where the label it is given is 0",
    "non_finite": "must be finite or null",
    "duplicates": "must be unique within a request",
}


@dataclass(frozen=True)
class Finding:
    """Rows of one column that one check found in one piece; `row` is the first of them."""

    check: str
    column: str
    count: int
    row: int


@dataclass(frozen=True)
class Checked:
    """A piece after the fills: its columns, the rows that stay, what was found."""

    columns: dict[str, pa.Array]
    kept: Mask
    found: tuple[Finding, ...]


def check_columns(files: Iterable[tuple[str, list[str]]], wanted: Iterable[str]) -> None:
    """Check that each file has the wanted columns.

    Args:
        files: the name and the columns of each file.
        wanted: columns that the schema needs.

    Raises:
        SchemaError: with every missing column, and the nearest that is there.
    """
    wanted = list(wanted)
    faults: dict[str, str] = {}
    for name, columns in files:
        for missing in (column for column in wanted if column not in columns):
            near = difflib.get_close_matches(missing, columns, n=1, cutoff=0.6)
            hint = f" (did you mean {near[0]}?)" if near else ""
            faults.setdefault(missing, f"{missing} must be a column of the log; got none in {name}{hint}")
    if faults:
        raise SchemaError(list(faults.values()))


def check_rows(encoded: Encoded, schema: Schema, policies: LogPolicies) -> Checked:
    """Run every check but the one for duplicates on a piece of a log.

    Args:
        encoded: the piece in canonical form.
        schema: with its dtypes resolved.
        policies: what to do with the rows found; under `error` rows stay and the caller raises.
    """
    columns = dict(encoded.columns)
    kept = np.ones(len(next(iter(columns.values()))), bool)
    found: list[Finding] = []
    labels: Labels = {name: columns[name].to_numpy(False).copy() for name in schema.label_columns if name in columns}
    for check, name, offending in _offences(encoded, schema, labels, policies):
        mask = offending & kept
        if mask.any():
            found.append(Finding(check, name, int(mask.sum()), int(mask.argmax())))
            if getattr(policies, check) == "drop":
                kept &= ~mask
    columns.update({name: pa.array(values) for name, values in labels.items()})
    return Checked(columns, kept, tuple(found))


def _offences(
    encoded: Encoded, schema: Schema, labels: Labels, policies: LogPolicies
) -> Iterator[tuple[str, str, Mask]]:
    """Find offending rows check by check; fill labels on the way, so that later checks see them."""
    moments = {column.name for column in schema.columns if column.kind == "timestamp"} | {schema.time}
    for name, mask in encoded.unreadable.items():
        if name not in moments:
            yield "dtypes", name, mask
    for name in encoded.columns:
        if name in moments:
            mask = encoded.unreadable.get(name, np.zeros(len(encoded.columns[name]), bool))
            yield "timestamps", name, mask | is_null(encoded.columns[name]) if name == schema.time else mask
    if schema.request in encoded.columns:
        yield "keys", schema.request, is_null(encoded.columns[schema.request])
    yield from _label_offences(schema, labels, policies)
    for name, mask in encoded.non_finite.items():
        if name not in labels and not name.startswith(TRUTH):
            yield "non_finite", name, mask


def _label_offences(schema: Schema, labels: Labels, policies: LogPolicies) -> Iterator[tuple[str, str, Mask]]:
    objectives = {objective.label: objective for objective in schema.objectives if objective.label in labels}
    for name, values in labels.items():
        yield _filled("missing_labels", name, np.isnan(values), values, 0, policies)
    for name, objective in objectives.items():
        values = labels[name]
        if objective.kind == "binary":
            yield "labels", name, ~np.isnan(values) & (values != 0) & (values != 1)
        else:
            yield _filled("negatives", name, values < 0, values, 0, policies)
    parents = {objective.name: objective.label for objective in schema.objectives}
    chained = [(child, labels[parents[child.given]]) for child in _chained(schema, labels) if child.given]
    for child, given in chained:
        if child.kind == "value":
            mask = (labels[child.label] > 0) & (given == 0)
            yield _filled("values", child.label, mask, labels[child.label], 0, policies)
    # children come after their parents in a schema, so a click is filled before what that click itself is given
    for child, given in reversed(chained):
        if child.kind == "binary":
            mask = (labels[child.label] == 1) & (given == 0)
            yield _filled("conversions", child.label, mask, given, 1, policies)


def _chained(schema: Schema, labels: Labels) -> list[Objective]:
    by_name = {objective.name: objective for objective in schema.objectives}
    return [o for o in schema.objectives if o.given and o.label in labels and by_name[o.given].label in labels]


def _filled(
    check: str, name: str, mask: Mask, values: npt.NDArray[np.float32], fill: float, policies: LogPolicies
) -> tuple[str, str, Mask]:
    if getattr(policies, check) == "fill":
        values[mask] = fill
    return check, name, mask


def is_null(values: pa.Array) -> Mask:
    """Return which canonical values stand for null."""
    if pa.types.is_string(values.type):
        equal = pc.equal(values, NULL_STRING)
        return np.asarray(equal.to_numpy(zero_copy_only=False), bool)
    if pa.types.is_list(values.type):
        return np.asarray(pc.list_value_length(values).to_numpy() == 0)
    numbers = values.to_numpy()
    return np.asarray(numbers == NULL_INT if numbers.dtype == np.int64 else np.isnan(numbers))


def refusal(check: str, column: str, found: int, rows: int, example: str) -> str:
    """Say what a check found, and which other policies would let the log through."""
    allowed = get_args(LogPolicies.model_fields[check].annotation)
    others: dict[str, Callable[[], str]] = {
        "drop": lambda: f"{check}: drop would drop them",
        "fill": lambda: f"{check}: fill would write {FILLS[check]}",
    }
    ways = ", ".join(others[policy]() for policy in allowed if policy in others)
    return f"{column} {RULES[check]}; got {found:,} of {rows:,} rows ({found / rows:.3%}), {example}; {ways}"


FILLS = {
    "dtypes": "null",
    "timestamps": "null",
    "missing_labels": "0",
    "negatives": "0",
    "values": "0",
    "conversions": "1 into the label it is given",
    "non_finite": "null",
}
