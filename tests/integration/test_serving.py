"""The real server: good requests, bad requests, and a good one after each bad one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
import tritonclient.grpc as grpc
import tritonclient.http as http
from grpc import RpcError, insecure_channel
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from models.blending import blend
from tests.integration.conftest import MAX_CANDIDATES, Served
from triton_repo.client import AsyncRankingClient, RankingClient
from triton_repo.served_ranker import RankingError

pytestmark = pytest.mark.triton

Tensors = dict[str, tuple[np.ndarray[Any, Any], str]]


def expected(served: Served, tensors: Tensors, rows: int, weights: Any) -> tuple[Any, Any]:
    """Return the scores and predictions that plan, eager ranker and blend give."""
    columns = {name: array for name, (array, _) in tensors.items() if name != "objective_weights"}
    categorical, continuous = served.plan.run(columns, rows)
    with torch.inference_mode():
        predictions = served.ranker(torch.from_numpy(categorical), torch.from_numpy(continuous)).numpy()
    return blend(predictions, np.asarray(weights, np.float32), "linear"), predictions


def infer(served: Served, tensors: Tensors, protocol: str = "grpc", model: str = "ranking") -> Any:
    module: Any = {"grpc": grpc, "http": http}[protocol]
    with module.InferenceServerClient(getattr(served.server, f"{protocol}_url")) as client:
        inputs = []
        for name, (array, datatype) in tensors.items():
            tensor = module.InferInput(name, list(array.shape), datatype)
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        return client.infer(model, inputs)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("candidates", [1, 7, MAX_CANDIDATES])
def test_the_server_gives_what_plan_ranker_and_blend_give(
    served: Served, request_of: Any, protocol: str, candidates: int
) -> None:
    user, items = request_of(candidates)
    with RankingClient(served.server.grpc_url) as client:
        tensors = client.served.tensors(user, items, None)
    answer = infer(served, tensors, protocol)
    scores, predictions = expected(served, tensors, candidates, served.schema.default_weights)
    assert answer.as_numpy("scores").shape == (candidates,)
    np.testing.assert_allclose(answer.as_numpy("scores"), scores, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(answer.as_numpy("predictions"), predictions, rtol=1e-5, atol=1e-6)


def test_every_client_gives_the_same_ranking(served: Served, request_of: Any) -> None:
    user, items = request_of(30)
    weights = {"revenue": 1.0}
    urls = [f"grpc://{served.server.grpc_url}", f"http://{served.server.http_url}"]

    async def ask(url: str) -> Any:
        async with AsyncRankingClient(url) as client:
            return await client.rank(user, items, weights)

    rankings = [asyncio.run(ask(url)) for url in urls]
    for url in urls:
        with RankingClient(url) as client:
            rankings.append(client.rank(user, items, weights))
    assert all(ranking == rankings[0] for ranking in rankings[1:])
    assert [ranked.item for ranked in rankings[0]] == [items[ranked.index]["item_id"] for ranked in rankings[0]]
    assert all(a.score >= b.score for a, b in zip(rankings[0], rankings[0][1:], strict=False))
    assert list(rankings[0][0].predictions) == ["click", "purchase", "revenue"]


def test_items_may_be_rows_columns_or_a_frame(served: Served, request_of: Any) -> None:
    import pandas as pd

    user, items = request_of(10)
    columns = {name: [item[name] for item in items] for name in items[0]}
    with RankingClient(served.server.grpc_url) as client:
        rankings = [client.rank(user, given) for given in (items, columns, pd.DataFrame(items))]
    assert rankings[0] == rankings[1] == rankings[2]


def test_weights_at_request_time_change_the_order(served: Served, request_of: Any) -> None:
    user, items = request_of(200)
    with RankingClient(served.server.grpc_url) as client:
        orders = [[r.index for r in client.rank(user, items, w)] for w in ({"click": 1.0}, {"revenue": 1.0})]
    assert orders[0] != orders[1]


def test_requests_at_the_same_time_do_not_mix(served: Served, request_of: Any) -> None:
    asked = [(*request_of(candidates, seed), {"click": float(seed)}) for seed, candidates in enumerate([1, 5, 64, 300])]
    with RankingClient(served.server.grpc_url) as client:
        alone = [client.rank(*request) for request in asked]

    def ask(request: Any) -> Any:
        with RankingClient(served.server.grpc_url) as client:
            return [client.rank(*request) for _ in range(20)]

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(ask, asked))
    for one, many in zip(alone, together, strict=True):
        for ranking in many:
            assert sorted(r.index for r in ranking) == sorted(r.index for r in one)
            by_index = {r.index: r.score for r in one}
            np.testing.assert_allclose([r.score for r in ranking], [by_index[r.index] for r in ranking], rtol=1e-5)


def test_unseen_values_and_nulls_are_served(served: Served) -> None:
    user = {"user_id": 10**15, "history": None, "device": None, "timestamp": None}
    items = [
        {"item_id": "never seen", "price": None, "tags": [], "title": "中文 title"},
        {"item_id": None, "price": 1.0},
    ]
    with RankingClient(served.server.grpc_url) as client:
        ranking = client.rank(user, items)
    assert len(ranking) == 2
    assert all(np.isfinite(ranked.score) for ranked in ranking)


def _changed(**changes: Any) -> Callable[[Tensors], Tensors]:
    def change(tensors: Tensors) -> Tensors:
        return {**tensors, **{name: change_one(*tensors[name]) for name, change_one in changes.items()}}

    return change


def _without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def _with(name: str, array: Any, datatype: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, name: (np.asarray(array), datatype)}


def _emptied(tensors: Tensors) -> Tensors:
    items = ("item_id", "price", "title", "tags__values")
    emptied = {name: (tensors[name][0][:0], tensors[name][1]) for name in items}
    return {**tensors, **emptied, "tags__offsets": (np.array([0]), "INT64")}


BAD_REQUESTS = {
    "a missing tensor": (_without("price"), r"missing required input\(s\) \['price'\]"),
    "an extra tensor": (_with("colour", [1.0], "FP64"), r"unexpected inference input 'colour'"),
    "another dtype": (_changed(price=lambda a, _: (a.astype(np.float64), "FP64")), r"'price'.* data-type is 'FP64'"),
    "fewer prices than items": (_changed(price=lambda a, t: (a[:-1], t)), r"price must be of 20 candidates.*got 19"),
    "one price for all items": (_changed(price=lambda a, t: (a[:1], t)), r"price must be of 20 candidates.*got 1"),
    "fewer lists than items": (
        _changed(tags__offsets=lambda a, t: (a[:-1], t)),
        r"tags__offsets must be of 20 candidates.*got 19",
    ),
    "no candidates": (_emptied, r"item_id must be of 1 to 600 candidates; got 0"),
    "two users": (_changed(user_id=lambda a, t: (np.repeat(a, 2), t)), r"'user_id'.*[Ee]xpected \[1\], got \[2\]"),
    "NaN weights": (
        _with("objective_weights", np.array([1, np.nan, 1], np.float32), "FP32"),
        r"objective_weights must be finite.*got nan for purchase",
    ),
    "infinite weights": (
        _with("objective_weights", np.array([np.inf, 1, 1], np.float32), "FP32"),
        r"objective_weights must be finite.*got inf for click",
    ),
    "too few weights": (
        _with("objective_weights", np.ones(2, np.float32), "FP32"),
        r"'objective_weights'.*[Ee]xpected \[3\], got \[2\]",
    ),
    "other bytes than UTF-8": (
        _changed(title=lambda a, t: (np.array([b"\xff\xfe"] * len(a), dtype=object), t)),
        r"title must be UTF-8",
    ),
    "offsets that fall": (
        _changed(tags__offsets=lambda a, t: (np.concatenate([a[:1], a[1:][::-1]]), t)),
        r"tags__offsets must rise from 0",
    ),
    "offsets beyond the values": (
        _changed(tags__offsets=lambda a, t: (a + 5, t)),
        r"tags__offsets must rise from 0",
    ),
    "a matrix for a column": (
        _changed(price=lambda a, t: (a[:, None], t)),
        r"'price'.*[Ee]xpected \[-1\], got \[20,1\]",
    ),
}


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_bad_request_is_told_why_and_the_server_lives(
    served: Served, request_of: Any, case: str, protocol: str
) -> None:
    spoil, message = BAD_REQUESTS[case]
    user, items = request_of(20)
    with RankingClient(served.server.grpc_url) as client:
        tensors = client.served.tensors(user, items, None)
        with pytest.raises(InferenceServerException, match=message):
            infer(served, spoil(tensors), protocol)
        assert len(client.rank(user, items)) == 20


def test_too_many_candidates_are_refused(served: Served, request_of: Any) -> None:
    user, items = request_of(MAX_CANDIDATES + 1)
    with RankingClient(served.server.grpc_url) as client:
        with pytest.raises(RankingError, match="item_id must be of 1 to 600 candidates; got 601"):
            client.rank(user, items)
        assert len(client.rank(user, items[:3])) == 3


def _json_request(tensors: Tensors) -> dict[str, Any]:
    def data(array: Any) -> list[Any]:
        return [v.decode() if isinstance(v, bytes) else v for v in array.tolist()]

    inputs = [
        {"name": name, "shape": list(array.shape), "datatype": datatype, "data": data(array)}
        for name, (array, datatype) in tensors.items()
    ]
    return {"inputs": inputs}


def _post(served: Served, body: bytes) -> Any:
    request = Request(f"http://{served.server.http_url}/v2/models/ranking/infer", data=body)
    with urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


def test_plain_json_over_http_is_answered(served: Served, request_of: Any) -> None:
    user, items = request_of(5)
    items = [item | {"price": 1.5} for item in items]
    with RankingClient(served.server.grpc_url) as client:
        tensors = client.served.tensors(user, items, {"click": 1.0})
    answer = _post(served, json.dumps(_json_request(tensors)).encode())
    outputs = {output["name"]: output for output in answer["outputs"]}
    scores, _ = expected(served, tensors, 5, [1, 0, 0])
    assert outputs["scores"]["shape"] == [5]
    np.testing.assert_allclose(outputs["scores"]["data"], scores, rtol=1e-5)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"inputs": 3}', b'{"inputs": [{"name": "price"}]}', b"\xff\xfe"])
def test_a_body_that_is_no_request_is_refused_and_the_server_lives(
    served: Served, request_of: Any, body: bytes
) -> None:
    with pytest.raises(HTTPError) as refused:
        _post(served, body)
    assert json.loads(refused.value.read())["error"]
    with RankingClient(served.server.grpc_url) as client:
        assert len(client.rank(*request_of(3))) == 3


@pytest.mark.parametrize(
    ("name", "value", "got"),
    [
        ("price", None, "non-number as double"),
        ("title", None, "non-string as string"),
        ("user_id", None, "non-signed-integer as signed-integer"),
        ("objective_weights", None, "non-number as double"),
        ("price", "1.5", "non-number as double"),
        ("title", 7, "non-string as string"),
        ("user_id", 2**64, "non-signed-integer as signed-integer"),
    ],
)
def test_a_json_value_of_another_type_is_refused_and_the_server_lives(
    served: Served, request_of: Any, name: str, value: Any, got: str
) -> None:
    """Triton's own parser speaks, which names the rule but not the tensor."""
    user, items = request_of(3)
    items = [item | {"price": 1.0} for item in items]
    with RankingClient(served.server.grpc_url) as client:
        request = _json_request(client.served.tensors(user, items, {"click": 1.0}))
        next(tensor for tensor in request["inputs"] if tensor["name"] == name)["data"][0] = value
        with pytest.raises(HTTPError) as refused:
            _post(served, json.dumps(request).encode())
        assert got in json.loads(refused.value.read())["error"]
        assert len(client.rank(user, items)) == 3


@pytest.mark.parametrize(
    ("strings", "message"),
    [
        (b"\xff\xff\xff\x7fab", "expected 3 string elements for inference input 'title'.*got 1"),
        (b"\x00\x00\x00\x00" * 2 + b"\x09\x00\x00\x00bc", "incomplete string data for inference input 'title'"),
    ],
)
def test_strings_of_false_lengths_are_refused_and_the_server_lives(
    served: Served, request_of: Any, strings: bytes, message: str
) -> None:
    user, items = request_of(3)
    with RankingClient(served.server.grpc_url) as client:
        request = service_pb2.ModelInferRequest(model_name="ranking")
        for name, (array, datatype) in client.served.tensors(user, items, None).items():
            request.inputs.add(name=name, datatype=datatype, shape=array.shape)
            packed = serialize_byte_tensor(array).item() if datatype == "BYTES" and array.size else array.tobytes()
            request.raw_input_contents.append(strings if name == "title" else packed)
        with (
            insecure_channel(served.server.grpc_url) as channel,
            pytest.raises(RpcError, match=message),
        ):
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20)
        assert len(client.rank(user, items)) == 3


@pytest.mark.parametrize("wild", [-5, 10**9])
def test_ids_that_no_plan_gives_are_refused_by_rank_and_the_server_lives(
    served: Served, request_of: Any, wild: int
) -> None:
    layout = served.plan.layout
    tensors = {
        "categorical": (np.full((4, layout.categorical_width), wild, np.int32), "INT32"),
        "continuous": (np.zeros((4, len(layout.continuous)), np.float32), "FP32"),
    }
    with pytest.raises(InferenceServerException, match="not in the valid range"):
        infer(served, tensors, model="rank")
    with RankingClient(served.server.grpc_url) as client:
        assert len(client.rank(*request_of(3))) == 3


def test_a_client_names_what_a_request_lacks_before_sending_it(served: Served, request_of: Any) -> None:
    user, items = request_of(3)
    with RankingClient(served.server.grpc_url) as client:
        with pytest.raises(ValueError, match=r"request must have device \(context\).*devise may be meant as device"):
            client.rank({**{k: v for k, v in user.items() if k != "device"}, "devise": "phone"}, items)
        with pytest.raises(ValueError, match="items must hold at least one candidate; got none"):
            client.rank(user, [])
        with pytest.raises(ValueError, match="price must hold float32 values; got"):
            client.rank(user, [items[0] | {"price": "cheap"}])
        with pytest.raises(ValueError, match=r"weights must name objectives.*got clicks \(did you mean click\?\)"):
            client.rank(user, items, {"clicks": 1.0})


def test_a_client_says_what_it_cannot_reach() -> None:
    for url in ("grpc://127.0.0.1:9", "http://127.0.0.1:9"):
        with pytest.raises(RankingError, match=f"{url} must serve a ranker"):
            RankingClient(url)
    with pytest.raises(ValueError, match="url must begin with grpc:// or http://; got ftp://host"):
        RankingClient("ftp://host")


def test_only_numpy_stands_behind_the_preprocess_step(served: Served) -> None:
    """Reads the step's own memory map: no library of torch, pandas, Arrow or Dask is in it."""
    from pathlib import Path

    children = [
        int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and _parent(path) == served.server.pid
    ]
    step = next(pid for pid in children if "/preprocess/" in Path(f"/proc/{pid}/cmdline").read_text())
    mapped = Path(f"/proc/{step}/maps").read_text()
    assert "numpy" in mapped
    assert not any(f"site-packages/{name}/" in mapped for name in ("torch", "pandas", "pyarrow"))


def _parent(path: Any) -> int:
    try:
        return int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return -1
