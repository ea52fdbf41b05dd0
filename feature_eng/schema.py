"""The contract between a shop and the engine: columns, roles, dtypes, objectives and the blend."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from feature_eng.inputs import Dtype, Input, Role


class SchemaError(ValueError):
    """A schema, or a log held against it, broke rules; `faults` lists every one of them."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_LARGEST = (2 - 2**-23) * 2.0**127  # of float32


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
        if not all(abs(value) <= _LARGEST for value in self.values):
            raise ValueError(f"{self.op} must have values that float32 holds; got {list(self.values)}")
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
    max_length: int = Field(20, ge=2, le=1000)
    embedding: int | None = Field(None, ge=1)
    history_of: str | None = Field(None, description="categorical column whose values, vocabulary and vectors it has")


class Text(_RawColumn):
    """Words, hashed into buckets and pooled; the first `max_length` words are kept."""

    kind: Literal["text"]
    buckets: int = Field(16_384, ge=2, le=2**30)
    max_length: int = Field(16, ge=2, le=1000)
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


class _Statistic(_DerivedColumn, _Transformed):
    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps that run; a statistic is never missing."""
        return self.transform


class TargetEncoding(_Statistic):
    """The smoothed mean of an objective's label per key: out of fold in training, over all rows in serving."""

    kind: Literal["target_encoding"]
    target: str
    smooth: float = Field(20.0, ge=0, description="rows of the overall mean that are mixed in")


class GroupStatistic(_Statistic):
    """A statistic of a continuous column, or the row count, per key."""

    kind: Literal["group_statistic"]
    statistic: Literal["count", "mean", "std", "min", "max"]
    column: str | None = None


class TimePart(_DerivedColumn, _Transformed):
    """Hour (0-23) or weekday (0 = Monday) of a moment in UTC, or the days between two moments (age)."""

    kind: Literal["time_part"]
    part: Literal["hour", "weekday", "age_days"]
    embedding: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _numbers_only(self) -> TimePart:
        if self.part != "age_days" and "transform" in self.model_fields_set:
            raise ValueError(f"transform must be left out for {self.part}, which is categorical; got one")
        return self


Column = Annotated[
    Categorical | CategoricalList | Text | Continuous | Timestamp | Hashed | TargetEncoding | GroupStatistic | TimePart,
    Field(discriminator="kind"),
]
RawColumn = Categorical | CategoricalList | Text | Continuous | Timestamp
DerivedColumn = Hashed | TargetEncoding | GroupStatistic | TimePart


class Objective(_Strict):
    """What the shop wants of an impression; `given` chains it to the objective that must happen first.

    All fields after `given` say how it is learnt; `models.objective_losses.ObjectiveLoss` explains them.
    """

    name: str = Field(min_length=1, pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    kind: Literal["binary", "value"]
    label: str
    given: str | None = None
    positive_weight: float = Field(1.0, gt=0, allow_inf_nan=False, description="of the rows with a binary objective")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of a binary label spread over both classes")
    focusing: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="exponent of the focal loss; 0 is cross-entropy"
    )
    negatives: float = Field(1.0, gt=0, le=1, description="share of the rows without it that training keeps")
    estimator: Literal["esmm", "ipw", "dr", "entire_space"] = Field(
        "esmm", description="how a binary objective with a `given` is learnt from the rows where that did not happen"
    )
    propensity_floor: float = Field(0.05, gt=0, le=1, description="least p(given) that ipw and dr divide by")
    entire_space_weight: float = Field(
        0.1, ge=0, allow_inf_nan=False, description="of the second loss that ipw, dr and entire_space have"
    )
    loss: Literal["gamma", "ziln", "squared_log", "quantile"] = Field("gamma", description="of a value")
    quantile: float = Field(0.5, gt=0, lt=1, description="which one a value with `loss: quantile` predicts")


# what the objectives' fields are called, as lists over objectives, where they are learnt
LEARNING = {
    "estimator": "estimators",
    "loss": "value_losses",
    "positive_weight": "positive_weights",
    "label_smoothing": "smoothings",
    "focusing": "focusings",
    "negatives": "negatives",
    "propensity_floor": "propensity_floors",
    "entire_space_weight": "entire_space_weights",
    "quantile": "quantiles",
}


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
    position: str | None = Field(
        None, description="column with the place of the impression, from 1, for training alone"
    )
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
    def learning(self) -> dict[str, list[Any]]:
        """How objectives are learnt: lists (K,) by the names of `ObjectiveLoss`, those that are not its defaults."""
        lists = {field: [getattr(objective, field) for objective in self.objectives] for field in LEARNING}
        return {
            LEARNING[field]: values
            for field, values in lists.items()
            if any(value != Objective.model_fields[field].default for value in values)
        }

    @property
    def sampled(self) -> Objective | None:
        """The objective of whose negatives training keeps a share, if there is one."""
        return next((objective for objective in self.objectives if objective.negatives < 1), None)

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
    def fit_only_columns(self) -> tuple[str, ...]:
        """Continuous columns that fitting reads and serving does not: those that statistics are taken of."""
        taken = (f.column for f in self.features if isinstance(f, GroupStatistic) and f.column)
        served = {i.name for i in self.inputs}
        return tuple(name for name in dict.fromkeys(taken) if name not in served)

    @property
    def fingerprint(self) -> str:
        """A digest that parts of one bundle share."""
        text = json.dumps(_without_new_defaults(self.model_dump(mode="json")), sort_keys=True)
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


def _without_new_defaults(dumped: dict[str, Any]) -> dict[str, Any]:
    """Leave out what schemas did not know at first and this one leaves alone, so that its fingerprint stays."""
    objectives = [
        {key: v for key, v in o.items() if key not in LEARNING or v != Objective.model_fields[key].default}
        for o in dumped["objectives"]
    ]
    columns = [
        {key: v for key, v in column.items() if key != "history_of" or v is not None} for column in dumped["columns"]
    ]
    known = {key: value for key, value in dumped.items() if key != "position" or value is not None}
    return known | {"objectives": objectives, "columns": columns}


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
