"""The contract between a shop and the engine: columns, roles, dtypes, objectives and the blend.

A schema is read from YAML. Every fault in it is reported at once, each with its line, path and rule.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from feature_eng.inputs import Dtype, Input, Role


class SchemaError(ValueError):
    """A schema, or a log held against it, broke rules; `faults` lists every one of them."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Step(_Strict):
    """One step of a continuous column's transform; in YAML `log` or `{clip: [0, 10]}`."""

    op: Literal["fill_median", "fill", "clip", "log", "normalize", "bucketize"]
    values: tuple[float, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_yaml(cls, raw: Any) -> Any:
        if isinstance(raw, str):
            return {"op": raw}
        if isinstance(raw, Mapping) and len(raw) == 1 and "op" not in raw:
            op, values = next(iter(raw.items()))
            return {"op": op, "values": values if isinstance(values, (list, tuple)) else [values]}
        return raw

    @model_validator(mode="after")
    def _arity(self) -> Step:
        wanted = {"fill": "one value", "clip": "[lowest, highest]", "bucketize": "ascending edges"}
        fits = {
            "fill": len(self.values) == 1,
            "clip": len(self.values) == 2 and self.values[0] < self.values[-1],
            "bucketize": len(self.values) > 0 and list(self.values) == sorted(set(self.values)),
        }.get(self.op, not self.values)
        if not fits:
            raise ValueError(f"{self.op} must have {wanted.get(self.op, 'no values')}; got {list(self.values)}")
        return self

    def to_yaml(self) -> Any:
        """Return the form that YAML files use."""
        if not self.values:
            return self.op
        return {self.op: self.values[0] if self.op == "fill" else list(self.values)}


class _Column(_Strict):
    name: str = Field(min_length=1, pattern=r"^[A-Za-z][A-Za-z0-9_]*$")


class _RawColumn(_Column):
    role: Role
    feature: bool = Field(True, description="false: only a source for other columns")


class Categorical(_RawColumn):
    """A value out of a vocabulary; values seen fewer than `min_count` times share one id."""

    kind: Literal["categorical"]
    dtype: Literal["int64", "string"] | None = Field(None, description="read from the log where absent")
    min_count: int = Field(1, ge=1)
    embedding: int | None = Field(None, ge=1, description="width of its embedding; the ranker chooses where absent")


class CategoricalList(_RawColumn):
    """Several values a row, such as a history or tags; the last `max_length` are kept."""

    kind: Literal["categorical_list"]
    dtype: Literal["int64", "string"] | None = None
    min_count: int = Field(1, ge=1)
    max_length: int = Field(20, ge=1, le=1000)
    embedding: int | None = Field(None, ge=1)


class Text(_RawColumn):
    """Words, hashed into buckets and pooled; the first `max_length` words are kept."""

    kind: Literal["text"]
    buckets: int = Field(16_384, ge=2, le=2**30)
    max_length: int = Field(16, ge=1, le=1000)
    embedding: int | None = Field(None, ge=1)


_NORMALIZED = (Step(op="normalize"),)


class _Transformed(_Strict):
    transform: tuple[Step, ...] = _NORMALIZED

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps that run: a transform without a fill starts with the median."""
        filled = any(step.op in ("fill", "fill_median") for step in self.transform)
        return self.transform if filled else (Step(op="fill_median"), *self.transform)

    @property
    def is_categorical(self) -> bool:
        """Whether the transform ends in buckets."""
        return bool(self.transform) and self.transform[-1].op == "bucketize"

    @model_validator(mode="after")
    def _order(self) -> _Transformed:
        ops = [step.op for step in self.transform]
        if "bucketize" in ops[:-1]:
            raise ValueError("transform must have bucketize last")
        if any(op in ("fill", "fill_median") for op in ops[1:]):
            raise ValueError("transform must have its fill first")
        return self


class Continuous(_RawColumn, _Transformed):
    """A number; `log` is log(1 + max(x, 0)), and a missing value is filled with the median unless told otherwise."""

    kind: Literal["continuous"]


class Timestamp(_RawColumn):
    """A moment, as milliseconds since 1970 UTC; a source for `time_part` columns, no feature of its own."""

    kind: Literal["timestamp"]


class _DerivedColumn(_Column):
    of: tuple[str, ...] = Field(min_length=1)
    role: Role | None = Field(None, description="follows from `of`")

    @model_validator(mode="before")
    @classmethod
    def _one_source(cls, raw: Any) -> Any:
        if isinstance(raw, Mapping) and isinstance(raw.get("of"), str):
            return {**raw, "of": [raw["of"]]}
        return raw


class Hashed(_DerivedColumn):
    """One column, or the cross of several, hashed into buckets."""

    kind: Literal["hashed"]
    buckets: int = Field(ge=2, le=2**30)
    embedding: int | None = Field(None, ge=1)


class TargetEncoding(_DerivedColumn, _Transformed):
    """The smoothed mean of an objective's label per key: out of fold in training, over all rows in serving."""

    kind: Literal["target_encoding"]
    target: str
    smooth: float = Field(20.0, ge=0, description="rows of the overall mean that are mixed in")


class GroupStatistic(_DerivedColumn, _Transformed):
    """A statistic of a continuous column, or the row count, per key."""

    kind: Literal["group_statistic"]
    statistic: Literal["count", "mean", "std", "min", "max"]
    column: str | None = None


class TimePart(_DerivedColumn, _Transformed):
    """Hour (0-23) or weekday (0 = Monday) of a moment in UTC, or the days between two moments (age)."""

    kind: Literal["time_part"]
    part: Literal["hour", "weekday", "age_days"]
    embedding: int | None = Field(None, ge=1)


Column = Annotated[
    Categorical | CategoricalList | Text | Continuous | Timestamp | Hashed | TargetEncoding | GroupStatistic | TimePart,
    Field(discriminator="kind"),
]
RawColumn = Categorical | CategoricalList | Text | Continuous | Timestamp
DerivedColumn = Hashed | TargetEncoding | GroupStatistic | TimePart


class Objective(_Strict):
    """What the shop wants of an impression; `given` chains it to the objective that must happen first."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    kind: Literal["binary", "value"]
    label: str
    given: str | None = None


class Blend(_Strict):
    """How predictions become one score; an objective without a weight weighs nothing."""

    kind: Literal["linear", "geometric"] = "linear"
    weights: dict[str, float] = Field(default_factory=dict)


class Schema(_Strict):
    """Everything that is particular to a shop."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    request: str | None = Field(None, description="column that names the rows ranked together")
    user: str | None = Field(None, description="column that names the user")
    item: str | None = Field(None, description="column that names the item")
    time: str | None = Field(None, description="column with the moment of the impression")
    columns: tuple[Column, ...] = Field(min_length=1)
    objectives: tuple[Objective, ...] = Field(min_length=1)
    blend: Blend = Blend()

    @property
    def features(self) -> tuple[Column, ...]:
        """The columns that the ranker sees, in order."""
        return tuple(c for c in self.columns if not isinstance(c, Timestamp) and getattr(c, "feature", True))

    @property
    def objective_names(self) -> tuple[str, ...]:
        """Names of the objectives, in the order of the ranker's K predictions."""
        return tuple(objective.name for objective in self.objectives)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The log's label columns, each once."""
        return tuple(dict.fromkeys(objective.label for objective in self.objectives))

    @property
    def parents(self) -> tuple[int, ...]:
        """For each objective the index of the one it is given, or -1."""
        names = self.objective_names
        return tuple(names.index(o.given) if o.given else -1 for o in self.objectives)

    @property
    def default_weights(self) -> tuple[float, ...]:
        """The blend's weights in the objectives' order; all 1 where the schema gives none."""
        if not self.blend.weights:
            return (1.0,) * len(self.objectives)
        return tuple(self.blend.weights.get(name, 0.0) for name in self.objective_names)

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The raw columns that a request carries: features, and sources of derived ones."""
        declared = {c.name: c for c in self.columns if isinstance(c, RawColumn)}
        used = [source for f in self.features for source in sources(f)]
        found = []
        for name in dict.fromkeys(used):
            column = declared.get(name)
            if column is None:  # the schema's time column need not be declared
                found.append(Input(name, "context", "int64", is_list=False))
            else:
                found.append(Input(name, column.role, _dtype(column), isinstance(column, CategoricalList)))
        return tuple(found)

    @property
    def fingerprint(self) -> str:
        """A digest that parts of one bundle share."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def with_dtypes(self, found: Mapping[str, Dtype]) -> Schema:
        """Return the schema with the dtypes that it left to the log."""
        columns = [
            c.model_copy(update={"dtype": found[c.name]})
            if isinstance(c, (Categorical, CategoricalList)) and c.dtype is None and c.name in found
            else c
            for c in self.columns
        ]
        return self.model_copy(update={"columns": tuple(columns)})


def sources(column: Column) -> tuple[str, ...]:
    """Return the raw columns that serving needs for a column."""
    return column.of if isinstance(column, DerivedColumn) else (column.name,)


def _dtype(column: RawColumn) -> Dtype:
    if isinstance(column, Continuous):
        return "float32"
    if isinstance(column, Timestamp):
        return "int64"
    if isinstance(column, Text):
        return "string"
    if column.dtype is None:
        raise SchemaError([f"column {column.name} must have a dtype (int64 or string) before it is used; got none"])
    return column.dtype


def load_schema(path: str | Path) -> Schema:
    """Read a schema from YAML.

    Raises:
        SchemaError: with every fault, each as `file:line path: rule`.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    return parse_schema(path.read_text(encoding="utf-8"), source=path.name)


def save_schema(schema: Schema, path: str | Path) -> None:
    """Write a schema as YAML that `load_schema` reads back unchanged."""
    Path(path).write_text(dump_schema(schema), encoding="utf-8")


def dump_schema(schema: Schema) -> str:
    """Return a schema as YAML text, defaults left out."""
    raw = schema.model_dump(mode="json", exclude_defaults=True)
    for column, dumped in zip(schema.columns, raw["columns"], strict=True):
        dumped["kind"] = column.kind
        if "transform" in dumped and isinstance(column, _Transformed):
            dumped["transform"] = [step.to_yaml() for step in column.transform]
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a schema file, for editors."""
    return Schema.model_json_schema()


def parse_schema(text: str, source: str = "schema") -> Schema:
    """Parse a schema from YAML text; see `load_schema`."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise SchemaError([f"{source}:{line} must be YAML; {getattr(error, 'problem', error)}"]) from None
    if not isinstance(raw, dict):
        raise SchemaError([f"{source}:1 must be a mapping with name, columns and objectives; got {type(raw).__name__}"])
    faults = sorted(_faults(raw), key=lambda fault: _line(root, fault[0]))
    if faults:
        raise SchemaError([f"{source}:{_line(root, path)} {_dotted(path)}: {rule}" for path, rule in faults])
    return Schema.model_validate(raw)


Path_ = tuple[str | int, ...]


def _faults(raw: dict[str, Any]) -> Iterator[tuple[Path_, str]]:
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
        known = _known_keys(value)
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


def _known_keys(value: Any) -> set[str]:
    """Return the keys of the model that a raw mapping is meant to be."""
    if "kind" in _keys(value) and value["kind"] in _KINDS:
        models = [m for m in (*RawColumn.__args__, *DerivedColumn.__args__) if _kind(m) == value["kind"]]
        return set(models[0].model_fields)
    if "columns" in _keys(value):
        return set(Schema.model_fields)
    if "label" in _keys(value) or "given" in _keys(value):
        return set(Objective.model_fields)
    return set(Blend.model_fields)


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
    by_name = {objective.name: objective for _, objective in objectives}
    for index, objective in objectives:
        for rule in _chain_faults(objective, by_name, goals):
            yield ("objectives", index, "given"), rule


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


def _repeated(key: str, parts: list[tuple[int, Any]]) -> Iterator[tuple[Path_, str]]:
    seen: dict[str, int] = {}
    for index, part in parts:
        if part.name in seen:
            yield (key, index, "name"), f"must be unique; got {part.name}, which entry {seen[part.name]} has"
        seen.setdefault(part.name, index)


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
        if column.statistic != "count" and (column.column not in named or of and not isinstance(of, Continuous)):
            yield "column", f"must name a continuous column for a {column.statistic}; got {column.column}"
    if isinstance(column, TimePart) and len(column.of) != (2 if column.part == "age_days" else 1):
        count = "two columns, later and earlier" if column.part == "age_days" else "one column"
        yield "of", f"must name {count} for {column.part}; got {', '.join(column.of)}"


def _line(root: yaml.Node | None, path: Path_) -> int:
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


def _dotted(path: Path_) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".") or "schema"
