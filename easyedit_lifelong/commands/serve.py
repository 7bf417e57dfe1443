"""The command ``serve``: answer over HTTP with a model whose edits change while it runs."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
from typing import TYPE_CHECKING

from easyedit_lifelong.commands.options.serve import API_KEY, EDIT_KEY
from easyedit_lifelong.commands.run_session import load_model_for
from easyedit_lifelong.errors import PluginError, RunError
from easyedit_lifelong.paths import expanded_path
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.console_tables import print_line
from easyedit_lifelong.reporting.terminal import Console
from easyedit_lifelong.reporting.terminal_text import write_error
from easyedit_lifelong.runs.hyperparameter_files import find_method, load_hparams, replace_hparams

if TYPE_CHECKING:
    from easyedit_lifelong.serving.edit_log import EditLog
    from easyedit_lifelong.serving.graceful_server import GracefulServer


def run(arguments: argparse.Namespace) -> int:
    """Serve until the process is asked to end; then finish what waits.

    Raises:
        LifelongError: an option, the folder or the model can't be used.
    """
    missing = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise PluginError(f"serve needs {' and '.join(missing)}: pip install 'easyedit-lifelong[serve]'")
    from easyedit_lifelong.serving.access import Access, check_reachable, is_loopback, parse_keys
    from easyedit_lifelong.serving.edit_log import EditLog
    from easyedit_lifelong.serving.live_model import LiveModel
    from easyedit_lifelong.serving.metrics import Metrics
    from easyedit_lifelong.serving.new_thread import run_in_new_thread
    from easyedit_lifelong.serving.servable import check_servable
    from easyedit_lifelong.serving.served import ServerSettings
    from easyedit_lifelong.serving.server import http_server, open_socket, running_engine, url_of

    access = Access(
        parse_keys(_keys(arguments.api_key, API_KEY), "api"), parse_keys(_keys(arguments.edit_key, EDIT_KEY), "edit")
    )
    check_reachable(arguments.host, access)
    settings = ServerSettings(
        access,
        arguments.name,
        arguments.max_tokens,
        arguments.timeout,
        arguments.max_body,
        is_loopback(arguments.host),
        arguments.log_prompts,
    )
    hparams = replace_hparams(
        load_hparams(arguments.hparams),
        {"model_name": arguments.model, "device": arguments.device},
        {"model_name": "--model", "device": "--device"},
    )
    method = find_method(hparams)
    check_servable(method)
    if arguments.log_prompts:
        logging.getLogger("easyedit_lifelong.serving").setLevel(logging.INFO)
    console, metrics, server = Console(), Metrics(), None
    log = EditLog(expanded_path(arguments.edits, RunError))
    try:
        with open_socket(arguments.host, arguments.port) as listening:
            live = run_in_new_thread(lambda: LiveModel(*load_model_for(hparams), hparams, method, log))
            sizes = {"max_waiting": arguments.max_waiting, "max_rows": arguments.max_batch}
            with running_engine(live, metrics, **sizes) as engine:
                server = http_server(engine, settings, metrics, write_error)
                print_line(console, f"{live.name} with {method.name}, {_version_text(log)}: {url_of(listening)}")
                server.run(sockets=[listening])
        write_error(_end_text(server, log))  # the signal is ignored by the process that started this one
    except KeyboardInterrupt:
        if server is not None:
            arguments.interrupted = _end_text(server, log)
        raise
    finally:
        log.close()
    return 0


def _end_text(server: GracefulServer, log: EditLog) -> str:
    """Return what is said when the server has ended."""
    answered = f"unanswered requests: {server.unanswered}" if server.unanswered else "every request is answered"
    return f"stopped; {answered}. {log.path} has {_version_text(log)}"


def _version_text(log: EditLog) -> str:
    """Return the present version and its number of edits as text."""
    return f"version {log.present.number}, {counted(log.present.count, 'edit')}"


def _keys(given: list[str], variable: str) -> list[str]:
    """Return the keys of an option, or else that of an environment variable."""
    from_environment = os.environ.get(variable)
    return given or ([from_environment] if from_environment else [])
