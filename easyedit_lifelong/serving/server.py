"""Run the HTTP server of a live model until the process is asked to end."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.serving.app import create_app
from easyedit_lifelong.serving.engine import Engine
from easyedit_lifelong.serving.graceful_server import GracefulServer
from easyedit_lifelong.serving.live_model import LiveModel
from easyedit_lifelong.serving.metrics import Metrics
from easyedit_lifelong.serving.served import ServerSettings

_KEEP_ALIVE = 75
"""Seconds after which an idle connection is closed.

Clients close idle connections, too; httpx, and so the OpenAI client, after 5 s. The server must not be first: a request
that a client sends at that moment would be lost.
"""


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address; port 0 stands for any free port.

    Raises:
        RunError: the address can't be used.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise RunError(f"--host {host} --port {port}: can't be used: {reason}. Choose another port.") from error


def url_of(listening: socket.socket) -> str:
    """Return the address of a socket as a URL."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def running_engine(
    live: LiveModel, metrics: Metrics, *, max_waiting: int = 256, max_rows: int = 32
) -> Iterator[Engine]:
    """Run a model's engine in this context. At the end, everything that waits is finished.

    Args:
        live: the model.
        metrics: counts the steps.
        max_waiting: how many requests and changes may wait.
        max_rows: how many answers are generated at the same time.
    """

    def count(rows: int, seconds: float) -> None:
        metrics.count("step_rows_total", rows)
        metrics.observe("step_seconds", seconds)

    engine = Engine(live, max_waiting=max_waiting, max_rows=max_rows, on_step=count)
    try:
        yield engine
    finally:
        engine.close()


def http_server(
    engine: Engine, settings: ServerSettings, metrics: Metrics, report: Callable[[str], None] = lambda line: None
) -> GracefulServer:
    """Return a server for an engine, whose ``run(sockets=[…])`` serves until it is asked to end.

    Args:
        engine: the engine.
        settings: the settings.
        metrics: the metrics.
        report: called with a line for the user when a signal asks the server to end.
    """
    config = uvicorn.Config(
        create_app(engine, settings, metrics),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=int(settings.timeout) + 1,
        lifespan="off",
    )
    return GracefulServer(config, report)
