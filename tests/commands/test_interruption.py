"""What an interrupted command says about its files, and how to continue."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from easyedit_lifelong import hookimpl
from easyedit_lifelong.commands.interruption import RESUMED_FROM, interruption_text
from easyedit_lifelong.commands.main import COMMANDS, main
from easyedit_lifelong.hyperparams import PluginHyperParams
from easyedit_lifelong.locate import trace_folder
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.runs import run_folder, training_folder
from easyedit_lifelong.runs.compared_methods import COMPARISON_FILE
from tests.support.command_line import RunCommand

ON_DISK = "interrupted; everything reported as done is on disk"
NOTHING_TO_RESUME = "interrupted before there was anything to resume; the same command begins again"
TEXTS = {
    **dict.fromkeys(["doctor", "plugins", "generate", "inspect", "push"], "interrupted"),
    **dict.fromkeys(
        ["attribute", "changes", "edit", "export", "new-method", "pull", "scope"], "interrupted; nothing was written"
    ),
    "train": "interrupted; the same command with --resume continues from the last checkpoint",
    **dict.fromkeys(
        ["calibrate", "consecutive", "lifelong", "locate", "run"],
        f"{ON_DISK}, and the same command with --resume continues",
    ),
    **dict.fromkeys(["compare", "covariance", "rescore"], f"{ON_DISK}, and the same command continues"),
    "sweep": "interrupted; the same command resumes the cells that are not finished",
}
"""What a command says when it is interrupted, if it is not only that everything reported as done is on disk."""


@pytest.mark.parametrize("verb", COMMANDS)
def test_each_command_has_a_text(verb: str, tmp_path: Path) -> None:
    for file in RESUMED_FROM.get(verb, ()):
        (tmp_path / file).touch()
    assert interruption_text(verb, argparse.Namespace(out=tmp_path)) == TEXTS.get(verb, ON_DISK)


@pytest.mark.parametrize("verb", RESUMED_FROM)
def test_resuming_is_advised_only_where_something_can_be_resumed(verb: str, tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    for out in (None, tmp_path, tmp_path / "new"):
        assert interruption_text(verb, argparse.Namespace(out=out)) == NOTHING_TO_RESUME
    for file in RESUMED_FROM[verb]:
        folder = tmp_path / file.replace(".", "-")
        folder.mkdir()
        (folder / file).touch()
        assert interruption_text(verb, argparse.Namespace(out=folder)) == TEXTS[verb]


def test_the_files_from_which_commands_are_resumed_have_their_names() -> None:
    assert RESUMED_FROM["run"] == (run_folder.CONFIG, COMPARISON_FILE)
    assert RESUMED_FROM["train"] == (training_folder.CURVE, training_folder.CHECKPOINT)
    assert RESUMED_FROM["locate"] == (trace_folder.CONFIG,)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["plugins"], "interrupted"),
        (["inspect", "folder"], "interrupted"),
        (["push", "folder", "me/edits"], "interrupted"),
        (["pull", "me/edits", "--out", "folder"], "interrupted; nothing was written"),
        (["report", "run"], ON_DISK),
        (["run", "file.yaml"], NOTHING_TO_RESUME),
    ],
)
def test_an_interrupted_command_writes_its_text_and_exits_with_130(
    words: list[str], text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"easyedit_lifelong.commands.{words[0]}.run", stop)
    assert main(words) == 130
    assert capsys.readouterr().err == f"easyedit-lifelong: {text}\n"


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        (["run", "grace-zsre-smollm2-135m"], "runs/grace-zsre-smollm2-135m"),
        (
            ["consecutive", "--hparams", "GRACE/smollm2-135m", "--data", "facts.json"],
            "runs/consecutive/GRACE-smollm2-135m-facts",
        ),
    ],
)
def test_a_run_in_its_default_folder_says_how_to_continue(
    words: list[str],
    folder: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(experiment: object, arguments: argparse.Namespace) -> None:
        out = arguments.out
        assert out == Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        (out / run_folder.CONFIG).touch()
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(f"easyedit_lifelong.commands.{words[0]}.run_and_report", stop)
    assert main(words) == 130
    assert capsys.readouterr().err == f"easyedit-lifelong: {TEXTS['run']}\n"


@dataclass(kw_only=True)
class ForgetfulHyperParams(PluginHyperParams):
    """Hyperparameters of a method that can't save its edits."""

    ALG_NAME: ClassVar[str] = "FORGETFUL"


class Forgetful:
    """A plugin with this method, which Ctrl-C interrupts at its second edit."""

    @hookimpl
    def register_methods(self, register: Any) -> None:
        register(EditMethod("FORGETFUL", ForgetfulHyperParams, self.apply))

    def apply(self, model: Any, tok: Any, requests: Any, hparams: Any, **_: Any) -> tuple[Any, Any]:
        if requests[0].prompt == "who wrote Hamlet":
            raise KeyboardInterrupt
        return model, lambda: None


@pytest.fixture
def forgetful() -> Iterator[None]:
    """The method FORGETFUL, registered for one test."""
    get_plugins().add(Forgetful(), "test-forgetful")
    yield
    get_plugins().remove("test-forgetful")


def _last_line(command: RunCommand, *words: Any, **options: Any) -> str:
    """Return the last line of a command that FORGETFUL interrupts."""
    command.hparams.write_text(f"alg_name: FORGETFUL\nmodel_name: {command.checkpoint}\ndevice: cpu\n")
    code, _, err = command.run(*words, **options)
    assert code == 130, err
    return err.splitlines()[-1].removeprefix("easyedit-lifelong: ")


def _lost(folder: Path) -> str:
    return (
        f"FORGETFUL can't save edits, so what was interrupted can't be continued: delete {folder}, and the same "
        "command begins again there"
    )


def test_a_run_whose_edits_cannot_be_saved_is_not_to_be_resumed(
    lifelong_cli: RunCommand, consecutive_cli: RunCommand, forgetful: None
) -> None:
    assert _last_line(lifelong_cli) == f"{ON_DISK}. {_lost(lifelong_cli.out)}"
    assert "can't be resumed" in lifelong_cli.error_of("--resume")
    out = consecutive_cli.folder / "other"
    assert _last_line(consecutive_cli, out=out) == f"{ON_DISK}. {_lost(out)}"
    assert (
        _last_line(consecutive_cli, "--consecutive", 0, out=consecutive_cli.folder / "single") == TEXTS["consecutive"]
    )


def test_a_comparison_names_the_run_that_cannot_be_continued(consecutive_cli: RunCommand, forgetful: None) -> None:
    consecutive_cli.command = "compare"
    message = _last_line(consecutive_cli, "--methods", f"mine={consecutive_cli.hparams}", "--edits", "3", hparams=None)
    assert message == f"{TEXTS['compare']}. {_lost(consecutive_cli.out / 'mine')}"
