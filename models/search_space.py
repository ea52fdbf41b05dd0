"""What a search may choose: groups of a training's settings, and how each suggests some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

from models.balancing import BALANCINGS, SURGERIES
from models.histories import HISTORIES
from models.interactions import INTERACTIONS
from models.sharing import SHARING

# As text, since a study keeps nothing but plain values.
EXPERT_WIDTHS = ("32", "64", "128", "64,64", "128,64")
TOWER_WIDTHS = ("", "16", "32")
MIXTURES = ("mmoe", "ple")


class Suggests(Protocol):
    """The part of an Optuna trial that suggests."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Choose one."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """Choose a whole number, ends included."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Choose a number."""


@dataclass(frozen=True)
class Shop:
    """What of a shop bounds a search.

    Attributes:
        objectives: how many, K.
        histories: whether a list has a target to be read beside.
    """

    objectives: int
    histories: bool = False


Options = dict[str, Any]


def sharing(trial: Suggests, shop: Shop) -> Options:
    """Suggest how objectives share layers, and how many experts a mixture has."""
    chosen = trial.suggest_categorical("sharing", list(SHARING))
    ranker: Options = {"sharing": chosen}
    if chosen in MIXTURES:
        ranker["experts"] = trial.suggest_categorical("experts", [1, 2, 4, 8])
    if chosen == "ple":
        ranker["task_experts"] = trial.suggest_int("task_experts", 1, 2)
        ranker["levels"] = trial.suggest_int("levels", 1, 2)
    return {"ranker": ranker}


def width(trial: Suggests, shop: Shop) -> Options:
    """Suggest widths of the experts' and the towers' layers."""
    experts = trial.suggest_categorical("expert_widths", list(EXPERT_WIDTHS))
    towers = trial.suggest_categorical("tower_widths", list(TOWER_WIDTHS))
    return {"ranker": {"expert_widths": _widths(experts), "tower_widths": _widths(towers)}}


def embedding(trial: Suggests, shop: Shop) -> Options:
    """Suggest the width of embeddings, and their dropout."""
    dropped = trial.suggest_float("embedding_dropout", 0.0, 0.3, step=0.05)
    return {
        "ranker": {
            "embedding": trial.suggest_categorical("embedding", [4, 8, 16, 32]),
            "embedding_dropout": round(dropped, 2),
        }
    }


def crosses(trial: Suggests, shop: Shop) -> Options:
    """Suggest the number of cross layers and their rank."""
    layers = trial.suggest_int("crosses", 0, 3)
    rank = {"cross_rank": trial.suggest_categorical("cross_rank", [8, 16, 32, 64])} if layers else {}
    return {"ranker": {"crosses": layers, **rank}}


def interactions(trial: Suggests, shop: Shop) -> Options:
    """Suggest products of slots' vectors beside the crosses."""
    return {"ranker": {"interactions": trial.suggest_categorical("interactions", ["none", *INTERACTIONS])}}


def histories(trial: Suggests, shop: Shop) -> Options:
    """Suggest how a list with a target is read.

    Raises:
        ValueError: there is no such list.
    """
    if not shop.histories:
        raise ValueError("search must not name histories where no list has history_of; got histories")
    return {"ranker": {"histories": trial.suggest_categorical("histories", ["mean", *HISTORIES])}}


def dropout(trial: Suggests, shop: Shop) -> Options:
    """Suggest the share of hidden units dropped in training."""
    return {"ranker": {"dropout": round(trial.suggest_float("dropout", 0.0, 0.3, step=0.05), 2)}}


def optimizer(trial: Suggests, shop: Shop) -> Options:
    """Suggest learning rate, rows of a batch and weight decay."""
    return {
        "lr": trial.suggest_float("lr", 5e-4, 2e-2, log=True),
        "batch_rows": trial.suggest_categorical("batch_rows", [1024, 2048, 4096]),
        "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-2, log=True),
    }


def regularisation(trial: Suggests, shop: Shop) -> Options:
    """Suggest shares of values and slots that training hides, and how short vectors must be."""
    return {
        "mask_rate": round(trial.suggest_float("mask_rate", 0.0, 0.2, step=0.05), 2),
        "slot_dropout": round(trial.suggest_float("slot_dropout", 0.0, 0.2, step=0.05), 2),
        "embedding_l2": trial.suggest_categorical("embedding_l2", [0.0, 1e-5, 1e-4, 1e-3]),
    }


def balancing(trial: Suggests, shop: Shop) -> Options:
    """Suggest what weighs the objectives' losses, and fixed weights beside the first one's.

    Raises:
        ValueError: there is a single objective.
    """
    if shop.objectives < 2:
        raise ValueError("search must not name balancing where there is one objective; got balancing")
    chosen = trial.suggest_categorical("balancing", possible_balancings())
    if chosen != "fixed":
        return {"balancing": chosen}
    others = [
        trial.suggest_float(f"loss_weight_{objective}", 0.1, 10.0, log=True) for objective in range(1, shop.objectives)
    ]
    return {"balancing": chosen, "loss_weights": [1.0, *others]}


def possible_balancings() -> list[str]:
    """Return the balancings whose packages are installed."""
    surgeries = find_spec("torchjd") is not None
    return [name for name in BALANCINGS if surgeries or name not in SURGERIES]


# Each takes what suggests and the shop's bounds; it gives flat arguments of `train`, a ranker's under `ranker`.
GROUPS: dict[str, Callable[[Suggests, Shop], Options]] = {
    "sharing": sharing,
    "width": width,
    "embedding": embedding,
    "crosses": crosses,
    "interactions": interactions,
    "histories": histories,
    "dropout": dropout,
    "regularisation": regularisation,
    "optimizer": optimizer,
    "balancing": balancing,
}

# What a search chooses unless told otherwise, apart from `balancing` where there is one objective.
DEFAULT_GROUPS = ("sharing", "width", "embedding", "optimizer", "balancing")

# The suggestions that make what `train` and `Ranker` do by themselves: the first trial of a study.
DEFAULTS: dict[str, Any] = {
    "sharing": "mmoe",
    "experts": 1,
    "expert_widths": "64",
    "tower_widths": "",
    "embedding": 8,
    "embedding_dropout": 0.1,
    "crosses": 1,
    "cross_rank": 16,
    "interactions": "none",
    "histories": "mean",
    "dropout": 0.1,
    "mask_rate": 0.0,
    "slot_dropout": 0.0,
    "embedding_l2": 0.0,
    "balancing": "fixed",
    "lr": 3e-3,
    "batch_rows": 2048,
    "weight_decay": 1e-4,
}


def suggest_options(trial: Suggests, groups: Sequence[str], shop: Shop) -> Options:
    """Return flat arguments of `train` that groups suggest, those of a ranker under `ranker`.

    Args:
        trial: what suggests.
        groups: out of `GROUPS`.
        shop: what bounds the search.

    Raises:
        ValueError: a group is unknown, or not possible for the shop.
    """
    options: Options = {}
    for group in groups:
        if group not in GROUPS:
            raise ValueError(f"search must name groups out of {', '.join(GROUPS)}; got {group}")
        options = merged(options, GROUPS[group](trial, shop))
    return options


def default_parameters(shop: Shop) -> dict[str, Any]:
    """Return the suggestions that make the defaults, for all groups."""
    return DEFAULTS | {f"loss_weight_{objective}": 1.0 for objective in range(1, shop.objectives)}


def merged(first: Options, second: Options) -> Options:
    """Return arguments of `train` from both; the second's count where both name one."""
    ranker = {**(first.get("ranker") or {}), **(second.get("ranker") or {})}
    return {**first, **second, **({"ranker": ranker} if ranker else {})}


def _widths(text: str) -> list[int]:
    return [int(each) for each in text.split(",") if each]
