from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.objectives import Packed, conversion_divergence, measure
from feature_eng.layout import Layout
from feature_eng.simulator import shop_schema
from models.bootstrap import one_draw


def test_the_divergence_of_conversions_is_that_of_bernoulli_draws() -> None:
    test = pa.table({"true_click": [0.5, 0.2], "true_purchase": [0.1, 0.05]})
    packed = Packed(
        Path(), shop_schema(), Layout((), ()), test, (np.zeros((2, 0), np.int32), np.zeros((2, 0), np.float32))
    )
    predictions = np.array([[0.4, 0.08], [0.1, 0.05]], dtype=np.float32)
    # conversions of .2 and .25, predicted as .2 and .5
    expected = 1e3 * (0.25 * np.log(0.25 / 0.5) + 0.75 * np.log(0.75 / 0.5)) / 2
    assert conversion_divergence(packed, predictions, one_draw(2)) == pytest.approx([expected], rel=1e-5)


@pytest.mark.slow
def test_each_system_is_held_against_the_first_of_its_question() -> None:
    results = measure(rows=4_000, seeds=1)
    assert [result["question"] for result in results] == ["selection"] * 4 + ["position"] * 2 + ["position, sorted"] * 2
    firsts = {result["question"]: result["value"] for result in results if result["better_by"] is None}
    for result in results:
        if result["better_by"] is not None:
            lead = result["value"] - firsts[result["question"]]
            assert result["better_by"] == pytest.approx(-lead if result["question"] == "selection" else lead)
            assert result["better_low"] <= result["better_high"]
