"""The command line with the inputs of its commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command_line import RunCommand
from tests.support.edits_command_line import EditsCommandLine


@pytest.fixture
def lifelong_cli(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> RunCommand:
    """``lifelong`` with valid inputs."""
    return RunCommand("lifelong", tmp_path, checkpoint, capsys)


@pytest.fixture
def consecutive_cli(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> RunCommand:
    """``consecutive`` with valid inputs."""
    return RunCommand("consecutive", tmp_path, checkpoint, capsys)


@pytest.fixture
def edits_cli(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> EditsCommandLine:
    """The commands for saved edits, with hyperparameters of both methods, in a terminal of 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")
    return EditsCommandLine(tmp_path, checkpoint, capsys)
