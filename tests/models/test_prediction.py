import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from feature_eng.arrow_columns import plan_columns
from models import prediction
from models.export import export_ranker
from models.prediction import Predictor, load_predictor
from models.ranker import load_ranker
from tests.conftest import Shop
from tests.feature_eng.test_plan import small_plan


def test_predictions_are_those_of_the_eager_ranker_on_the_plan_s_features(shop: Shop) -> None:
    table = pq.read_table(shop.test).slice(0, 300)
    predictor = load_predictor(shop.bundle.plan, shop.bundle.ranker)
    columns = plan_columns(table, shop.bundle.schema.inputs)
    found = predictor.predict(columns, table.num_rows)
    packed = map(torch.from_numpy, predictor.plan.run(columns, table.num_rows))
    with torch.inference_mode():
        expected = load_ranker(shop.bundle.folder / "ranker")(*packed).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found.dtype == np.float32
    assert (found[:, 1] <= found[:, 0]).all()  # a purchase is chained to its click


@pytest.mark.parametrize("batch_rows", [1, 7, 100, 299])
def test_batches_give_what_one_pass_gives(shop: Shop, monkeypatch: pytest.MonkeyPatch, batch_rows: int) -> None:
    table = pq.read_table(shop.test).slice(0, 300)
    predictor = load_predictor(shop.bundle.plan, shop.bundle.ranker)
    columns = plan_columns(table, shop.bundle.schema.inputs)
    whole = predictor.predict(columns, table.num_rows)
    monkeypatch.setattr(prediction, "BATCH_ROWS", batch_rows)
    np.testing.assert_allclose(predictor.predict(columns, table.num_rows), whole, rtol=1e-5, atol=1e-7)


def test_no_rows_give_no_predictions() -> None:
    predictor = Predictor(small_plan(), lambda ids, numbers: numbers, torch.device("cpu"))
    assert predictor.predict({"price": np.array([], np.float32), "item": np.array([])}, 0).shape == (0, 1)


def test_a_process_keeps_one_copy_of_a_predictor(shop: Shop) -> None:
    first = load_predictor(shop.bundle.plan, shop.bundle.ranker)
    assert load_predictor(Path(shop.bundle.plan), Path(shop.bundle.ranker)) is first


def test_a_bundle_that_was_replaced_is_read_anew(shop: Shop, tmp_path: Path) -> None:
    table = pq.read_table(shop.test).slice(0, 50)
    columns = plan_columns(table, shop.bundle.schema.inputs)
    shutil.copytree(shop.bundle.plan, tmp_path / "plan")
    export_ranker(load_ranker(shop.bundle.folder / "ranker"), tmp_path / "ranker.pt")
    before = load_predictor(tmp_path / "plan", tmp_path / "ranker.pt").predict(columns, 50)
    other = load_ranker(shop.bundle.folder / "ranker")
    with torch.no_grad():
        other.heads.bias += 1
    export_ranker(other, tmp_path / "ranker.pt")
    assert (load_predictor(tmp_path / "plan", tmp_path / "ranker.pt").predict(columns, 50) > before).all()


def test_threads_bound_a_prediction_alone(shop: Shop) -> None:
    table = pq.read_table(shop.test).slice(0, 50)
    columns = plan_columns(table, shop.bundle.schema.inputs)
    predictor = load_predictor(shop.bundle.plan, shop.bundle.ranker)
    before = torch.get_num_threads()
    seen: list[int] = []

    def watched(*packed: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        predictions: torch.Tensor = predictor.ranker(*packed)
        return predictions

    found = Predictor(predictor.plan, watched, predictor.device).predict(columns, 50, threads=1)
    assert (seen, torch.get_num_threads()) == ([1], before)
    np.testing.assert_allclose(found, predictor.predict(columns, 50), rtol=1e-5, atol=1e-7)
