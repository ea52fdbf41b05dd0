"""Clients of a served ranker: candidates in, ranked candidates out; over gRPC or HTTP, sync or asyncio."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from types import TracebackType
from typing import Any

from aiohttp import ClientError
from tritonclient.utils import InferenceServerException

from triton_repo.repository import ENSEMBLE, PREDICTIONS, SCORES
from triton_repo.served_ranker import Items, RankedItem, RankingError, Row, ServedRanker

OUTPUTS = (SCORES, PREDICTIONS)

# gRPC wraps its failures; over HTTP come those of sockets, of two HTTP libraries, and of JSON that is none.
_FAILURES = (InferenceServerException, OSError, asyncio.TimeoutError, HTTPException, ClientError, ValueError)


class RankingClient:
    """Ranks candidates on a server.

    Args:
        url: `host:port` or `grpc://host:port` for gRPC, `http://host:port` for HTTP.
        timeout_s: how long the server may leave a call without an answer.

    Raises:
        RankingError: the server cannot be reached in time, or serves no ranker.
        ValueError: the URL has another scheme.
    """

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        self._protocol, address = split_url(url)
        self._timeout_s = timeout_s
        self._client = _connection(self._protocol, address, timeout_s)
        try:
            with _failures_named(f"{url} must serve a ranker; got "):
                config = self._client.get_model_config(ENSEMBLE, **_config_options(self._protocol, timeout_s))
                self.served = ServedRanker.from_parameter(_parameter(config))
        except RankingError:
            self._client.close()
            raise

    def rank(self, user: Row, items: Items, weights: Mapping[str, float] | None = None) -> list[RankedItem]:
        """Return the candidates of one request, best first.

        Args:
            user: the user's and the context's values by column; None is a null.
            items: a list of mappings, a mapping of columns, or a DataFrame.
            weights: by objective, those not named weighing nothing; the server's own where absent.

        Raises:
            ValueError: a column is missing, a value does not fit, or a weight names no objective.
            RankingError: the server refused the request or did not answer in time.
        """
        inputs, outputs = _message(self._protocol, self.served.tensors(user, items, weights))
        options = _call_options(self._protocol, self._timeout_s)
        with _failures_named():
            answer = self._client.infer(ENSEMBLE, inputs, outputs=outputs, **options)
        return self.served.ranking(items, *(answer.as_numpy(name) for name in OUTPUTS))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> RankingClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncRankingClient:
    """Ranks candidates on a server from asyncio; use it as `async with AsyncRankingClient(url) as client`.

    Args:
        url: as of `RankingClient`.
        timeout_s: as of `RankingClient`.
    """

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        self._url, self._timeout_s = url, timeout_s
        self._protocol, self._address = split_url(url)

    async def __aenter__(self) -> AsyncRankingClient:
        self._client = _connection(f"{self._protocol}.aio", self._address, self._timeout_s)
        options = _config_options(self._protocol, self._timeout_s)
        try:
            with _failures_named(f"{self._url} must serve a ranker; got "):
                config = await self._client.get_model_config(ENSEMBLE, **options)
                self.served = ServedRanker.from_parameter(_parameter(config))
        except BaseException:  # a cancellation too
            await self._client.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def rank(self, user: Row, items: Items, weights: Mapping[str, float] | None = None) -> list[RankedItem]:
        """Return the candidates of one request, best first; see `RankingClient.rank`."""
        inputs, outputs = _message(self._protocol, self.served.tensors(user, items, weights))
        options = _call_options(self._protocol, self._timeout_s)
        with _failures_named():
            answer = await self._client.infer(ENSEMBLE, inputs, outputs=outputs, **options)
        return self.served.ranking(items, *(answer.as_numpy(name) for name in OUTPUTS))


def split_url(url: str) -> tuple[str, str]:
    """Return the protocol, `grpc` or `http`, and the address.

    Raises:
        ValueError: the scheme is another.
    """
    scheme, separator, address = url.partition("://")
    if not separator:
        return "grpc", url
    if scheme not in ("grpc", "http"):
        raise ValueError(f"url must begin with grpc:// or http://; got {url}")
    return scheme, address.rstrip("/")


def _module(protocol: str) -> Any:
    return importlib.import_module(f"tritonclient.{protocol}")


def _connection(transport: str, address: str, timeout_s: float) -> Any:
    """Return tritonclient's client; over HTTP it bounds every call itself, over gRPC each call names its bound."""
    bounds = {
        "http": {"connection_timeout": timeout_s, "network_timeout": timeout_s},
        "http.aio": {"conn_timeout": timeout_s},
    }
    return _module(transport).InferenceServerClient(address, **bounds.get(transport, {}))


def _call_options(protocol: str, timeout_s: float) -> dict[str, Any]:
    return {"client_timeout": timeout_s} if protocol == "grpc" else {}


def _config_options(protocol: str, timeout_s: float) -> dict[str, Any]:
    """Return also what makes gRPC answer with dictionaries, as HTTP does."""
    return {"as_json": True, **_call_options(protocol, timeout_s)} if protocol == "grpc" else {}


@contextmanager
def _failures_named(rule: str = "") -> Iterator[None]:
    """Turn what the transports raise into a RankingError."""
    try:
        yield
    except _FAILURES as error:
        raise RankingError(f"{rule}{str(error) or type(error).__name__}") from None


def _parameter(config: Mapping[str, Any]) -> str:
    parameters = config.get("config", config).get("parameters", {})
    if "steelyard" not in parameters:
        raise ValueError(f"a model {ENSEMBLE} that is not steelyard's")
    return str(parameters["steelyard"]["string_value"])


def _message(protocol: str, tensors: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    module = _module(protocol)
    inputs = []
    for name, (array, datatype) in tensors.items():
        tensor = module.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs, [module.InferRequestedOutput(name) for name in OUTPUTS]
