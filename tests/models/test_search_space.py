from collections.abc import Sequence
from inspect import signature
from typing import Any

import pytest

from models.ranker import Ranker
from models.search_space import (
    DEFAULTS,
    GROUPS,
    Shop,
    default_parameters,
    merged,
    possible_balancings,
    suggest_options,
)
from models.training import train


class Fixed:
    """Suggests what it was told, and keeps what it was asked."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.parameters = parameters
        self.asked: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.asked[name] = list(choices)
        return self.parameters[name]

    def suggest_int(self, name: str, low: int, high: int) -> int:
        self.asked[name] = (low, high)
        return int(self.parameters[name])

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        self.asked[name] = (low, high)
        return float(self.parameters[name])


SHOP = Shop(objectives=3, histories=True)


def test_the_default_suggestions_are_what_training_and_ranker_do_by_themselves() -> None:
    trial = Fixed(default_parameters(SHOP))
    options = suggest_options(trial, list(GROUPS), SHOP)
    assert options.pop("loss_weights") == [1.0, 1.0, 1.0]
    ranker = options.pop("ranker")
    of_training, of_ranker = signature(train).parameters, signature(Ranker).parameters
    assert options == {name: of_training[name].default for name in options}
    for name, value in ranker.items():
        default = of_ranker[name].default
        assert (tuple(value) if isinstance(value, list) else value) == default, name


def test_every_default_lies_in_what_is_searched() -> None:
    trial = Fixed(default_parameters(SHOP))
    suggest_options(trial, list(GROUPS), SHOP)
    for name, asked in trial.asked.items():
        value = trial.parameters[name]
        assert value in asked if isinstance(asked, list) else asked[0] <= value <= asked[1], name
    assert set(DEFAULTS) <= set(trial.asked)


def test_settings_of_mixtures_are_asked_for_where_there_are_mixtures() -> None:
    bottom = suggest_options(Fixed({"sharing": "shared_bottom"}), ["sharing"], SHOP)
    assert bottom == {"ranker": {"sharing": "shared_bottom"}}
    told = {"sharing": "ple", "experts": 4, "task_experts": 2, "levels": 1}
    assert suggest_options(Fixed(told), ["sharing"], SHOP) == {"ranker": told}


def test_widths_are_lists_of_numbers() -> None:
    options = suggest_options(Fixed({"expert_widths": "128,64", "tower_widths": ""}), ["width"], SHOP)
    assert options == {"ranker": {"expert_widths": [128, 64], "tower_widths": []}}


def test_weights_are_suggested_where_they_are_fixed() -> None:
    fixed = {"balancing": "fixed", "loss_weight_1": 0.5, "loss_weight_2": 4.0}
    assert suggest_options(Fixed(fixed), ["balancing"], SHOP) == {
        "balancing": "fixed",
        "loss_weights": [1.0, 0.5, 4.0],
    }
    assert suggest_options(Fixed({"balancing": "dwa"}), ["balancing"], SHOP) == {"balancing": "dwa"}


def test_balancings_that_need_a_missing_package_are_not_suggested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.search_space.find_spec", lambda name: None)
    assert possible_balancings() == ["fixed", "uncertainty", "dwa", "gradnorm"]


@pytest.mark.parametrize(
    ("groups", "shop", "message"),
    [
        (["planet"], SHOP, "search must name groups out of sharing, width, .*; got planet"),
        (["histories"], Shop(2), "search must not name histories where no list has history_of; got histories"),
        (["balancing"], Shop(1), "search must not name balancing where there is one objective; got balancing"),
    ],
)
def test_groups_must_be_known_and_possible(groups: list[str], shop: Shop, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        suggest_options(Fixed(dict(DEFAULTS)), groups, shop)


def test_of_two_settings_the_second_counts() -> None:
    first, second = {"lr": 1, "ranker": {"experts": 2, "crosses": 1}}, {"lr": 2, "ranker": {"crosses": 3}}
    assert merged(first, second) == {"lr": 2, "ranker": {"experts": 2, "crosses": 3}}
    assert merged({"lr": 1}, {}) == {"lr": 1}
