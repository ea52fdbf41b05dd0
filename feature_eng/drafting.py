"""Drafts a schema from a log: guesses, each with its reason, for a person to review."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from feature_eng.inputs import Role
from feature_eng.log_encoding import TRUTH
from feature_eng.log_profile import TIME_NAME, Numbers, Profile, betrays, constancy, profile_log, separation
from feature_eng.log_sources import Paths, log_files

_ID_END = r"(_?(id|no|code|key|uid|hash|number))?"
_KEYS = {
    "request": rf"(request|impression|query|search|session|slate|invoice){_ID_END}",
    "user": rf"(user|customer|visitor|member|client|shopper){_ID_END}|uid",
    "item": rf"(item|product|video|sku|article|listing|movie|ad){_ID_END}|pid",
}
_LABEL = (
    r"click|purchase|bought|buy|order|conver|like|cart|follow|share|forward|comment|revenue|view|recommended|favou?rite|"
    r"save|subscri|book|install"
)
_NEGATIVE = r"hate|dislike|report|hide|unlike|unsubscri|block"
_VALUE = r"(^|_)value|revenue|amount|gmv|spen[dt]|paid|play_?time|watch_?time|dwell|profit|total"
_ID = r"(^|_)(id|code|type|category|tab|class|brand|region|hour|weekday|month)s?$|id$"
_AFTERMATH = r"(^|_)(stay|dwell|enter|finish|completed?|scroll|watch)(ed)?(_|$)"
_PER_CANDIDATE = r"position|rank|slot|score|price|distance"

# columns that tell a label this well alone are taken for its consequences
LEAK_AUC = 0.85
# a conversion may lack its click this often and still be chained; the policy for conversions mends the rest
LOOSE_CHAIN = 0.01
_MIN_POSITIVES = 20


@dataclass
class _Draft:
    """The guesses so far."""

    keys: dict[str, Profile] = field(default_factory=dict)
    labels: list[tuple[str, Profile, str | None, str]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)


def draft_schema(paths: Paths) -> str:
    """Draft a schema, as YAML that `parse_schema` reads, from a sample of a log.

    Every guess carries a comment `# review: why`; columns that were left out are listed with the reason.

    Raises:
        FileNotFoundError: a path stands for no file.
        ValueError: the log has no rows, no column that can be a label, or none that can be a feature.
    """
    columns, draft = [], _Draft()
    for profile in profile_log(paths):
        if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", profile.name) and not profile.name.startswith(TRUTH):
            columns.append(profile)
        elif not profile.name.startswith((TRUTH, "__")):
            draft.left_out.append((profile.name, "rename it: letters, digits and _, a letter first"))
    _guess_keys(columns, draft)
    _guess_labels(columns, draft)
    features = list(_features(columns, draft))
    if not features:
        raise ValueError(f"log must have at least one feature column; got {', '.join(c.name for c in columns)}")
    first = log_files(paths)[0]
    return "\n".join(_yaml(_schema_name(first), draft, features)) + "\n"


def _schema_name(file: Path) -> str:
    return re.sub(r"^[^A-Za-z]+|[^A-Za-z0-9_-]", "", re.sub(r"\s+", "_", file.stem)) or "shop"


def _named(columns: Iterable[Profile], pattern: str) -> list[Profile]:
    return [column for column in columns if re.search(pattern, column.name, re.IGNORECASE)]


def _guess_keys(columns: Sequence[Profile], draft: _Draft) -> None:
    for key, pattern in _KEYS.items():
        named = [c for c in columns if re.fullmatch(pattern, c.name, re.IGNORECASE)]
        found = [c for c in named if c.shape in ("integer", "string") and c.distinct > 2]
        if found:
            draft.keys[key] = max(found, key=lambda column: column.distinct)
    moments = [c for c in _named(columns, TIME_NAME) if c.shape == "moment"]
    item = draft.keys.get("item")
    moments = [c for c in moments if item is None or not constancy(item.codes, c.codes) > 0.99]
    if moments:
        draft.keys["time"] = max(moments, key=lambda column: column.distinct)


def _guess_labels(columns: Sequence[Profile], draft: _Draft) -> None:
    binary = [c for c in columns if c.is_binary]
    wanted = [c for c in _named(binary, _LABEL) if not re.search(_NEGATIVE, c.name, re.IGNORECASE)]
    wanted = wanted or binary[-1:]
    if not wanted:
        raise ValueError(f"log must have a 0/1 column to be a label; got {', '.join(c.name for c in columns)}")
    draft.left_out += [
        (c.name, "a negative signal: as an objective it needs a weight below 0") for c in _named(binary, _NEGATIVE)
    ]
    labels: list[Profile] = []
    for column in sorted(wanted, key=lambda c: -_rate(c)):
        twin = next((c for c in labels if np.array_equal(_numbers(c), _numbers(column))), None)
        if twin is None:
            labels.append(column)
        else:
            draft.left_out.append((column.name, f"the same as {twin.name}"))
    for place, column in enumerate(labels):
        parent = _parent(_numbers(column), labels[:place])
        why = f"a 0/1 column, 1 in {_rate(column):.2%} of the sample"
        if parent:
            why += f", and {_share_without(column, parent):.2%} of them without {parent.name}"
        draft.labels.append(("binary", column, parent.name if parent else None, why))
    taken = [*draft.keys.values(), *labels]
    for column in _named((c for c in columns if c not in taken), _VALUE):
        numbers = column.numbers
        if column.shape not in ("integer", "number") or numbers is None or column.distinct < 20:
            continue
        if np.nanmin(numbers) >= 0:
            parent = _parent((np.nan_to_num(numbers) > 0).astype(float), labels)
            why = (
                f"a number, above 0 without {parent.name} in at most {LOOSE_CHAIN:.0%} of its rows"
                if parent
                else "a number named like a value"
            )
            draft.labels.append(("value", column, parent.name if parent else None, why))


def _numbers(column: Profile) -> Numbers:
    return np.zeros(len(column.codes)) if column.numbers is None else column.numbers


def _rate(column: Profile) -> float:
    return float(_numbers(column).mean())


def _share_without(column: Profile, parent: Profile) -> float:
    return float(1 - _numbers(parent)[_numbers(column) == 1].mean())


def _parent(happened: Numbers, labels: Sequence[Profile]) -> Profile | None:
    """Return the rarest label without which something all but never happened, if it happened often enough to tell."""
    if happened.sum() < _MIN_POSITIVES:
        return None
    implied = [c for c in labels if _numbers(c)[happened == 1].mean() >= 1 - LOOSE_CHAIN]
    return min(implied, key=_rate, default=None)


def _features(columns: Sequence[Profile], draft: _Draft) -> Iterator[tuple[str, str]]:
    """Describe each feature as YAML, with the reason; note the columns that are none."""
    outcomes = [label for _, label, _, _ in draft.labels]
    skipped = {name for name, _ in draft.left_out}
    for column in columns:
        if column in outcomes or column.name in skipped or column in (draft.keys.get("request"),):
            continue
        against = _reason_against(column, draft)
        if against:
            draft.left_out.append((column.name, against))
            continue
        role, why = _role(column, draft)
        kind, because = _kind(column)
        yield f"{{name: {_scalar(column.name)}, role: {role}, {kind}}}", f"{why}; {because}"
    time = draft.keys.get("time")
    names = {column.name for column in columns}
    for part in ("hour", "weekday"):
        if time is not None and f"time_{part}" not in names:
            yield (
                f"{{name: time_{part}, kind: time_part, part: {part}, of: {_scalar(time.name)}}}",
                f"the {part} of {time.name}",
            )


def _reason_against(column: Profile, draft: _Draft) -> str | None:
    """Say why a column should be no feature, if there is a reason."""
    if column in (draft.keys.get("user"), draft.keys.get("item"), draft.keys.get("time")):
        return None
    if column.distinct < 2:
        return "one value only"
    if re.search(_AFTERMATH, column.name, re.IGNORECASE):
        return "looks like a leak: named like something that follows the impression"
    if re.fullmatch(r"date|day|dt|source_?file|index|row_?id", column.name, re.IGNORECASE):
        return "says when or whence the row is, which the future does not repeat"
    if column.shape == "string" and column.words < 2 and column.distinct > 0.9 * len(column.codes):
        return "another value in almost every row"
    for kind, label, _, _ in draft.labels:
        numbers = _numbers(label)
        if kind == "value" or not _MIN_POSITIVES <= numbers.sum() <= len(numbers) - _MIN_POSITIVES:
            continue
        if betrays(column, numbers):
            return f"looks like a leak: where it is not 0, {label.name} is 1"
        few = column.shape != "list" and column.distinct < 0.05 * len(numbers)
        if few or column.numbers is not None:
            auc = separation(column, numbers)
            if auc > LEAK_AUC:
                return f"looks like a leak: it tells {label.name} alone, AUC {auc:.2f}"
    return None


def _role(column: Profile, draft: _Draft) -> tuple[Role, str]:
    user, item, request = (draft.keys.get(key) for key in ("user", "item", "request"))
    if column is user:
        return "user", "named like the user"
    if column is item:
        return "item", "named like the item"
    if column is draft.keys.get("time"):
        return "context", "the moment of the impression"
    within = {role: constancy(key.codes, column.codes) for role, key in (("item", item), ("user", user)) if key}
    if within.get("item", 0) > 0.99:
        return "item", "the same in all rows of one item"
    if within.get("user", 0) > 0.99:
        return "user", "the same in all rows of one user"
    if request is not None:
        if not constancy(request.codes, column.codes) < 0.99:
            return "context", "the same in all rows of one request"
        return "item", "differs within a request"
    if re.search(_PER_CANDIDATE, column.name, re.IGNORECASE):
        return "item", "named like something that each candidate has"
    return "context", f"differs within one {' and within one '.join(within)}" if within else "no key to tell by"


def _kind(column: Profile) -> tuple[str, str]:
    if column.shape == "moment":
        return "kind: timestamp", "moments"
    if column.shape == "list":
        return "kind: categorical_list", "several values a row"
    if column.shape == "string":
        if column.words >= 3 and column.distinct > 50:
            return "kind: text", f"{column.words:.0f} words a row"
        return _categorical(column)
    is_id = re.search(_ID, column.name, re.IGNORECASE) or re.fullmatch(
        "|".join(_KEYS.values()), column.name, re.IGNORECASE
    )
    if column.shape == "integer" and (column.distinct <= 20 or (is_id and column.distinct > 2)):
        return _categorical(column)
    numbers = _numbers(column)
    middle, top, low = float(np.nanmedian(numbers)), float(np.nanmax(numbers)), float(np.nanmin(numbers))
    if low >= 0 and top > 20 * max(middle, 1e-9):
        return "kind: continuous, transform: [log, normalize]", "numbers with a long tail"
    return "kind: continuous", "numbers"


def _categorical(column: Profile) -> tuple[str, str]:
    rare = ", min_count: 2" if column.distinct > 1000 else ""
    return f"kind: categorical{rare}", f"{column.distinct:,} values in the sample"


def _scalar(name: str) -> str:
    """Quote names such as `on` and `no`, which YAML takes for truth values."""
    return name if yaml.safe_load(name) == name else f'"{name}"'


def _yaml(title: str, draft: _Draft, features: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield "# A draft. Read every line: a name or a sample can mislead."
    yield f"name: {_scalar(title)}"
    for key, column in draft.keys.items():
        yield f"{key}: {_scalar(column.name)}  # review: named like the {key}, {column.distinct:,} values in the sample"
    yield "columns:"
    for feature, why in features:
        yield f"  - {feature}  # review: {why}"
    for column_name, why in draft.left_out:
        yield f"  # review: left out {' '.join(column_name.split())}, {why}"
    yield "objectives:"
    for kind, label, given, why in draft.labels:
        chained = f", given: {_scalar(given)}" if given else ""
        name = _scalar(label.name)
        yield f"  - {{name: {name}, kind: {kind}, label: {name}{chained}}}  # review: {why}"
