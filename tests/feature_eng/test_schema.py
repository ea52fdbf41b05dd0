"""The schema: what it accepts, what it says of what it does not."""

import re
from inspect import signature

import pydantic
import pytest
import yaml

from feature_eng.inputs import Input
from feature_eng.schema import LEARNING, Continuous, SchemaError, Step, sources
from feature_eng.schema_file import dump_schema, json_schema, load_schema, parse_schema, save_schema
from models.objective_losses import ObjectiveLoss

SHOP = """\
name: shop
request: request_id
user: user_id
item: item_id
time: timestamp
columns:
  - {name: user_id, role: user, kind: categorical, min_count: 2}
  - {name: item_id, role: item, kind: categorical, dtype: string}
  - {name: history, role: user, kind: categorical_list, max_length: 5}
  - {name: title, role: item, kind: text}
  - {name: price, role: item, kind: continuous, transform: [{fill: 1}, {clip: [0, 100]}, log, normalize]}
  - {name: margin, role: item, kind: continuous, feature: false}
  - {name: listed, role: item, kind: timestamp}
  - {name: pair, kind: hashed, of: [user_id, item_id], buckets: 64}
  - {name: item_ctr, kind: target_encoding, of: item_id, target: click}
  - {name: user_price, kind: group_statistic, of: user_id, statistic: mean, column: price}
  - {name: age, kind: time_part, part: age_days, of: [timestamp, listed], transform: [{bucketize: [1, 7]}]}
objectives:
  - {name: click, kind: binary, label: clicked}
  - {name: purchase, kind: binary, label: bought, given: click}
  - {name: revenue, kind: value, label: paid, given: purchase}
blend: {kind: linear, weights: {click: 0.5, revenue: 2}}
"""


def with_column(line: str) -> str:
    return SHOP.replace("objectives:\n", f"  - {line}\nobjectives:\n")


def with_objective(line: str) -> str:
    return SHOP.replace("blend:", f"  - {line}\nblend:")


ADDED_COLUMN, ADDED_OBJECTIVE = 18, 22


def test_a_schema_survives_being_written_and_read() -> None:
    schema = parse_schema(SHOP)
    assert parse_schema(dump_schema(schema)) == schema


def test_a_schema_survives_a_file(tmp_path) -> None:
    save_schema(parse_schema(SHOP), tmp_path / "schema.yaml")
    assert load_schema(tmp_path / "schema.yaml") == parse_schema(SHOP)


def test_defaults_are_not_written() -> None:
    written = yaml.safe_load(dump_schema(parse_schema(SHOP)))
    assert written["columns"][3] == {"name": "title", "role": "item", "kind": "text"}
    assert written["columns"][4]["transform"] == [{"fill": 1.0}, {"clip": [0.0, 100.0]}, "log", "normalize"]


def test_a_missing_file_is_reported_by_name(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        load_schema(tmp_path / "nowhere.yaml")


def test_inputs_are_the_sources_of_features_in_order() -> None:
    schema = parse_schema(SHOP).with_dtypes({"user_id": "int64", "history": "int64"})
    assert schema.inputs == (
        Input("user_id", "user", "int64"),
        Input("item_id", "item", "string"),
        Input("history", "user", "int64", is_list=True),
        Input("title", "item", "string"),
        Input("price", "item", "float32"),
        Input("timestamp", "context", "int64"),
        Input("listed", "item", "int64"),
    )


def test_a_list_travels_as_two_tensors() -> None:
    assert Input("tags", "item", "int64", is_list=True).tensors == ("tags__values", "tags__offsets")
    assert Input("price", "item", "float32").tensors == ("price",)


def test_features_leave_out_timestamps_and_columns_that_are_only_sources() -> None:
    names = [column.name for column in parse_schema(SHOP).features]
    assert names == ["user_id", "item_id", "history", "title", "price", "pair", "item_ctr", "user_price", "age"]


def test_sources_of_a_derived_column_are_those_it_is_made_of() -> None:
    by_name = {column.name: column for column in parse_schema(SHOP).columns}
    assert sources(by_name["pair"]) == ("user_id", "item_id")
    assert sources(by_name["price"]) == ("price",)


def test_inputs_need_dtypes() -> None:
    with pytest.raises(SchemaError, match=r"column user_id must have a dtype \(int64 or string\) .*; got none"):
        _ = parse_schema(SHOP).inputs


def test_dtypes_found_in_the_log_fill_only_what_is_open() -> None:
    schema = parse_schema(SHOP).with_dtypes({"user_id": "int64", "item_id": "int64"})
    assert [getattr(column, "dtype", "-") for column in schema.columns[:3]] == ["int64", "string", None]


def test_objectives_know_their_labels_and_parents() -> None:
    schema = parse_schema(SHOP)
    assert schema.objective_names == ("click", "purchase", "revenue")
    assert schema.label_columns == ("clicked", "bought", "paid")
    assert schema.parents == (-1, 0, 1)


def test_an_objective_without_a_weight_weighs_nothing() -> None:
    assert parse_schema(SHOP).default_weights == (0.5, 0.0, 2.0)


def test_all_objectives_weigh_one_without_weights() -> None:
    assert parse_schema(SHOP[: SHOP.index("blend")]).default_weights == (1.0, 1.0, 1.0)


def test_a_transform_without_a_fill_starts_with_the_median() -> None:
    price = Continuous(name="price", role="item", kind="continuous", transform=(Step(op="log"),))
    assert [step.op for step in price.steps] == ["fill_median", "log"]


def test_a_transform_with_a_fill_keeps_it() -> None:
    by_name = {column.name: column for column in parse_schema(SHOP).columns}
    assert [step.op for step in by_name["price"].steps] == ["fill", "clip", "log", "normalize"]
    assert by_name["age"].is_categorical
    assert not by_name["price"].is_categorical


def test_the_fingerprint_ignores_comments_and_sees_everything_else() -> None:
    plain = parse_schema(SHOP).fingerprint
    assert re.fullmatch("[0-9a-f]{16}", plain)
    assert parse_schema("# a comment\n" + SHOP).fingerprint == plain
    assert parse_schema(SHOP.replace("min_count: 2", "min_count: 3")).fingerprint != plain
    assert parse_schema(SHOP).with_dtypes({"user_id": "int64"}).fingerprint != plain


def test_what_a_schema_leaves_alone_is_not_in_its_fingerprint() -> None:
    plain = parse_schema(SHOP)
    assert plain.fingerprint == "19aaf4765e6b687b"  # as before objectives could be told how to learn
    assert parse_schema(SHOP.replace("given: click", "given: click, estimator: dr")).fingerprint != plain.fingerprint
    assert parse_schema(SHOP.replace("time: t", "position: place\ntime: t")).fingerprint != plain.fingerprint
    assert parse_schema(SHOP.replace("given: click", "given: click, estimator: esmm")).fingerprint == plain.fingerprint


def test_objectives_tell_how_they_are_learnt() -> None:
    text = SHOP.replace("label: clicked", "label: clicked, negatives: 0.25, focusing: 2")
    text = text.replace("given: click", "given: click, estimator: ipw").replace(
        "given: purchase", "given: purchase, loss: quantile, quantile: 0.9"
    )
    schema = parse_schema(text)
    assert schema.learning == {
        "estimators": ["esmm", "ipw", "esmm"],
        "value_losses": ["gamma", "gamma", "quantile"],
        "focusings": [2, 0, 0],
        "negatives": [0.25, 1, 1],
        "quantiles": [0.5, 0.5, 0.9],
    }
    assert schema.sampled is not None
    assert (schema.sampled.label, schema.sampled.negatives) == ("clicked", 0.25)
    assert parse_schema(dump_schema(schema)) == schema
    assert parse_schema(SHOP).learning == {}
    assert parse_schema(SHOP).sampled is None
    assert set(signature(ObjectiveLoss).parameters) >= set(LEARNING.values())


def test_a_schema_cannot_be_changed() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        parse_schema(SHOP).name = "other"


def test_the_json_schema_names_every_kind_and_refuses_unknown_keys() -> None:
    described = json_schema()
    kinds = set(described["properties"]["columns"]["items"]["discriminator"]["mapping"])
    assert kinds == {
        "categorical",
        "categorical_list",
        "text",
        "continuous",
        "timestamp",
        "hashed",
        "target_encoding",
        "group_statistic",
        "time_part",
    }
    assert described["additionalProperties"] is False


COLUMN_FAULTS = {
    "{name: x, role: item, kind: continous}": (
        r"columns\[11\]: kind must be one of .*; got continous \(did you mean continuous"
    ),
    "{name: x, role: item}": r"columns\[11\]: kind must be one of .*; got nothing",
    "{name: x, kind: categorical}": r"columns\[11\]\.role: must be given; got nothing",
    "{role: item, kind: categorical}": r"columns\[11\]\.name: must be given; got nothing",
    "{name: x, role: itme, kind: categorical}": (
        r"role: must be user, item or context; got 'itme' \(did you mean item"
    ),
    "{name: 1x, role: item, kind: categorical}": (r"name: must be a letter followed by letters, digits or _; got '1x'"),
    "{name: x, role: item, kind: categorical, mincount: 2}": (
        r"mincount: is not a known key \(did you mean min_count\?\)"
    ),
    "{name: x, role: item, kind: categorical, min_count: 0}": (r"min_count: must be greater than or equal to 1; got 0"),
    "{name: x, role: item, kind: categorical, embedding: 0}": (r"embedding: must be greater than or equal to 1; got 0"),
    "{name: x, role: item, kind: categorical, dtype: float32}": (r"dtype: must be int64 or string; got 'float32'"),
    "{name: x, role: item, kind: categorical_list, max_length: 1001}": (
        r"max_length: must be less than or equal to 1000"
    ),
    "{name: x, role: item, kind: text, buckets: 1}": (r"buckets: must be greater than or equal to 2; got 1"),
    "{name: x, role: item, kind: continuous, transform: [lgo]}": (
        r"transform.*: must be .*; got 'lgo' \(did you mean log"
    ),
    "{name: x, role: item, kind: continuous, transform: [{clip: [3, 1]}]}": (
        r"clip must have \[lowest, highest\]; got \[3.0, 1"
    ),
    "{name: x, role: item, kind: continuous, transform: [{clip: 3}]}": (
        r"clip must have \[lowest, highest\]; got \[3.0\]"
    ),
    "{name: x, role: item, kind: continuous, transform: [{fill: .nan}]}": r"fill must have values that float32 holds",
    "{name: x, role: item, kind: continuous, transform: [{clip: [0, 1.0e+39]}]}": (
        r"clip must have values that float32 holds; got \[0.0, 1e\+39\]"
    ),
    "{name: x, role: item, kind: continuous, transform: [fill]}": (r"fill must have one value; got \[\]"),
    "{name: x, role: item, kind: continuous, transform: [{bucketize: [2, 1]}]}": (
        r"bucketize must have ascending edges; got"
    ),
    "{name: x, role: item, kind: continuous, transform: [{op: log, valeus: [1]}]}": (
        r"valeus: is not a known key \(did you mean values\?\); known: op, values"
    ),
    "{name: x, role: item, kind: continuous, transform: [{log: 2}]}": (r"log must have no values; got \[2.0\]"),
    "{name: x, role: item, kind: continuous, transform: [{bucketize: [1]}, log]}": (
        r"transform must have bucketize last; got"
    ),
    "{name: x, role: item, kind: continuous, transform: [log, {fill: 0}]}": (
        r"transform must have its fill first; got"
    ),
    "{name: price, role: item, kind: continuous}": (
        r"columns\[11\]\.name: must be unique; got price, which entry 4 has"
    ),
    "{name: history__values, role: item, kind: continuous}": (
        r"name: must not be the name of an array of history; got history__values"
    ),
    "{name: history__0, role: item, kind: continuous}": r"must not be the name of an array of history; got history__0",
    "{name: clicked, role: item, kind: categorical}": (
        r"must not be a label, which serving does not have; got clicked"
    ),
    "{name: x, kind: hashed, of: [], buckets: 4}": r"of: .*at least 1 item",
    "{name: x, kind: hashed, of: item_di, buckets: 4}": (
        r"of: must name declared columns \(did you mean item_id\?\); got"
    ),
    "{name: x, kind: hashed, of: price, buckets: 4}": (r"of: must name categorical columns; got price, a continuous"),
    "{name: x, kind: hashed, of: item_id}": r"buckets: must be given; got nothing",
    "{name: x, kind: hashed, of: item_id, buckets: 4, role: user}": (
        r"role: must be item, which follows from item_id; got user"
    ),
    "{name: x, kind: target_encoding, of: item_id, target: clik}": (
        r"target: must be an objective \(did you mean click\?\)"
    ),
    "{name: x, kind: target_encoding, of: item_id, target: click, smooth: -1}": (
        r"smooth: must be greater than or equal to 0"
    ),
    "{name: x, kind: group_statistic, of: item_id, statistic: count, column: price}": (
        r"must be left out for a count; got price"
    ),
    "{name: x, kind: group_statistic, of: item_id, statistic: mean}": (
        r"must name a continuous column for a mean; got None"
    ),
    "{name: x, kind: group_statistic, of: item_id, statistic: max, column: title}": (
        r"a continuous column for a max; got title"
    ),
    "{name: x, kind: time_part, part: hour, of: item_id}": (
        r"of: must name timestamp columns; got item_id, a categorical"
    ),
    "{name: x, kind: time_part, part: hour, of: [timestamp, listed]}": (
        r"of: must name one column for hour; got timestamp, l"
    ),
    "{name: x, kind: time_part, part: age_days, of: [timestamp, timestamp]}": (
        r"of: must name each column once; got timestamp, timestamp"
    ),
    "{name: x, kind: time_part, part: age_days, of: listed}": (
        r"must name two columns, later and earlier for age_days; got"
    ),
}


@pytest.mark.parametrize(("line", "rule"), COLUMN_FAULTS.items())
def test_a_faulty_column_is_reported_with_its_line_and_rule(line: str, rule: str) -> None:
    with pytest.raises(SchemaError, match=rule) as caught:
        parse_schema(with_column(line), source="shop.yaml")
    assert [fault.split(" ")[0] for fault in caught.value.faults] == [f"shop.yaml:{ADDED_COLUMN}"]


OBJECTIVE_FAULTS = {
    "{name: x, kind: binari, label: y}": (r"kind: must be binary or value; got 'binari' \(did you mean binary\?\)"),
    "{name: x, kind: binary}": r"objectives\[3\]\.label: must be given; got nothing",
    "{name: x, kind: binary, label: y, givn: click}": (
        r"givn: is not a known key \(did you mean given\?\); known: entire_space_weight, estimator, focusing, given, k"
    ),
    "{name: x, kind: binary, label: y, given: clck}": (
        r"given: must be an objective \(did you mean click\?\); got clck"
    ),
    "{name: x, kind: binary, label: y, given: revenue}": (r"given: must be a binary objective; got revenue, a value"),
    "{name: x, kind: binary, label: y, given: x}": r"given: must stand before x; got x",
    "{name: click, kind: binary, label: y}": (r"objectives\[3\]\.name: must be unique; got click, which entry 0 has"),
    "{name: x, kind: value, label: y, focusing: 2}": r"focusing: must be left out for a value objective; got 2\.0",
    "{name: x, kind: binary, label: y, loss: ziln}": r"loss: must be left out for a binary objective; got ziln",
    "{name: x, kind: value, label: y, loss: zlin}": (
        r"loss: must be gamma, ziln, squared_log or quantile; got 'zlin' \(did you mean ziln\?\)"
    ),
    "{name: x, kind: value, label: y, loss: quantile}": r"quantile: must be given where loss is quantile; got nothing",
    "{name: x, kind: value, label: y, quantile: 0.9}": (
        r"quantile: must be left out unless loss is quantile; got 0\.9 with gamma"
    ),
    "{name: x, kind: value, label: y, loss: quantile, quantile: 1}": r"quantile: must be less than 1; got 1",
    "{name: x, kind: binary, label: y, estimator: ipw}": (
        r"estimator: must be left out but for a binary objective with a given; got ipw"
    ),
    "{name: x, kind: binary, label: y, given: click, propensity_floor: 0.1}": (
        r"propensity_floor: must be left out unless estimator is ipw or dr; got 0\.1 with esmm"
    ),
    "{name: x, kind: binary, label: y, given: click, entire_space_weight: 2}": (
        r"entire_space_weight: must be left out unless estimator is ipw, dr or entire_space; got 2\.0 with esmm"
    ),
    "{name: x, kind: binary, label: y, given: click, negatives: 0.5}": (
        r"negatives: must be left out for an objective with a given; got 0\.5"
    ),
    "{name: x, kind: binary, label: y, negatives: 0.5}": (
        r"negatives: must be left out unless each other objective is given this one, at once or through others; "
        r"got 0\.5 beside click, purchase, revenue"
    ),
    "{name: x, kind: binary, label: y, negatives: 0}": r"negatives: must be greater than 0; got 0",
    "{name: x, kind: binary, label: y, positive_weight: -1}": r"positive_weight: must be greater than 0; got -1",
    "{name: x, kind: binary, label: y, label_smoothing: 1}": r"label_smoothing: must be less than 1; got 1",
}


@pytest.mark.parametrize(("line", "rule"), OBJECTIVE_FAULTS.items())
def test_a_faulty_objective_is_reported_with_its_line_and_rule(line: str, rule: str) -> None:
    with pytest.raises(SchemaError, match=rule) as caught:
        parse_schema(with_objective(line), source="shop.yaml")
    assert [fault.split(" ")[0] for fault in caught.value.faults] == [f"shop.yaml:{ADDED_OBJECTIVE}"]


TOP_FAULTS = [
    ("name: shop", "name: 9", r"schema:1 name: must be a valid string; got 9"),
    ("name: shop\n", "", r"schema:1 name: must be given; got nothing"),
    ("user: user_id", "user: item_id", r"schema:3 user: must be a categorical column of role user; got item_id"),
    ("item: item_id", "item: price", r"schema:4 item: must be a categorical column of role item; got price"),
    (
        "time: timestamp",
        "time: price",
        r"schema:5 time: must be a column of kind timestamp .*; got price, a continuous",
    ),
    ("request: request_id", "requst: r", r"schema:2 requst: is not a known key \(did you mean request\?\)"),
    (
        "{click: 0.5, revenue: 2}",
        "{clik: 1}",
        r"blend\.weights\.clik: must be an objective \(did you mean click\?\); got clik",
    ),
    (
        "name: shop\n",
        "name: shop\nposition: price\n",
        r"schema:2 position: must not be a declared column, which serving would need; got price",
    ),
    (
        "name: shop\n",
        "name: shop\nposition: clicked\n",
        r"schema:2 position: must be a column of its own, no label and no key; got clicked",
    ),
    ("kind: linear", "kind: linar", r"blend\.kind: must be linear or geometric; got 'linar' \(did you mean linear\?\)"),
    ("kind: linear, w", "kind: linear, scale: 1, w", r"blend\.scale: is not a known key; known: kind, weights"),
]


@pytest.mark.parametrize(("old", "new", "rule"), TOP_FAULTS)
def test_a_fault_at_the_top_is_reported_with_its_line_and_rule(old: str, new: str, rule: str) -> None:
    with pytest.raises(SchemaError, match=rule):
        parse_schema(SHOP.replace(old, new))


@pytest.mark.parametrize("key", ["columns", "objectives"])
def test_an_empty_list_is_reported(key: str) -> None:
    raw = yaml.safe_load(SHOP) | {key: []}
    with pytest.raises(SchemaError, match=rf"{key}: must be a list with at least one entry; got \[\]"):
        parse_schema(yaml.safe_dump(raw))


def test_a_schema_without_a_feature_is_refused() -> None:
    column, objective = "{name: t, role: item, kind: timestamp}", "{name: y, kind: binary, label: y}"
    text = f"name: s\ncolumns:\n  - {column}\nobjectives:\n  - {objective}\n"
    with pytest.raises(SchemaError, match=r"schema:2 columns: must hold at least one feature; got none"):
        parse_schema(text)


def test_text_that_is_no_yaml_is_reported_with_its_line() -> None:
    with pytest.raises(SchemaError, match=r"shop\.yaml:2 must be YAML; "):
        parse_schema("name: shop\ncolumns: [}\n", source="shop.yaml")


def test_a_list_is_no_schema() -> None:
    with pytest.raises(SchemaError, match=r"schema:1 must be a mapping with name, columns and objectives; got list"):
        parse_schema("- 1\n")


def test_all_faults_are_reported_at_once_in_the_order_of_the_file() -> None:
    text = SHOP.replace("min_count: 2", "min_count: 0").replace("dtype: string", "dtype: str")
    text = text.replace("target: click", "target: clicks").replace("given: purchase", "given: purchases")
    text = text.replace("revenue: 2", "revenues: 2").replace("request: request_id", "requests: request_id")
    with pytest.raises(SchemaError) as caught:
        parse_schema(text)
    lines = [int(re.match(r"schema:(\d+) ", fault)[1]) for fault in caught.value.faults]
    assert lines == [2, 7, 8, 15, 21, 22]
