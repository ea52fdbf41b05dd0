"""What is wrong with a schema: each fault with its path in the file and the rule that it breaks."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from feature_eng.schema import (
    Blend,
    Categorical,
    CategoricalList,
    Column,
    Continuous,
    DerivedColumn,
    GroupStatistic,
    Objective,
    RawColumn,
    Schema,
    Step,
    TargetEncoding,
    Text,
    TimePart,
    Timestamp,
)

Path_ = tuple[str | int, ...]


def find_faults(raw: dict[str, Any]) -> Iterator[tuple[Path_, str]]:
    """Find the faults of each part on its own, then those between the parts that are sound."""
    top = {key: value for key, value in raw.items() if key not in ("columns", "objectives")}
    stand_in = {
        "columns": [{"name": "x", "role": "item", "kind": "timestamp"}],
        "objectives": [{"name": "y", "kind": "binary", "label": "y"}],
    }
    yield from _part_faults(TypeAdapter(Schema), top | stand_in, ())
    parts: dict[str, list[tuple[int, Any]]] = {"columns": [], "objectives": []}
    adapters: dict[str, TypeAdapter[Any]] = {"columns": TypeAdapter(Column), "objectives": TypeAdapter(Objective)}
    for key, sound in parts.items():
        listed = raw.get(key)
        if not isinstance(listed, list) or not listed:
            yield (key,), f"must be a list with at least one entry; got {listed!r}"
            continue
        for index, entry in enumerate(listed):
            found = list(_part_faults(adapters[key], entry, (key, index)))
            yield from found
            if not found:
                sound.append((index, adapters[key].validate_python(entry)))
    yield from _cross_faults(raw, parts["columns"], parts["objectives"])


def _part_faults(adapter: TypeAdapter[Any], value: Any, at: Path_) -> Iterator[tuple[Path_, str]]:
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        for found in error.errors():
            # a discriminated union puts the kind's name into the path, which the file does not have
            location = tuple(part for part in found["loc"] if part not in _KINDS or part in _keys(value))
            yield (*at, *location), _rule(found, value)


_KINDS = {"categorical", "categorical_list", "text", "continuous", "timestamp"} | {
    "hashed",
    "target_encoding",
    "group_statistic",
    "time_part",
}


def _keys(value: Any) -> set[Any]:
    return set(value) if isinstance(value, dict) else set()


def _rule(found: Any, value: Any) -> str:
    kind, context, given = found["type"], found.get("ctx", {}), found["input"]
    if kind == "extra_forbidden":
        known = _known_keys(value, found["loc"])
        return f"is not a known key{_nearest(str(found['loc'][-1]), known)}; known: {', '.join(sorted(known))}"
    if kind == "missing":
        return "must be given; got nothing"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = context.get("tag", "nothing")
        return f"kind must be one of {', '.join(sorted(_KINDS))}; got {tag}{_nearest(str(tag), _KINDS)}"
    if kind == "literal_error":
        choices = str(context["expected"]).replace("'", "")
        near = _nearest(str(given), set(choices.replace(" or ", ", ").split(", ")))
        return f"must be {choices}; got {given!r}{near}"
    if kind == "string_pattern_mismatch":
        return f"must be a letter followed by letters, digits or _; got {given!r}"
    message = found["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be", "must be")
    return message if "; got" in message else f"{message}; got {given!r}"


def _known_keys(value: Any, location: Path_) -> set[str]:
    """Return the keys of the model that the raw mapping around a location is meant to be."""
    if "blend" in location[:-1]:
        return set(Blend.model_fields)
    if "transform" in location[:-1]:
        return set(Step.model_fields)
    if "kind" in _keys(value) and value["kind"] in _KINDS:
        models = [m for m in (*RawColumn.__args__, *DerivedColumn.__args__) if _kind(m) == value["kind"]]
        return set(models[0].model_fields)
    if "columns" in _keys(value):
        return set(Schema.model_fields)
    return set(Objective.model_fields)


def _kind(model: type[BaseModel]) -> str:
    return str(model.model_fields["kind"].annotation.__args__[0])  # type: ignore[union-attr]


def _nearest(word: str, known: set[str]) -> str:
    match = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f" (did you mean {match[0]}?)" if match else ""


def _cross_faults(
    raw: dict[str, Any], columns: list[tuple[int, Any]], objectives: list[tuple[int, Any]]
) -> Iterator[tuple[Path_, str]]:
    """Find the faults between parts; a name counts as declared even where its own entry has a fault."""
    yield from _repeated("columns", columns)
    yield from _repeated("objectives", objectives)
    yield from _taken_names(columns)
    sound = {column.name: column for _, column in columns}
    named = _names(raw.get("columns"))
    goals = _names(raw.get("objectives"))
    labels = {objective.label for _, objective in objectives}
    yield from _key_faults(raw, sound)
    blend = raw.get("blend")
    for name in sorted(_keys(blend.get("weights")) - set(goals), key=str) if isinstance(blend, dict) else ():
        yield ("blend", "weights", name), f"must be an objective{_nearest(str(name), set(goals))}; got {name}"
    for index, column in columns:
        if column.name in labels:
            yield ("columns", index, "name"), f"must not be a label, which serving does not have; got {column.name}"
        if isinstance(column, DerivedColumn):
            for key, rule in _derived_faults(column, sound, named, goals, raw.get("time")):
                yield ("columns", index, key), rule
        if isinstance(column, CategoricalList) and column.history_of is not None:
            for key, rule in _history_faults(column, column.history_of, sound, named):
                yield ("columns", index, key), rule
    by_name = {objective.name: objective for _, objective in objectives}
    for index, objective in objectives:
        for rule in _chain_faults(objective, by_name, goals):
            yield ("objectives", index, "given"), rule
        for key, rule in _learning_faults(objective, by_name):
            yield ("objectives", index, key), rule
    yield from _position_faults(raw, columns, labels)


def _names(entries: Any) -> list[str]:
    listed = entries if isinstance(entries, list) else []
    return [str(entry["name"]) for entry in listed if isinstance(entry, dict) and "name" in entry]


def _chain_faults(objective: Objective, sound: dict[str, Objective], names: list[str]) -> Iterator[str]:
    given = objective.given
    if given is None:
        return
    if given not in names:
        yield f"must be an objective{_nearest(given, set(names))}; got {given}"
    elif given in sound and sound[given].kind != "binary":
        yield f"must be a binary objective; got {given}, a {sound[given].kind}"
    elif names.index(given) >= names.index(objective.name):
        yield f"must stand before {objective.name}; got {given}"


_ONLY = {
    "binary": ("positive_weight", "label_smoothing", "focusing", "negatives"),
    "value": ("loss", "quantile"),
    "given": ("estimator", "propensity_floor", "entire_space_weight"),
}


def _learning_faults(objective: Objective, sound: dict[str, Objective]) -> Iterator[tuple[str, str]]:
    """Find ways of learning that do not go with the objective's kind, its chain or each other."""
    told = objective.model_fields_set
    for kind in ("binary", "value"):
        for key in _ONLY[kind]:
            if key in told and objective.kind != kind:
                yield key, f"must be left out for a {objective.kind} objective; got {getattr(objective, key)}"
    for key in _ONLY["given"]:
        if key in told and (objective.kind != "binary" or objective.given is None):
            yield key, f"must be left out but for a binary objective with a given; got {getattr(objective, key)}"
    if "quantile" in told and objective.kind == "value" and objective.loss != "quantile":
        yield "quantile", f"must be left out unless loss is quantile; got {objective.quantile} with {objective.loss}"
    if objective.loss == "quantile" and objective.kind == "value" and "quantile" not in told:
        yield "quantile", "must be given where loss is quantile; got nothing"
    if objective.given is not None and objective.kind == "binary":
        if "propensity_floor" in told and objective.estimator not in ("ipw", "dr"):
            rule = "must be left out unless estimator is ipw or dr"
            yield "propensity_floor", f"{rule}; got {objective.propensity_floor} with {objective.estimator}"
        if "entire_space_weight" in told and objective.estimator == "esmm":
            rule = "must be left out unless estimator is ipw, dr or entire_space"
            yield "entire_space_weight", f"{rule}; got {objective.entire_space_weight} with esmm"
    if objective.kind == "binary" and objective.negatives < 1:
        others = [o.name for o in sound.values() if not _follows(o, objective.name, sound)]
        if objective.given is not None:
            yield "negatives", f"must be left out for an objective with a given; got {objective.negatives}"
        elif others:
            rule = "must be left out unless each other objective is given this one, at once or through others"
            yield "negatives", f"{rule}; got {objective.negatives} beside {', '.join(others)}"


def _follows(objective: Objective, root: str, sound: dict[str, Objective]) -> bool:
    """Whether an objective is `root` or is given it, at once or through others."""
    seen: set[str] = set()
    at: Objective | None = objective
    while at is not None and at.name not in seen:
        if at.name == root:
            return True
        seen.add(at.name)
        at = sound.get(at.given or "")
    return False


def _position_faults(
    raw: dict[str, Any], columns: list[tuple[int, Any]], labels: set[str]
) -> Iterator[tuple[Path_, str]]:
    position = raw.get("position")
    if position in {column.name for _, column in columns}:
        yield ("position",), f"must not be a declared column, which serving would need; got {position}"
    if position in labels or position in {raw.get(key) for key in ("request", "user", "item", "time")} - {None}:
        yield ("position",), f"must be a column of its own, no label and no key; got {position}"


def _repeated(key: str, parts: list[tuple[int, Any]]) -> Iterator[tuple[Path_, str]]:
    seen: dict[str, int] = {}
    for index, part in parts:
        if part.name in seen:
            yield (key, index, "name"), f"must be unique; got {part.name}, which entry {seen[part.name]} has"
        seen.setdefault(part.name, index)


def _taken_names(columns: list[tuple[int, Any]]) -> Iterator[tuple[Path_, str]]:
    """Find columns that are called like the arrays of a list's values, offsets or cells."""
    lists = {column.name for _, column in columns if isinstance(column, (CategoricalList, Text))}
    for index, column in columns:
        stem, _, end = column.name.rpartition("__")
        if stem in lists and (end in ("values", "offsets") or end.isdigit()):
            yield ("columns", index, "name"), f"must not be the name of an array of {stem}; got {column.name}"


def _key_faults(raw: dict[str, Any], declared: dict[str, Any]) -> Iterator[tuple[Path_, str]]:
    for key, role in (("user", "user"), ("item", "item")):
        name = raw.get(key)
        if not isinstance(name, str) or name not in declared:
            continue
        column = declared[name]
        if not isinstance(column, Categorical) or column.role != role:
            yield (key,), f"must be a categorical column of role {role}; got {name}"
    time = declared.get(raw.get("time") or "")
    if time is not None and not isinstance(time, Timestamp):
        yield ("time",), f"must be a column of kind timestamp where it is declared; got {time.name}, a {time.kind}"
    if declared and not any(not isinstance(c, Timestamp) and getattr(c, "feature", True) for c in declared.values()):
        yield ("columns",), "must hold at least one feature; got none"


def _derived_faults(
    column: Any, sound: dict[str, Any], named: list[str], goals: list[str], time: Any
) -> Iterator[tuple[str, str]]:
    wanted: Any = Timestamp if isinstance(column, TimePart) else Categorical
    kind = "timestamp" if isinstance(column, TimePart) else "categorical"
    roles = set()
    if len(set(column.of)) < len(column.of):
        yield "of", f"must name each column once; got {', '.join(column.of)}"
    for name in column.of:
        if name in sound and isinstance(sound[name], wanted):
            roles.add(sound[name].role)
        elif name in sound:
            yield "of", f"must name {kind} columns; got {name}, a {sound[name].kind}"
        elif name == time and isinstance(column, TimePart):
            roles.add("context")
        elif name not in named:
            yield "of", f"must name declared columns{_nearest(name, set(named))}; got {name}"
    role = next((r for r in ("item", "context", "user") if r in roles), None)
    if column.role and role and column.role != role:
        yield "role", f"must be {role}, which follows from {', '.join(column.of)}; got {column.role}"
    if isinstance(column, TargetEncoding) and column.target not in goals:
        yield "target", f"must be an objective{_nearest(column.target, set(goals))}; got {column.target}"
    if isinstance(column, GroupStatistic):
        if column.statistic == "count" and column.column is not None:
            yield "column", f"must be left out for a count; got {column.column}"
        of = sound.get(column.column or "")
        if column.statistic != "count" and (column.column not in named or (of and not isinstance(of, Continuous))):
            yield "column", f"must name a continuous column for a {column.statistic}; got {column.column}"
    if isinstance(column, TimePart) and len(column.of) != (2 if column.part == "age_days" else 1):
        count = "two columns, later and earlier" if column.part == "age_days" else "one column"
        yield "of", f"must name {count} for {column.part}; got {', '.join(column.of)}"


def _history_faults(
    column: CategoricalList, of: str, sound: dict[str, Any], named: list[str]
) -> Iterator[tuple[str, str]]:
    """Find what keeps a list from having the vocabulary and the vectors of the column that it is a history of."""
    if of not in named:
        yield "history_of", f"must name a declared column{_nearest(of, set(named))}; got {of}"
    target = sound.get(of)
    if target is None:
        return
    if not isinstance(target, Categorical) or not target.feature:
        yield "history_of", f"must name a categorical feature; got {of}"
        return
    if "min_count" in column.model_fields_set:
        yield "min_count", f"must be left out for a history, whose vocabulary is that of {of}; got {column.min_count}"
    if column.embedding != target.embedding:
        yield "embedding", f"must be {target.embedding}, as that of {of}; got {column.embedding}"
    if column.dtype and target.dtype and column.dtype != target.dtype:
        yield "dtype", f"must be {target.dtype}, as that of {of}; got {column.dtype}"


def line_of(root: yaml.Node | None, path: Path_) -> int:
    """Return the 1-based line of the deepest part of a path that the file has."""
    node, line = root, 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def dotted(path: Path_) -> str:
    """Return a path as `columns[2].name`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".") or "schema"
