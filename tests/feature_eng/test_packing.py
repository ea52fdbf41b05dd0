from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from feature_eng.layout import NO_NUMBER, Layout, Slot
from feature_eng.logs import prepare_log
from feature_eng.packing import as_served, out_of_fold, pack, write_features
from feature_eng.plan import Plan
from feature_eng.plan_files import load_plan
from feature_eng.workflow import load_workflow
from models.feature_shards import Features
from tests.conftest import Shop

STATISTICS = {"item_ctr", "item_purchase_rate", "user_ctr", "item_impressions"} | {
    "user_category_ctr",
    "segment_category_ctr",
    "segment_item_ctr",
}


def test_a_frame_is_packed_in_the_layout_s_order() -> None:
    layout = Layout((Slot("b", 9, width=2), Slot("a", 9)), ("x",))
    frame = pd.DataFrame({"a": [1], "x": [0.5], "b__1": [3], "b__0": [2]})
    categorical, continuous = pack(frame, layout)
    assert categorical.tolist() == [[2, 3, 1]]
    assert continuous.tolist() == [[0.5]]


def test_a_shop_without_numbers_gets_a_column_of_zeros() -> None:
    _, continuous = pack(pd.DataFrame({"a": [1, 2]}), Layout((Slot("a", 9),), (NO_NUMBER,)))
    assert continuous.tolist() == [[0.0], [0.0]]


@pytest.fixture(scope="module")
def features(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    folder = tmp_path_factory.mktemp("packing")
    schema, plan = shop.bundle.schema, load_plan(shop.bundle.plan)
    log = prepare_log(str(shop.log), schema, folder / "log", fraction=0.0).train
    labels = [objective.label for objective in schema.objectives]
    computing = {
        "training": out_of_fold(load_workflow(shop.bundle.workflow), plan.layout),
        "served": as_served(plan, schema),
    }
    done: list[int] = []
    for name, compute in computing.items():
        assert write_features(compute, log, labels, plan.layout, folder / name, done.append) == 8_000
    assert sum(done) == 2 * 8_000
    assert sorted(path.name for path in folder.iterdir()) == ["log", "served", "training"]
    return folder, plan


def test_labels_stand_beside_the_features_of_their_rows(features: tuple[Path, Plan]) -> None:
    folder, _ = features
    log = pq.read_table(folder / "log" / "train").to_pandas()
    labels = np.load(folder / "served" / "labels.npy")
    np.testing.assert_array_equal(labels[:, 0], log["click"])
    np.testing.assert_array_equal(labels[:, 2], log["order_value"])


def test_training_differs_from_serving_in_statistics_alone(features: tuple[Path, Plan]) -> None:
    folder, plan = features
    training, served = (
        [np.load(folder / side / f"{name}.npy") for name in ("categorical", "continuous")]
        for side in ("training", "served")
    )
    np.testing.assert_array_equal(training[0], served[0])
    for index, name in enumerate(plan.layout.continuous):
        same = np.allclose(training[1][:, index], served[1][:, index], rtol=1e-5, atol=1e-6)
        assert same == (name not in STATISTICS), name


def write_parts(log: Path, parts: int = 3) -> None:
    log.mkdir()
    for part in range(parts):
        rows = np.arange(part * 1_000, (part + 1) * 1_000)
        frame = pd.DataFrame({"a": rows, "click": (rows % 10 == 0).astype(np.float32), "place": rows % 7 + 1.0})
        frame.to_parquet(log / f"part-0000{part}.parquet")


def rows_of(table: Any) -> tuple[Any, Any]:
    return table.column("a").to_numpy()[:, None], np.ones((table.num_rows, 1), np.float32)


def test_positions_stand_beside_the_labels_of_their_rows(tmp_path: Path) -> None:
    write_parts(tmp_path / "log")
    layout = Layout((Slot("a", 9),), ("x",))
    write_features(rows_of, tmp_path / "log", ["click"], layout, tmp_path / "out", position="place")
    rows, positions = (np.load(tmp_path / "out" / f"{name}.npy") for name in ("categorical", "positions"))
    np.testing.assert_array_equal(positions, rows % 7 + 1)
    batch = Features.open(tmp_path / "out").read(5, 8)[2]
    assert batch.tolist() == [[0, 6], [0, 7], [0, 1]]


def test_a_share_of_the_negatives_is_packed_and_every_other_row(tmp_path: Path) -> None:
    write_parts(tmp_path / "log")
    layout, done = Layout((Slot("a", 9),), ("x",)), list[int]()
    sampling: dict[str, Any] = {"sampled": "click", "negatives": 0.25, "position": "place"}
    written = write_features(rows_of, tmp_path / "log", ["click"], layout, tmp_path / "out", done.append, **sampling)
    arrays = [np.load(tmp_path / "out" / f"{name}.npy")[:, 0] for name in ("categorical", "labels", "positions")]
    rows, labels, positions = arrays
    assert done == [1_000] * 3  # rows read
    assert written == len(rows) == len(np.unique(rows))
    np.testing.assert_array_equal(labels, rows % 10 == 0)
    np.testing.assert_array_equal(positions, rows % 7 + 1)
    assert labels.sum() == 300
    assert (labels == 0).sum() / 2_700 == pytest.approx(0.25, abs=0.03)
    write_features(rows_of, tmp_path / "log", ["click"], layout, tmp_path / "again", **sampling)
    np.testing.assert_array_equal(np.load(tmp_path / "again" / "categorical.npy")[:, 0], rows)


def test_features_appear_only_once_they_are_whole(tmp_path: Path) -> None:
    layout = Layout((Slot("a", 9),), ("x",))
    (tmp_path / "log").mkdir()
    for part in range(3):
        pd.DataFrame({"a": [part] * 5, "click": [1.0] * 5}).to_parquet(tmp_path / "log" / f"part-0000{part}.parquet")

    def compute(table: Any) -> tuple[Any, Any]:
        return table.column("a").to_numpy()[:, None], np.ones((5, 1), np.float32)

    def fail_at_the_last(table: Any) -> tuple[Any, Any]:
        if table.column("a")[0].as_py() == 2:
            raise InterruptedError
        return compute(table)

    out = tmp_path / "features"
    with pytest.raises(InterruptedError):
        write_features(fail_at_the_last, tmp_path / "log", ["click"], layout, out)
    assert not out.exists()
    assert write_features(compute, tmp_path / "log", ["click"], layout, out) == 15
    assert np.load(out / "categorical.npy")[:, 0].tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert {path.name for path in tmp_path.iterdir()} == {"log", "features"}
