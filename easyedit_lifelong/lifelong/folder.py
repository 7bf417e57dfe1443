"""A run's folder: ``config.yaml``, ``journal.jsonl``, ``metrics.jsonl`` and ``summary.json``."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from easyedit_lifelong.errors import RunError

SCHEMA_VERSION = 1
CONFIG, JOURNAL, METRICS, SUMMARY = "config.yaml", "journal.jsonl", "metrics.jsonl", "summary.json"


def check_free(path: Path | str) -> Path:
    """Return the path if a run can be written there, without touching it.

    Raises:
        RunError: it holds another run, or isn't a folder.
    """
    path = Path(path).expanduser()
    if path.exists() and not path.is_dir():
        raise RunError(f"{path}: is a file; --out must name a folder")
    if path.exists() and not os.access(path, os.W_OK | os.X_OK):
        raise RunError(f"{path}: can't be written to. Choose another folder with --out.")
    held = [name for name in (CONFIG, JOURNAL, METRICS, SUMMARY) if (path / name).exists()]
    if held:
        raise RunError(
            f"{path}: holds another run ({', '.join(held)}), which won't be overwritten. "
            "Choose another folder with --out, or delete this one."
        )
    return path


class RunFolder:
    """Writes a run's files. Lines of the journal are on disk before :meth:`journal` returns.

    Args:
        path: the folder; made if it isn't there.

    Raises:
        RunError: it holds another run, or can't be made.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = check_free(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.path}: can't make this folder: {error.strerror}") from error

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write what the run was asked to do."""
        self._replace(CONFIG, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the run's outcome; the file is there whole or not at all."""
        self._replace(SUMMARY, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")

    def journal(self, entry: Mapping[str, Any]) -> None:
        """Append what became of one request."""
        self._append(JOURNAL, entry)

    def metrics(self, entry: Mapping[str, Any]) -> None:
        """Append the scores at one point of the run."""
        self._append(METRICS, entry)

    def _append(self, name: str, entry: Mapping[str, Any]) -> None:
        with self._writing(name), (self.path / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _replace(self, name: str, text: str) -> None:
        temporary = self.path / f".{name}.tmp"
        with self._writing(name):
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, self.path / name)

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"{self.path / name}: can't be written: {error.strerror}. What was written stays."
            ) from error
