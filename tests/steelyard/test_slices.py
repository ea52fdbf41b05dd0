import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from models.bootstrap import one_draw
from models.metrics import reliability_draws
from steelyard.cli import app
from steelyard.evaluating import judge_log
from steelyard.reliability import plot_reliability
from tests.conftest import Shop


def test_the_slices_of_a_column_are_its_values_rows(shop: Shop) -> None:
    rows = judge_log(shop.bundle, str(shop.test), by="device")
    log = pq.read_table(shop.test).to_pandas()
    slices = rows.slices("device")
    assert {name: int(mask.sum()) for name, mask in slices.items()} == {
        f"device {value}": count for value, count in log["device"].value_counts().items()
    }
    name, mask = next(iter(slices.items()))
    own = (log["device"] == name.removeprefix("device ")).to_numpy()
    expected = roc_auc_score(log["click"][own], rows.predictions[own, 0])
    assert rows.evaluate(mask, replicates=0).value("click", "AUC") == pytest.approx(expected, abs=1e-5)


def test_cold_items_are_those_that_the_training_log_does_not_have(shop: Shop) -> None:
    rows = judge_log(shop.bundle, str(shop.test), by="cold")
    slices = rows.slices("cold")
    assert set(slices) == {"warm user", "cold user", "warm item", "cold item"}
    known = pq.read_table(shop.log, columns=["item_id"]).column(0).to_numpy()
    unseen = ~np.isin(rows.columns["item_id"], known)
    assert unseen.any()
    assert slices["cold item"][unseen].all()
    assert (slices["cold item"] != slices["warm item"]).all()


def test_periods_have_equally_many_rows_in_order_of_time(shop: Shop) -> None:
    rows = judge_log(shop.bundle, str(shop.test), by="time")
    masks = list(rows.slices("time").values())
    assert [int(mask.sum()) for mask in masks] == [750] * 4
    times = rows.columns["timestamp"]
    assert all(times[a].max() <= times[b].min() for a, b in pairwise(masks))


def test_slices_are_by_something_that_the_log_has(shop: Shop) -> None:
    with pytest.raises(
        ValueError, match="by must be time, cold or a column of the cleaned log that is no list; got planet"
    ):
        judge_log(shop.bundle, str(shop.test), by="planet")


def test_a_reliability_diagram_has_the_mean_label_at_the_mean_prediction_of_each_bin() -> None:
    predictions = np.array([0.1, 0.1, 0.3, 0.5, 0.9, 0.9])
    labels = np.array([0.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    means, rates = reliability_draws(labels, predictions, one_draw(6), bins=3)
    np.testing.assert_allclose(means, [0.1, 0.4, 0.9])
    np.testing.assert_allclose(rates[:, 0], [0.5, 0.5, 1.0])


def test_evaluate_draws_a_diagram_and_lists_slices(shop: Shop, tmp_path: Path) -> None:
    plot = tmp_path / "reliability.png"
    told = ["--by", "device", "--plot", str(plot), "--replicates", "5", "--json"]
    ran = CliRunner().invoke(app, ["evaluate", str(shop.bundle.folder), str(shop.test), *told])
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert sum(each["rows"] for each in found["slices"].values()) == found["rows"] == 3000
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_diagram_needs_matplotlib_and_says_so(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(RuntimeError, match="plot must have matplotlib installed; got none"):
        plot_reliability(judge_log(shop.bundle, str(shop.test)), tmp_path / "reliability.png")


def test_periods_need_a_time(shop: Shop) -> None:
    rows = judge_log(shop.bundle, str(shop.test))
    timeless = replace(rows, schema=rows.schema.model_copy(update={"time": None}))
    with pytest.raises(ValueError, match="by must be a column or cold where the schema names no time; got time"):
        timeless.slices("time")
