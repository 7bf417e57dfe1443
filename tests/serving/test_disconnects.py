"""A request whose client has closed the connection is not generated any further."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from easyedit_lifelong.serving.api_errors import ApiError
from easyedit_lifelong.serving.guard import Guard
from easyedit_lifelong.serving.metrics import Metrics
from tests.support.http_servers import MODEL, network_server
from tests.support.served_models import PROMPTS

WAIT = 60


def metrics(url: str) -> str:
    return httpx.get(f"{url}/v1/metrics", timeout=WAIT).text


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_whose_client_has_gone_is_not_generated(tmp_path: Path, stream: bool) -> None:
    apps: list[Any] = []
    body = {"model": MODEL, "prompt": PROMPTS[0], "stream": stream}
    with network_server(tmp_path, apps.append) as (url, _):
        engine, release = apps[0].state.served.engine, threading.Event()
        engine.run(lambda: release.wait(WAIT))
        try:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{url}/v1/completions", json=body, timeout=0.5)
            limit = time.monotonic() + 10
            while 'requests_total{status="499"} 1' not in metrics(url) and time.monotonic() < limit:
                time.sleep(0.02)
        finally:
            release.set()
        engine.run(lambda: None).result(WAIT)  # after the request, if that is generated
        assert "step_rows_total" not in metrics(url)
        assert httpx.post(f"{url}/v1/completions", json={**body, "stream": False}, timeout=WAIT).status_code == 200
        assert "step_rows_total" in metrics(url)


HEADERS = b"Host: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
FACT = b'{"prompt": "the capital of France is", "target_new": "Rome"}'


@contextlib.contextmanager
def connection(url: str) -> Iterator[socket.socket]:
    """A connection on which the head of a request has been sent, and its body without the chunk that ends it."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=WAIT) as connected:
        connected.sendall(b"POST /v1/edits HTTP/1.1\r\n" + HEADERS + f"{len(FACT):x}\r\n".encode() + FACT + b"\r\n")
        yield connected


def test_a_body_that_does_not_end_is_a_timeout(tmp_path: Path) -> None:
    with network_server(tmp_path, timeout=0.5) as (url, live):
        with connection(url) as connected:
            assert connected.recv(100).startswith(b"HTTP/1.1 504 ")
        assert live.version == 0


def test_a_body_whose_client_has_gone_is_not_edited(tmp_path: Path) -> None:
    with network_server(tmp_path) as (url, live):
        with connection(url):
            pass
        limit = time.monotonic() + 10
        while 'requests_total{status="499"} 1' not in metrics(url) and time.monotonic() < limit:
            time.sleep(0.02)
        assert 'requests_total{status="499"} 1' in metrics(url)
        assert live.version == 0


def test_the_time_for_a_body_is_linear_in_its_parts(tmp_path: Path) -> None:
    messages = [{"type": "http.request", "body": b" ", "more_body": True}] * 60_000

    async def receive() -> Any:
        return messages.pop()

    guard = Guard(None, lambda: 0, Metrics(), 50_000, WAIT, True)  # type: ignore[arg-type]
    began = time.process_time()
    with pytest.raises(ApiError, match="larger than 50000 bytes"):
        asyncio.run(guard._body(receive))
    assert time.process_time() - began < 5  # adding up all parts for each part takes a minute
