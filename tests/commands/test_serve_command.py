"""The command ``serve``: it edits and answers, ends when asked to, and begins again with the same edits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from easyedit_lifelong.commands import serve
from easyedit_lifelong.commands.main import main
from easyedit_lifelong.serving.edit_log import EditLog
from easyedit_lifelong.serving.graceful_server import GracefulServer
from easyedit_lifelong.serving.server import open_socket

ROOT = Path(__file__).resolve().parents[2]
OURS = "easyedit-lifelong: "
EDIT = {"prompt": "the capital of France is", "target_new": "Rome"}


@pytest.fixture
def hparams(tmp_path: Path, checkpoint: Path) -> Path:
    """A hyperparameter file for a tiny model."""
    file = tmp_path / "hparams.yaml"
    file.write_text(
        f"alg_name: GRACE\nmodel_name: {checkpoint}\ndevice: cpu\ninner_params: [model.layers.2.mlp.down_proj]\n"
        "n_iter: 20\neps: 1.0\n"
    )
    return file


class Process:
    """A server in another process."""

    def __init__(self, *options: object, keys: str = "", ignores_interrupts: bool = False) -> None:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
        env |= {serve.API_KEY: keys, serve.EDIT_KEY: keys}
        command = [sys.executable, "-m", "easyedit_lifelong.commands.main", "serve", *map(str, options)]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        # A process inherits ignored signals. The tests may have been started by a shell that ignores interrupts.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignores_interrupts else signal.SIG_DFL)
        try:
            self.process = subprocess.Popen(command, env=env, **pipes)
        finally:
            signal.signal(signal.SIGINT, before)
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        self.url = self.line.split()[-1] if self.line else ""

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors

    def message(self) -> str:
        """Return the next message of the command line, without what transformers writes."""
        assert self.process.stderr is not None
        return next(line for line in self.process.stderr if line.startswith(OURS)).removeprefix(OURS).rstrip()


def messages(errors: str) -> list[str]:
    """Return the messages of the command line, without what transformers writes."""
    return [line.removeprefix(OURS) for line in errors.splitlines() if line.startswith(OURS)]


def test_edits_survive_the_end_of_the_server(tmp_path: Path, hparams: Path) -> None:
    options = ["--hparams", hparams, "--edits", tmp_path / "edits", "--port", 0]
    server = Process(*options, keys="secret")
    try:
        assert " with GRACE, version 0, 0 edits: http://127.0.0.1:" in server.line
        headers = {"Authorization": "Bearer secret"}
        assert httpx.get(server.url + "/v1/models", timeout=60).status_code == 401
        made = httpx.post(server.url + "/v1/edits", json=EDIT, headers=headers, timeout=60)
        assert made.json()["learned"], made.text
    finally:
        code, errors = server.end()
    assert code == 143
    assert messages(errors) == [
        "SIGTERM: no request is being answered, so the server ends",
        f"SIGTERM: stopped; every request is answered. {tmp_path / 'edits'} has version 1, 1 edit",
    ]
    again = Process(*options, "--name", "m")
    try:
        assert "version 1, 1 edit: http" in again.line
        body: dict[str, Any] = {"model": "m", "prompt": EDIT["prompt"], "temperature": 0, "max_tokens": 1}
        answer = httpx.post(again.url + "/v1/completions", json=body, timeout=60).json()
        assert answer["choices"][0]["text"] == "Rome"
        assert main(["serve", "--hparams", str(hparams), "--edits", str(tmp_path / "edits"), "--port", "0"]) == 1
    finally:
        again.end(signal.SIGKILL)


@contextlib.contextmanager
def streaming(tmp_path: Path, hparams: Path) -> Iterator[tuple[Process, Iterator[str]]]:
    """Yield a server with one edit which answers for seconds, and the lines of that answer, of which one was read."""
    options = ["--hparams", hparams, "--edits", tmp_path / "edits", "--port", 0, "--name", "m", "--max-batch", 1]
    server = Process(*options)
    prompts = [EDIT["prompt"], "who wrote Hamlet", "moon made from", "blue"]
    body = {"model": "m", "prompt": prompts, "n": 4, "max_tokens": 50, "stream": True}
    try:
        httpx.post(server.url + "/v1/edits", json=EDIT, timeout=60).raise_for_status()
        with httpx.stream("POST", server.url + "/v1/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("data: {")
            yield server, lines
    finally:
        server.process.kill()
        server.process.wait()


WAITS = "SIGINT: 1 request is being answered; the server ends after that. Press Ctrl-C again to stop at once"


def test_an_interrupt_says_what_the_server_waits_for_and_the_answer_is_finished(tmp_path: Path, hparams: Path) -> None:
    with streaming(tmp_path, hparams) as (server, lines):
        server.process.send_signal(signal.SIGINT)
        assert server.message() == WAITS
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url + "/healthz", timeout=60)
        assert server.process.poll() is None, "it ended before the answer"
        events = [line for line in lines if line]
        assert events[-1] == "data: [DONE]"
        assert sum('"finish_reason": null' not in event for event in events[:-1]) == 16
        _, errors = server.process.communicate(timeout=60)
    assert server.process.returncode == 130
    assert messages(errors) == [f"stopped; every request is answered. {tmp_path / 'edits'} has version 1, 1 edit"]


def test_a_second_interrupt_stops_at_once_and_edits_stay(tmp_path: Path, hparams: Path) -> None:
    with streaming(tmp_path, hparams) as (server, lines):
        server.process.send_signal(signal.SIGINT)
        assert server.message() == WAITS
        server.process.send_signal(signal.SIGINT)
        _, errors = server.process.communicate(timeout=60)
        assert (server.process.returncode, messages(errors)) == (130, ["stopped at once"])
        with pytest.raises(httpx.HTTPError):
            assert "data: [DONE]" not in list(lines)
    with contextlib.closing(EditLog(tmp_path / "edits")) as log:
        assert log.ids_at(log.present.number) == ["edit-1"]


def test_a_server_that_a_script_runs_in_the_background_says_the_same(tmp_path: Path, hparams: Path) -> None:
    options = ["--hparams", hparams, "--edits", tmp_path / "edits", "--port", 0]
    server = Process(*options, ignores_interrupts=True)  # as shells start commands with &
    try:
        httpx.get(server.url + "/healthz", timeout=60).raise_for_status()
    finally:
        code, errors = server.end(signal.SIGINT)
    assert (code, messages(errors)) == (
        0,
        [
            "SIGINT: no request is being answered, so the server ends",
            f"stopped; every request is answered. {tmp_path / 'edits'} has version 0, 0 edits",
        ],
    )


def test_requests_that_take_too_long_are_counted() -> None:
    reports: list[str] = []

    async def app(_: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(60)

    async def run() -> int:
        config = uvicorn.Config(app, port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        server = GracefulServer(config, reports.append)
        with open_socket("127.0.0.1", 0) as listening:
            serving = asyncio.ensure_future(server._serve([listening]))
            while not server.started:
                await asyncio.sleep(0.01)
            _, writer = await asyncio.open_connection(*listening.getsockname())
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while not server.server_state.tasks:
                await asyncio.sleep(0.01)
            server.handle_exit(signal.SIGTERM, None)
            await serving
            writer.close()
        return server.unanswered

    assert asyncio.run(run()) == 1
    assert reports == [
        "SIGTERM: 1 request is being answered; the server ends after that. Press Ctrl-C again to stop at once"
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "needs --api-key and --edit-key"),
        (["--api-key", "a", "--api-key", "b"], "two keys are called 'api'"),
        (["--port", "99999"], "--port 99999: can't be used: bind(): port must be 0-65535. Choose another port."),
        (["--edits", "{file}/edits"], "can't make this folder"),
    ],
)
def test_wrong_options_are_errors_before_the_model_is_loaded(
    tmp_path: Path, hparams: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    file = tmp_path / "file"
    file.touch()
    given = [option.format(file=file) for option in options]
    assert main(["serve", "--hparams", str(hparams), "--edits", str(tmp_path / "edits"), *given]) == 1
    assert message in capsys.readouterr().err


def test_missing_packages_are_named(
    tmp_path: Path, hparams: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None)
    assert main(["serve", "--hparams", str(hparams), "--edits", str(tmp_path / "edits")]) == 1
    assert "pip install 'easyedit-lifelong[serve]'" in capsys.readouterr().err
