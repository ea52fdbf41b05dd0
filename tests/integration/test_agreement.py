"""The same rows through workflow + eager ranker + blend, batch scoring, and Triton over gRPC and HTTP."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from feature_eng.inputs import NULL_INT
from feature_eng.logs import clean_log
from feature_eng.packing import pack
from feature_eng.plan_files import load_plan
from feature_eng.workflow import load_workflow, serving_frame
from models.blending import blend
from models.ranker import load_ranker
from steelyard.exporting import export_bundle
from steelyard.scoring_jobs import score_with_bundle
from tests.conftest import Shop
from triton_repo.client import RankingClient
from triton_repo.server import find_tritonserver, start_server

WEIGHTS = {"click": 0.3, "purchase": 2.0, "revenue": 0.1}


@pytest.mark.triton
def test_training_batch_and_serving_agree(shop: Shop, tmp_path: Path) -> None:
    try:
        find_tritonserver()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    schema, names = shop.bundle.schema, shop.bundle.schema.objective_names
    log = pq.read_table(shop.test).to_pandas().head(200)
    log.loc[::3, "price"] = np.nan
    log.loc[::7, "item_id"] = 10**12 + log.index[::7]
    log["category"] = log["category"].where(log.index % 5 != 0, "never seen")
    log["brand"] = log["brand"].where(log.index % 4 != 0)
    log["title"] = log["title"].where(log.index % 6 != 0, "Größe 中文")
    log["item_id"] = log["item_id"].astype("Int64").mask(log.index % 11 == 0)
    log["published_at"] = log["published_at"].astype("Int64").mask(log.index % 9 == 0)
    first, second = (log["request_id"] == request for request in log["request_id"].unique()[:2])
    log.loc[first, ["budget", "user_segment", "device"]] = np.nan
    log["user_id"] = log["user_id"].astype("Int64").mask(first)
    log["history"] = [
        [] if none else ["never seen"] if new else h for h, none, new in zip(log["history"], first, second, strict=True)
    ]
    log.to_parquet(tmp_path / "log.parquet", index=False)

    cleaned = clean_log(tmp_path / "log.parquet", schema, tmp_path / "cleaned", labels=False).folder
    frame = pq.read_table(cleaned).to_pandas()
    workflow = load_workflow(shop.bundle.workflow)
    packed = pack(workflow.transform(serving_frame(schema, frame)), load_plan(shop.bundle.plan).layout)
    with torch.inference_mode():
        predictions = load_ranker(shop.bundle.folder / "ranker")(*map(torch.from_numpy, packed)).numpy()
    scores = blend(predictions, np.array([WEIGHTS[name] for name in names], np.float32), "linear")

    score_with_bundle(shop.bundle, tmp_path / "log.parquet", tmp_path / "scored", WEIGHTS)
    scored = pq.read_table(tmp_path / "scored").to_pandas()
    assert scored["item_id"].tolist() == frame["item_id"].tolist()
    assert frame[["user_id", "item_id", "published_at"]].eq(NULL_INT).any().all()
    assert frame[["brand", "user_segment", "device"]].eq("").any().all()
    np.testing.assert_allclose(scored["score"], scores, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scored[[f"predicted_{name}" for name in names]], predictions, rtol=1e-5, atol=1e-6)

    repository = export_bundle(shop.bundle, tmp_path / "triton")
    with start_server(repository, http_port=0, grpc_port=0, metrics_port=0, log=tmp_path / "server.log") as server:
        server.wait_ready()
        for url in (f"grpc://{server.grpc_url}", f"http://{server.http_url}"):
            with RankingClient(url) as client:
                for _, rows in frame.groupby("request_id", sort=False):
                    check_request(client, rows, scores, predictions)


def check_request(client: RankingClient, rows: pd.DataFrame, scores: np.ndarray, predictions: np.ndarray) -> None:
    items = rows.to_dict("records")
    ranking = client.rank(items[0], items, WEIGHTS)
    assert len(ranking) == len(rows)
    for ranked in ranking:
        row = rows.index[ranked.index]
        assert ranked.score == pytest.approx(float(scores[row]), rel=1e-5, abs=1e-6)
        assert list(ranked.predictions.values()) == pytest.approx(predictions[row].tolist(), rel=1e-5, abs=1e-6)
