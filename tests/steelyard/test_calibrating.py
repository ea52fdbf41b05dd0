import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from feature_eng.layout import Layout, Slot
from feature_eng.simulator import shop_schema
from models.ranker import load_ranker
from steelyard.pipeline import FitOptions, fit, segment_place
from tests.conftest import SMALL, Shop


def test_a_calibrated_bundle_serves_other_numbers_than_its_ranker_and_says_how_far_off_they_were(
    shop: Shop, tmp_path: Path
) -> None:
    options = FitOptions(training=SMALL, calibration="platt", calibrate_by="device")
    bundle = fit(str(shop.log), shop_schema(), tmp_path / "bundle", options)
    found = {
        each["objective"]: each for each in json.loads((bundle.folder / "metrics.json").read_text())["calibration"]
    }
    assert found["click"]["method"] == "platt"
    log = pq.read_table(shop.log).to_pandas().sort_values("timestamp", kind="stable")
    counts = log.tail(len(log) // 10).groupby("device")["click"].agg(lambda clicks: min(sum(clicks), sum(1 - clicks)))
    assert found["click"]["segments"] == (counts >= 20).sum() > 0
    assert found["revenue"]["metric"] == "predicted / observed"
    plain = torch.jit.load(shop.bundle.ranker)
    served, eager = torch.jit.load(bundle.ranker), load_ranker(bundle.folder / "ranker")
    rng = np.random.default_rng(0)
    width = sum(eager.options["widths"])
    ids = torch.from_numpy(rng.integers(0, 4, (64, width)).astype(np.int32))
    numbers = torch.zeros(64, eager.options["continuous"])
    with torch.no_grad():
        before, after = eager(ids, numbers), served(ids, numbers)
        torch.testing.assert_close(plain(ids, numbers), before, rtol=1e-5, atol=1e-6)
    assert (before[:, 0] - after[:, 0]).abs().max() > 1e-3
    assert (after[:, 1] <= after[:, 0]).all()


def test_without_calibration_nothing_is_recorded_of_it(shop: Shop) -> None:
    assert "calibration" not in json.loads((shop.bundle.folder / "metrics.json").read_text())


def test_a_segment_is_a_slot_of_one_id_found_by_its_place() -> None:
    layout = Layout((Slot("user", 9), Slot("history", 7, 3), Slot("device", 5)), ("price",))
    assert segment_place(layout, "device") == (4, 5)
    assert segment_place(layout, None) == (-1, 0)
    with pytest.raises(ValueError, match="calibrate_by must be one of user, device; got history"):
        segment_place(layout, "history")


def test_an_unknown_calibration_is_refused_before_any_work(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"calibration must be one of none, temperature, .*, auto; got 'spline'"):
        fit(str(shop.log), shop_schema(), tmp_path / "bundle", FitOptions(calibration="spline"))
    assert not list(tmp_path.iterdir())
