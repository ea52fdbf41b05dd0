"""Clients held against servers that stall, hang up, or are no Triton."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from triton_repo.client import AsyncRankingClient, RankingClient
from triton_repo.served_ranker import RankingError

TIMEOUT_S = 0.5


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Give each connection to `answer` until the block ends; yields the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    taken: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            taken.append(connection)
            answer(connection)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield int(listener.getsockname()[1])
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()
    for connection in taken:
        connection.close()


def silence(connection: socket.socket) -> None:
    """Read nothing and answer nothing."""


def hang_up(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.close()


def saying(body: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    return answer


def open_sync(url: str) -> None:
    RankingClient(url, TIMEOUT_S)


def open_async(url: str) -> None:
    async def enter() -> None:
        async with AsyncRankingClient(url, TIMEOUT_S):
            pass

    asyncio.run(enter())


@pytest.mark.parametrize("opened", [open_sync, open_async])
@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_server_that_does_not_answer_is_given_up_in_time(opened: Any, scheme: str) -> None:
    with listening(silence) as port:
        began = time.monotonic()
        with pytest.raises(RankingError, match=rf"{scheme}://127.0.0.1:{port} must serve a ranker; got \S"):
            opened(f"{scheme}://127.0.0.1:{port}")
        assert TIMEOUT_S * 0.9 < time.monotonic() - began < TIMEOUT_S + 3


@pytest.mark.parametrize("opened", [open_sync, open_async])
@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_server_that_hangs_up_is_named(opened: Any, scheme: str) -> None:
    with listening(hang_up) as port, pytest.raises(RankingError, match=f":{port} must serve a ranker; got"):
        opened(f"{scheme}://127.0.0.1:{port}")


@pytest.mark.parametrize("opened", [open_sync, open_async])
@pytest.mark.parametrize(
    ("body", "got"),
    [
        (b"<html>", "Parse error"),
        (json.dumps({"name": "ranking", "parameters": {}}).encode(), "a model ranking that is not steelyard's"),
        (json.dumps({"name": "ranking"}).encode(), "a model ranking that is not steelyard's"),
    ],
)
def test_what_is_no_ranker_is_told_from_one(opened: Any, body: bytes, got: str) -> None:
    with listening(saying(body)) as port, pytest.raises(RankingError, match=f"must serve a ranker; got {got}"):
        opened(f"http://127.0.0.1:{port}")
