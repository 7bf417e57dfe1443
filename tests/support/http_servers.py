"""Servers for the tests of the HTTP API: of a tiny Llama, in this process, at a free port or without a network."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from easyedit_lifelong.serving.app import create_app
from easyedit_lifelong.serving.engine import Engine
from easyedit_lifelong.serving.live_model import LiveModel
from easyedit_lifelong.serving.metrics import Metrics
from easyedit_lifelong.serving.served import ServerSettings
from easyedit_lifelong.serving.server import http_server, open_socket, running_engine, url_of
from tests.support.served_models import live_model

MODEL = "tiny"
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
"""A chat is the text of its messages, so that edits answer in chats, too."""


@dataclass
class LocalServer:
    """A server in this process.

    Attributes:
        live: its model.
        engine: its engine.
        client: an HTTP client without a network.
    """

    live: LiveModel
    engine: Engine
    client: TestClient

    def complete(self, prompt: Any, model: str = MODEL, **fields: Any) -> Any:
        """Ask for a completion, greedily by default; return the answer."""
        body = {"model": model, "prompt": prompt, "temperature": 0, "max_tokens": 4, **fields}
        return self.client.post("/v1/completions", json=body)

    def text(self, prompt: str, model: str = MODEL) -> str:
        """Return the greedy completion of a prompt."""
        answer = self.complete(prompt, model)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["text"])

    def edit(self, *facts: dict[str, Any]) -> Any:
        """Add edits; return the answer's body."""
        answer = self.client.post("/v1/edits", json=facts[0] if len(facts) == 1 else list(facts))
        assert answer.status_code == 201, answer.text
        return answer.json()


@contextlib.contextmanager
def local_server(
    folder: Path,
    hparams: Any = None,
    *,
    max_waiting: int = 64,
    max_rows: int = 16,
    chat_template: str | None = CHAT_TEMPLATE,
    **settings: Any,
) -> Iterator[LocalServer]:
    """Run a server on a folder, without a network."""
    metrics = Metrics()
    with live_model(folder, hparams) as live:
        live.tokenizer.chat_template = chat_template
        with running_engine(live, metrics, max_waiting=max_waiting, max_rows=max_rows) as engine:
            app = create_app(engine, ServerSettings(**{"name": MODEL, "max_tokens": 64, **settings}), metrics)
            with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
                yield LocalServer(live, engine, client)


@contextlib.contextmanager
def network_server(
    folder: Path, prepare: Callable[[Any], object] = lambda app: None, hparams: Any = None, **settings: Any
) -> Iterator[tuple[str, LiveModel]]:
    """Run a server on a folder at a free port, in a thread; yield its URL and its model.

    Args:
        folder: the folder.
        prepare: receives the app before the server starts.
        hparams: the hyperparameters of its edits; None for GRACE.
        **settings: the server's settings.
    """
    metrics = Metrics()
    with live_model(folder, hparams) as live, open_socket("127.0.0.1", 0) as listening:
        live.tokenizer.chat_template = CHAT_TEMPLATE
        with running_engine(live, metrics) as engine:
            server = http_server(engine, ServerSettings(**{"name": MODEL, "max_tokens": 64, **settings}), metrics)
            prepare(server.config.app)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()
            try:
                while not server.started:
                    time.sleep(0.01)
                yield url_of(listening), live
            finally:
                server.should_exit = True
                thread.join()
