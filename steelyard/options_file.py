"""A training's settings as a YAML file: what a search writes, and a fit takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import yaml

from models.training import train

# Arguments of `train` that follow from the log, or from where it runs.
_NOT_SETTINGS = {"names", "listed", "objectives", "resume", "progress", "callbacks"}


def settings_of_training() -> list[str]:
    """Return the names of `train`'s settings."""
    given = signature(train).parameters.items()
    return [name for name, each in given if each.default is not Parameter.empty and name not in _NOT_SETTINGS]


def write_options(path: Path, training: Mapping[str, Any], comment: str) -> None:
    """Write the settings among flat arguments of `train`, a ranker's under `ranker`, below a comment of one line."""
    known = settings_of_training()
    kept = {name: value for name, value in training.items() if name in known}
    text = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=120)
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(f"# {' '.join(comment.split())}\n{text}", encoding="utf-8")
    beside.replace(path)


def read_options(path: Path) -> dict[str, Any]:
    """Read what `write_options` wrote, or a person.

    Raises:
        ValueError: it is no YAML mapping, names what is no setting of a training, or has a value of another type.
        FileNotFoundError: there is no such file.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"options must be YAML; got {path}: {error}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ValueError(f"options must be a mapping of settings; got {type(raw).__name__} in {path}")
    known = settings_of_training()
    for name in raw:
        if name not in known:
            raise ValueError(f"options must have settings out of {', '.join(known)}; got {name} in {path}")
    if not isinstance(raw.get("ranker", {}), dict):
        raise ValueError(f"options must have a mapping under ranker; got {raw['ranker']!r} in {path}")
    return {name: _value(name, value, path) for name, value in raw.items()}


def _value(name: str, value: Any, path: Path) -> Any:
    """Return a setting's value as `train` annotates it; YAML takes 1e-3 for text.

    Raises:
        ValueError: it is of another type.
    """
    kind = str(signature(train).parameters[name].annotation)
    if value is None and kind.endswith("None"):
        return None
    for begin, wanted, read in _TYPES:
        if kind.startswith(begin):
            try:
                return read(value)
            except (TypeError, ValueError):
                raise ValueError(f"options must have {wanted} for {name}; got {value!r} in {path}") from None
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def _whole(value: Any) -> int:
    found = _number(value)
    if not found.is_integer():
        raise ValueError
    return int(found)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _list(value: Any, read: Callable[[Any], Any]) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return [read(each) for each in value]


_TYPES: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("int", "a whole number", _whole),
    ("float", "a number", _number),
    ("str", "text", _text),
    ("Sequence[float]", "a list of numbers", partial(_list, read=_number)),
    ("Sequence[str]", "a list of text", partial(_list, read=_text)),
)
