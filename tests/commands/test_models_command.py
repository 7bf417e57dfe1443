"""``models``: the packaged models and their state, and their conversion."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from easyedit_lifelong.models.packaged_models import PACKAGED_MODELS
from easyedit_lifelong.reporting.runnable_commands import runnable
from tests.support.command_line import call

FILES = ("config.json", "model.safetensors", "tokenizer.json")


def test_the_models_are_listed_with_their_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EASYEDIT_LIFELONG_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ready, missing = PACKAGED_MODELS.values()
    checkpoint = tmp_path / "models" / "smollm2-135m-0.1.2"
    checkpoint.mkdir(parents=True)
    for name in FILES:
        (checkpoint / name).touch()
    code, out, _ = call(capsys, "models")
    assert code == 0
    _, first, second = out.splitlines()
    assert first.split() == [ready.name, ready.requirement, "ready"]
    command = runnable(missing.install_command)
    assert second.split(maxsplit=2) == [missing.name, missing.requirement, f"not installed: {command}"]


def test_an_unknown_or_missing_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EASYEDIT_LIFELONG_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, _, err = call(capsys, "models", "gemma3-270")
    assert (code, "Did you mean 'gemma3-270m'?" in err) == (1, True)
    code, _, err = call(capsys, "models", "gemma3-270m")
    assert (code, runnable(PACKAGED_MODELS["gemma3-270m"].install_command) in err) == (1, True)
