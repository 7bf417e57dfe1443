"""A request whose client has closed the connection is not generated any further."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

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
        assert "batch_rows_total" not in metrics(url)
        assert httpx.post(f"{url}/v1/completions", json={**body, "stream": False}, timeout=WAIT).status_code == 200
        assert "batch_rows_total 1" in metrics(url)
