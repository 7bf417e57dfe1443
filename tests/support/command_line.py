"""The command line as tests call it, and inputs for a run of GRACE on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from easyedit_lifelong.commands.main import main
from easyedit_lifelong.folder_lock import LOCK

HPARAMS: dict[str, Any] = {
    "alg_name": "GRACE",
    "inner_params": ["model.layers[2].mlp.down_proj.weight"],
    "device": "cpu",
    "n_iter": 30,
    "eps": 0.5,
    "stop_loss": 0.5,
}
FACTS: list[dict[str, Any]] = [
    {
        "prompt": "the capital of France is",
        "target_new": "Rome",
        "rephrase_prompt": "capital of France",
        "locality_prompt": "the capital of Peru is",
        "locality_ground_truth": "London",
    },
    {"prompt": "who wrote Hamlet", "target_new": "old king"},
    {"prompt": "moon made from", "target_new": "snow"},
]
RETENTION = [{"prompt": "the river is", "answer": "blue"}]


def call(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str, str]:
    """Call the command line; return its exit code, its output and its error output."""
    try:
        code = main([str(word) for word in words])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def forbid_loading(monkeypatch: pytest.MonkeyPatch, module: Any, name: str = "load_model_for") -> None:
    """Make a command's module fail the test if it loads a model."""

    def load(*_: Any, **__: Any) -> Any:
        raise AssertionError("the model was loaded before everything was checked")

    monkeypatch.setattr(module, name, load)


class CommandLine:
    """The command line, and a folder with its inputs, which a test may change."""

    def __init__(self, folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.checkpoint, self.capsys = folder, checkpoint, capsys

    def run(self, *words: Any) -> tuple[int, str, str]:
        """Call the command line; return its exit code, its output and its error output."""
        return call(self.capsys, *words)

    def output_of(self, *words: Any) -> str:
        """Return the output of a call that must succeed."""
        code, out, err = self.run(*words)
        assert code == 0, out + err
        return out

    def error_of(self, *words: Any, **options: Any) -> str:
        """Return the error message of a call that must fail and must change no file."""
        before = self._files()
        code, out, err = self.run(*words, **options)
        lines = [line for line in err.splitlines() if line.startswith("easyedit-lifelong: ")]
        message = err.rstrip().splitlines()[err.splitlines().index(lines[0]) :] if lines else []
        assert code == 1, out + err
        assert "Traceback" not in out + err
        assert len(lines) == 1, err
        assert all(line.startswith("  ") for line in message[1:]), "the message isn't the last, with its list"
        assert self._files() == before, "a file was written or changed"
        return "\n".join(message).removeprefix("easyedit-lifelong: ")

    def _files(self) -> dict[str, bytes | None]:
        return {
            str(path): path.read_bytes() if path.is_file() else None
            for path in self.folder.rglob("*")
            # The Hub client writes to its cache; a lock file holds nothing.
            if "cache" not in path.relative_to(self.folder).parts and path.name != LOCK
        }


class RunCommand(CommandLine):
    """``lifelong`` or ``consecutive``, with a folder of valid inputs."""

    def __init__(self, command: str, folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(folder, checkpoint, capsys)
        self.command = command
        self.data, self.hparams, self.out = folder / "facts.json", folder / "grace.yaml", folder / "run"
        self.retention = folder / "retention.json"
        self.values = {**HPARAMS, "model_name": str(checkpoint)}
        self.write()

    def write(self, facts: Any = FACTS, retention: Any = RETENTION, **values: Any) -> None:
        """Write the inputs, with other hyperparameters if any are given; text is written as it is."""
        self.data.write_text(facts if isinstance(facts, str) else json.dumps(facts), encoding="utf-8")
        self.hparams.write_text(yaml.safe_dump({**self.values, **values}), encoding="utf-8")
        self.retention.write_text(retention if isinstance(retention, str) else json.dumps(retention), encoding="utf-8")

    def run(self, *words: Any, **options: Any) -> tuple[int, str, str]:
        """Call the command with the folder's inputs, unless an option names others; None omits an option."""
        given = {"hparams": self.hparams, "data": self.data, "out": self.out, "retention": self.retention, **options}
        option_words = [word for name, value in given.items() if value is not None for word in (f"--{name}", value)]
        return call(self.capsys, self.command, *option_words, *words)

    def summary(self) -> dict[str, Any]:
        """Return the summary of the run."""
        return json.loads((self.out / "summary.json").read_text())
