"""A command that is asked to end cleans up: no temporary files, the default handlers are back."""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

import pytest

from easyedit_lifelong.atomic import atomic_file, atomic_folder
from easyedit_lifelong.commands import plugins
from easyedit_lifelong.commands.main import main


@pytest.mark.skipif(os.name == "nt", reason="Windows can't send these signals")
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_ends_the_command_and_leaves_no_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, code: int
) -> None:
    number = getattr(signal, name)

    def write_and_be_stopped(_: argparse.Namespace) -> int:
        with atomic_file(tmp_path / "file"), atomic_folder(tmp_path / "folder"):
            os.kill(os.getpid(), number)
        return 0

    monkeypatch.setattr(plugins, "run", write_and_be_stopped)
    handler = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    before = signal.signal(number, handler)  # a shell lets background processes ignore SIGINT
    try:
        assert main(["plugins"]) == code
        assert "interrupted" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGHUP")
def test_an_ignored_signal_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under ``nohup``."""

    def be_hung_up(_: argparse.Namespace) -> int:
        os.kill(os.getpid(), signal.SIGHUP)
        return 0

    monkeypatch.setattr(plugins, "run", be_hung_up)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert main(["plugins"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
