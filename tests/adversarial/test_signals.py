"""A command that is asked to end cleans up: no temporary files, the default handlers are back."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
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


@pytest.mark.skipif(os.name == "nt", reason="Windows can't send these signals")
def test_hasty_further_interrupts_leave_the_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def be_stopped(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    def text_during_which_a_signal_comes(*_: object) -> str:
        signal.raise_signal(signal.SIGINT)
        return "the message"

    monkeypatch.setattr(plugins, "run", be_stopped)
    monkeypatch.setattr("easyedit_lifelong.commands.main.interruption_text", text_during_which_a_signal_comes)
    monkeypatch.setattr(sys, "argv", ["easyedit-lifelong", "plugins"])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main() == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "easyedit-lifelong: the message\n"


class _SignalledWhenFreed:
    """Gets a signal in its finalizer, whose exceptions Python ignores."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)


@pytest.mark.skipif(os.name == "nt", reason="Windows can't send these signals")
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_during_a_finalizer_ends_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, code: int
) -> None:
    """A WeakKeyDictionary frees its entries in a finalizer, for example, when a model is freed."""
    number = getattr(signal, name)

    def free_and_wait(_: argparse.Namespace) -> int:
        _SignalledWhenFreed(number)
        time.sleep(20)
        return 0

    monkeypatch.setattr(plugins, "run", free_and_wait)
    handler = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    before, hook = signal.signal(number, handler), sys.unraisablehook
    try:
        assert main(["plugins"]) == code
    finally:
        signal.signal(number, before)
    assert "Exception ignored" not in capsys.readouterr().err
    assert sys.unraisablehook is hook


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
