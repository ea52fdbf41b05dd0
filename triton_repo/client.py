"""Clients of a served ranker: candidates in, ranked candidates out; over gRPC or HTTP, sync or asyncio."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from tritonclient.utils import InferenceServerException

from triton_repo.repository import ENSEMBLE
from triton_repo.served_ranker import Items, RankedItem, RankingError, Row, ServedRanker

OUTPUTS = ("scores", "predictions")


class RankingClient:
    """Ranks candidates on a server.

    Args:
        url: `host:port` or `grpc://host:port` for gRPC, `http://host:port` for HTTP.
        timeout_s: how long an answer may take.

    Raises:
        RankingError: the server cannot be reached, or serves no ranker.
        ValueError: the URL has another scheme.
    """

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        self._protocol, address = split_url(url)
        self._timeout_s = timeout_s
        self._client = _module(self._protocol).InferenceServerClient(address)
        try:
            config = self._client.get_model_config(ENSEMBLE, **_plain(self._protocol))
        except (InferenceServerException, OSError) as error:
            raise RankingError(f"{url} must serve a ranker; got {error}") from None
        self.served = ServedRanker.from_parameter(_parameter(config))

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
        try:
            answer = self._client.infer(ENSEMBLE, inputs, outputs=outputs, **_timeout(self._protocol, self._timeout_s))
        except (InferenceServerException, OSError) as error:
            raise RankingError(str(error)) from None
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
        timeout_s: how long an answer may take.
    """

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        self._url, self._timeout_s = url, timeout_s
        self._protocol, self._address = split_url(url)

    async def __aenter__(self) -> AsyncRankingClient:
        self._client = _module(f"{self._protocol}.aio").InferenceServerClient(self._address)
        try:
            config = await self._client.get_model_config(ENSEMBLE, **_plain(self._protocol))
        except (InferenceServerException, OSError) as error:
            await self._client.close()
            raise RankingError(f"{self._url} must serve a ranker; got {error}") from None
        self.served = ServedRanker.from_parameter(_parameter(config))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def rank(self, user: Row, items: Items, weights: Mapping[str, float] | None = None) -> list[RankedItem]:
        """Return the candidates of one request, best first; see `RankingClient.rank`."""
        inputs, outputs = _message(self._protocol, self.served.tensors(user, items, weights))
        timeout = _timeout(self._protocol, self._timeout_s)
        try:
            answer = await self._client.infer(ENSEMBLE, inputs, outputs=outputs, **timeout)
        except (InferenceServerException, OSError) as error:
            raise RankingError(str(error)) from None
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


def _plain(protocol: str) -> dict[str, Any]:
    """Return what makes gRPC answer with dictionaries, as HTTP does."""
    return {"as_json": True} if protocol == "grpc" else {}


def _timeout(protocol: str, seconds: float) -> dict[str, Any]:
    return {"client_timeout": seconds} if protocol == "grpc" else {"timeout": int(seconds * 1e6)}


def _parameter(config: Mapping[str, Any]) -> str:
    parameters = config.get("config", config)["parameters"]["steelyard"]
    return str(parameters["string_value"])


def _message(protocol: str, tensors: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    module = _module(protocol)
    inputs = []
    for name, (array, datatype) in tensors.items():
        tensor = module.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs, [module.InferRequestedOutput(name) for name in OUTPUTS]
