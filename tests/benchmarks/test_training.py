from pathlib import Path

import pytest

from benchmarks.quality_data import DATA, pack
from benchmarks.training import measure, rates


def test_rows_per_second_are_those_of_the_median_epoch_and_held_against_the_bare_loop() -> None:
    found = rates(1_000, {"steelyard": [0.2, 0.5, 0.25], "limit": [0.2, 0.2, 9.0]})
    assert found == [
        {"system": "steelyard", "rows_per_s": 4_000.0, "of_limit": 0.8},
        {"system": "limit", "rows_per_s": 5_000.0, "of_limit": 1.0},
    ]


def test_without_the_bare_loop_there_is_nothing_to_hold_against() -> None:
    assert rates(10, {"steelyard": [1.0]}) == [{"system": "steelyard", "rows_per_s": 10.0, "of_limit": None}]


@pytest.mark.slow
def test_the_ranker_and_the_bare_loop_train_on_a_simulated_shop(tmp_path: Path) -> None:
    features = pack(DATA["simulated"], tmp_path, 6_000)
    found = measure(features, ["steelyard", "limit"], rounds=1, epochs=2)
    assert [result["system"] for result in found] == ["steelyard", "limit"]
    assert all(result["rows_per_s"] > 0 for result in found)
