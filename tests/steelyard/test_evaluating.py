from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from feature_eng.arrow_columns import plan_columns
from feature_eng.log_checks import LogPolicies
from feature_eng.schema import SchemaError
from models.evaluation import BAYES, POPULARITY, RANKER
from models.popularity import SMOOTHING_ROWS, Popularity
from models.prediction import load_predictor
from steelyard.evaluating import evaluate_log, evaluate_parts, save_popularity
from tests.conftest import Shop


def test_each_system_is_judged_by_its_own_predictions_on_the_same_rows(shop: Shop) -> None:
    evaluation = evaluate_log(shop.bundle, str(shop.test), replicates=0)
    table = pq.read_table(shop.test)
    log = table.to_pandas()
    predictor = load_predictor(shop.bundle.plan, shop.bundle.ranker)
    predictions = predictor.predict(plan_columns(table, shop.bundle.schema.inputs), len(log))
    popularity = Popularity.load(shop.bundle.popularity).predict(log["item_id"].to_numpy())
    assert evaluation.rows == len(log)
    for index, name in enumerate(("click", "purchase")):
        truths = {RANKER: predictions[:, index], POPULARITY: popularity[:, index], BAYES: log[f"true_{name}"]}
        for system, scores in truths.items():
            assert evaluation.value(name, "AUC", system) == pytest.approx(roc_auc_score(log[name], scores), abs=1e-5)
    total = predictions[:, 2].sum() / log["order_value"].sum()
    assert evaluation.value("revenue", "predicted / observed") == pytest.approx(total, rel=1e-4)


def test_a_log_without_the_truth_is_judged_beside_popularity_alone(shop: Shop, tmp_path: Path) -> None:
    log = pq.read_table(shop.test).to_pandas().head(400)
    log.drop(columns=[f"true_{name}" for name in ("click", "purchase", "revenue")]).to_parquet(tmp_path / "log.parquet")
    evaluation = evaluate_log(shop.bundle, tmp_path / "log.parquet", replicates=0)
    assert {figure.system for figure in evaluation.figures} == {RANKER, POPULARITY}


def test_policies_decide_which_rows_are_judged(shop: Shop, tmp_path: Path) -> None:
    log = pq.read_table(shop.test).to_pandas().head(400)
    log.loc[:9, ["click", "purchase"]] = [0, 1]
    log.to_parquet(tmp_path / "log.parquet")
    with pytest.raises(SchemaError, match="must be 0 where the label it is given is 0"):
        evaluate_log(shop.bundle, tmp_path / "log.parquet", replicates=0)
    dropped = evaluate_log(shop.bundle, tmp_path / "log.parquet", LogPolicies(conversions="drop"), replicates=0)
    assert dropped.rows == 390


def test_a_bundle_without_popularity_is_judged_without_it(shop: Shop, tmp_path: Path) -> None:
    pq.write_table(pq.read_table(shop.test).slice(0, 400), tmp_path / "part-00000.parquet")
    bundle = shop.bundle
    found = evaluate_parts(bundle.schema, bundle.plan, bundle.ranker, tmp_path / "none.npz", tmp_path, replicates=0)
    assert {figure.system for figure in found.figures} == {RANKER, BAYES}


def test_popularity_is_each_item_s_smoothed_mean_over_the_training_log(shop: Shop, tmp_path: Path) -> None:
    log = pd.DataFrame(
        {"item_id": [1, 1, 2, 3], "click": [1.0, 0, 1, 0], "purchase": [1.0, 0, 0, 0], "order_value": [8.0, 0, 0, 0]}
    )
    log.to_parquet(tmp_path / "part-00000.parquet")
    save_popularity(shop.bundle.schema, tmp_path, tmp_path / "popularity.npz")
    found = Popularity.load(tmp_path / "popularity.npz").predict(np.array([1, 3, 77]))
    overall = log[["click", "purchase", "order_value"]].mean().to_numpy()
    one = (np.array([1, 1, 8]) + SMOOTHING_ROWS * overall) / (2 + SMOOTHING_ROWS)
    three = SMOOTHING_ROWS * overall / (1 + SMOOTHING_ROWS)
    np.testing.assert_allclose(found, [one, three, overall], rtol=1e-6)


def test_a_shop_without_items_has_no_popularity(shop: Shop, tmp_path: Path) -> None:
    save_popularity(shop.bundle.schema.model_copy(update={"item": None}), tmp_path, tmp_path / "popularity.npz")
    assert not (tmp_path / "popularity.npz").exists()
