"""plan.json: what each of its fields must be, and a plan's parts to and from it; see docs/plan-format.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from feature_eng.inputs import Input
from feature_eng.layout import Layout
from feature_eng.program import Instruction, PlanError

FORMAT = 4

# A form is a type, several, a list's one form, or an object's fields: `name?` may be left out, `*` is any other name.
_NONE = type(None)
_FORM = {
    "format": int,
    "fingerprint": str,
    "inputs": [{"name": str, "role": str, "dtype": str, "is_list?": bool}],
    "instructions": [
        {
            "op": str,
            "inputs?": [str],
            "output": str,
            "numbers?": {"*": (float, _NONE)},
            "arrays?": {"*": str},
            "steps?": [[(str, float, _NONE)]],
        }
    ],
    "layout": {
        "categorical": [{"name": str, "cardinality": int, "width?": int, "embedding?": (int, _NONE)}],
        "continuous": [str],
    },
    "categorical": [str],
    "continuous": [str],
    "arrays": {"*": {"dtype": str, "shape": [int], "sha256": str}},
}
_WORDS = {int: "an integer", str: "a string", float: "a number", bool: "true or false", _NONE: "null"}
_MOST = 2**63
_SHOWN = 80  # letters of a value in an error


def parse(data: bytes) -> Mapping[str, Any]:
    """Return plan.json's fields, each of its type.

    Raises:
        PlanError: it is not JSON, is of another format, or a field is missing, unknown or of another type.
    """
    try:
        raw = json.loads(data, object_pairs_hook=_distinct, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"plan.json must be JSON; got {error}") from None
    found = raw.get("format") if isinstance(raw, dict) else raw
    if not isinstance(raw, dict) or type(found) is not int or found != FORMAT:
        raise PlanError(f"plan.json must have format {FORMAT}; got {_short(found)}")
    _check("plan.json", raw, _FORM)
    for index, step in enumerate(raw["instructions"]):
        for given in step.get("steps", ()):
            if not given or not isinstance(given[0], str):
                raise PlanError(f"instructions[{index}].steps must have a name first; got {_short(given)}")
    return raw


def parts(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a `Plan` is made of, but its arrays, from plan.json's fields.

    Raises:
        ValueError: the layout has columns that cannot be.
    """
    return {
        "fingerprint": raw["fingerprint"],
        "inputs": tuple(Input(**given) for given in raw["inputs"]),
        "instructions": tuple(_instruction(step) for step in raw["instructions"]),
        "layout": Layout.from_json(raw["layout"]),
        "categorical": tuple(raw["categorical"]),
        "continuous": tuple(raw["continuous"]),
    }


def instruction_json(step: Instruction) -> dict[str, Any]:
    """Return an instruction in a form that JSON can hold, without its empty fields."""
    return {name: value for name, value in asdict(step).items() if value not in ({}, ())}


def _instruction(raw: Mapping[str, Any]) -> Instruction:
    steps = tuple(tuple(step) for step in raw.get("steps", ()))
    arrays, numbers = raw.get("arrays", {}), raw.get("numbers", {})
    return Instruction(raw["op"], tuple(raw.get("inputs", ())), raw["output"], dict(numbers), dict(arrays), steps)


def _check(path: str, value: Any, form: Any) -> None:
    if isinstance(form, list):
        if not isinstance(value, list):
            raise PlanError(f"{path} must be a list; got {_short(value)}")
        for index, each in enumerate(value):
            _check(f"{path}[{index}]", each, form[0])
    elif isinstance(form, dict):
        _check_object(path, value, form)
    else:
        kinds = form if isinstance(form, tuple) else (form,)
        if not any(type(value) is kind or (kind is float and type(value) is int) for kind in kinds):
            raise PlanError(f"{path} must be {' or '.join(_WORDS[kind] for kind in kinds)}; got {_short(value)}")
        if type(value) is int and not -_MOST <= value < _MOST:
            raise PlanError(f"{path} must be a number of at most 64 bits; got {_short(value)}")


def _check_object(path: str, value: Any, form: Mapping[str, Any]) -> None:
    if not isinstance(value, dict):
        raise PlanError(f"{path} must be an object; got {_short(value)}")
    fields = {name.rstrip("?"): each for name, each in form.items()}
    missing = [name for name in form if name != "*" and not name.endswith("?") and name not in value]
    unknown = [name for name in value if name not in fields and "*" not in fields]
    if missing or unknown:
        raise PlanError(f"{path} must have the fields {', '.join(form)}; got {_short(', '.join(value) or 'none')}")
    for name, each in value.items():
        _check(f"{path}.{name}" if path != "plan.json" else name, each, fields.get(name, fields.get("*")))


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError(f"a field twice among {_short(', '.join(name for name, _ in pairs))}")
    return dict(pairs)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name}, which JSON does not have")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
