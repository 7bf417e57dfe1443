"""The command line as tests call it, and inputs for a run of GRACE on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.commands.main import main

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


class Desk:
    """A folder with inputs, for a test to spoil, and the command line."""

    def __init__(self, folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.checkpoint, self.capsys = folder, checkpoint, capsys

    def run(self, *words: Any) -> tuple[int, str, str]:
        return call(self.capsys, *words)

    def done(self, *words: Any) -> str:
        """Call what must succeed; return its output."""
        code, out, err = self.run(*words)
        assert code == 0, out + err
        return out

    def refused(self, *words: Any, **options: Any) -> str:
        """Call what must fail; return the line that says why. Nothing may be left behind."""
        before = self._files()
        code, out, err = self.run(*words, **options)
        lines = [line for line in err.splitlines() if line.startswith("easyedit-lifelong: ")]
        assert code == 1, out + err
        assert "Traceback" not in out + err
        assert len(lines) == 1, err
        assert err.rstrip().splitlines()[-1] == lines[0], "the message is one line, and the last"
        assert self._files() == before, "something was written, or left behind"
        return lines[0].removeprefix("easyedit-lifelong: ")

    def _files(self) -> dict[str, bytes | None]:
        return {
            str(path): path.read_bytes() if path.is_file() else None
            for path in self.folder.rglob("*")
            if "cache" not in path.relative_to(self.folder).parts  # the Hub client's
        }
