import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from models.leaks import number_codes, skill_alone, suspects, value_codes


def test_a_column_that_is_the_label_is_suspect_and_one_that_is_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((4000, 1)) < 0.1).astype(float)
    planted = labels[:, 0] + rng.normal(scale=0.1, size=4000)
    noise = rng.normal(size=4000)
    halves = rng.random(4000) < 0.5
    columns = {"refund_amount": planted, "noise": noise}
    alone = {name: skill_alone(number_codes(column), labels, halves) for name, column in columns.items()}
    assert alone["refund_amount"][0] > 0.95
    assert abs(alone["noise"][0]) < 0.12
    (found,) = suspects(alone, np.array([0.97]), ["click"])
    assert (found.column, found.objective) == ("refund_amount", "click")
    assert found.reason.startswith("alone it orders click with a normalised Gini of 1.00")


def test_a_leak_that_is_no_monotone_function_of_a_number_is_found() -> None:
    rng = np.random.default_rng(1)
    number = rng.normal(size=4000)
    labels = (np.abs(number) > 1.5).astype(float)[:, None]
    assert abs(roc_auc_score(labels, number) - 0.5) < 0.05
    assert skill_alone(number_codes(number), labels, rng.random(4000) < 0.5)[0] > 0.9


def test_what_is_missing_can_leak_too() -> None:
    rng = np.random.default_rng(2)
    labels = (rng.random((2000, 1)) < 0.2).astype(float)
    delivered = np.where(labels[:, 0] == 1, rng.random(2000), np.nan)
    assert skill_alone(number_codes(delivered), labels, rng.random(2000) < 0.5)[0] == pytest.approx(1.0)


def test_an_identifier_learns_nothing_of_its_own_rows() -> None:
    rng = np.random.default_rng(3)
    labels = (rng.random((2000, 1)) < 0.2).astype(float)
    assert abs(skill_alone(np.arange(2000), labels, rng.random(2000) < 0.5)[0]) < 1e-12


def test_a_column_that_beats_the_ranker_is_suspect() -> None:
    alone = {"a": np.array([0.3, 0.1]), "b": np.array([0.25, 0.1]), "c": np.array([np.nan, 0.9])}
    found = suspects(alone, np.array([0.25, 0.5]), ["click", "purchase"])
    assert [(each.column, each.objective) for each in found] == [("c", "purchase"), ("a", "click")]
    assert found[1].reason == "alone it orders click better than the ranker, 0.30 to 0.25"


def test_codes_name_quantiles_and_values() -> None:
    codes = number_codes(np.array([0.0, 0.0, 5.0, np.nan]))
    assert codes[0] == codes[1] < codes[2] < codes[3]
    assert value_codes(np.array(["b", "a", "b"])).tolist() == [1, 0, 1]
    assert len(set(number_codes(np.full(3, np.nan)))) == 1
