"""Schemas as YAML files: read with every fault reported at once, and written back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from feature_eng.schema import Schema, SchemaError
from feature_eng.schema_faults import dotted, find_faults, line_of


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
        if "transform" in dumped and hasattr(column, "transform"):
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
    faults = sorted(find_faults(raw), key=lambda fault: line_of(root, fault[0]))
    if faults:
        raise SchemaError([f"{source}:{line_of(root, path)} {dotted(path)}: {rule}" for path, rule in faults])
    return Schema.model_validate(raw)
