"""A run's folder: ``config.yaml``, ``journal.jsonl``, ``metrics.jsonl``, ``summary.json``, and ``state/``.

A run can be killed, and the disk can become full, at any moment. Everything that was reported as done is then on disk,
and a reader drops a line that was written only in part. One process at a time can work in a folder: it holds the
folder's lock, which the operating system releases when the process ends.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from easyedit_lifelong.atomic import append_durably, delete_leftovers, fsync_path, write_text_atomically
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.folder_lock import folder_identity, lock_folder
from easyedit_lifelong.parsing import parse_json, parse_yaml
from easyedit_lifelong.paths import expanded_path
from easyedit_lifelong.runs.folder_advice import OWN_COMMAND, FolderAdvice
from easyedit_lifelong.runs.run_lines import JOURNAL_FIELDS, SCORING_FIELDS, read_lines
from easyedit_lifelong.runs.setting_changes import NOT_COMPARED, setting_changes

SCHEMA_VERSION = 2
CONFIG, JOURNAL, METRICS_FILE, SUMMARY = "config.yaml", "journal.jsonl", "metrics.jsonl", "summary.json"
STATE = "state"
GENERATIONS = "generations.jsonl"
LM_EVAL = "lm_eval"
"""The key of the scores of lm-evaluation-harness in ``summary.json``."""


def check_free(
    path: Path | str,
    *,
    resumable: bool = False,
    what: str = "run",
    files: Sequence[str] = (CONFIG, JOURNAL, METRICS_FILE, SUMMARY, STATE),
    advice: FolderAdvice = OWN_COMMAND,
) -> Path:
    """Check that a new run can be written to a folder, without changing it.

    Args:
        path: the folder; it need not exist.
        resumable: whether the message about another run there says how to resume it.
        what: what is to be written there, for messages.
        files: names of files that show that the folder is in use.
        advice: what messages advise.

    Returns:
        The path, with ``~`` expanded.

    Raises:
        RunError: the folder holds another run, is not a folder, or cannot be written to.
    """
    path = expanded_path(path, RunError)
    if path.exists() and not path.is_dir():
        raise RunError(f"{path}: is a file; {advice.file}")
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise RunError(f"{path}: can't make this folder: {nearest} is a file. {advice.blocked}")
    if not os.access(nearest, os.W_OK | os.X_OK):
        problem = "can't be written to" if nearest == path else f"can't make this folder: {nearest} can't be written to"
        raise RunError(f"{path}: {problem}. {advice.blocked}")
    in_use = [name for name in files if (path / name).exists()]
    if in_use:
        raise RunError(
            f"{path}: holds another {what} ({', '.join(in_use)}), which won't be overwritten. {advice.occupied}"
            f"{advice.interrupted if resumable else ''}"
        )
    return path


def check_resumable(path: Path | str) -> Path:
    """Return the ``config.yaml`` of the run in a folder.

    Raises:
        RunError: the folder holds no run, or another process works on it.
    """
    file = expanded_path(path, RunError) / CONFIG
    if not file.is_file():
        raise RunError(f"{file.parent}: holds no run to resume. To begin one there, leave out --resume.")
    if (lock := lock_folder(file.parent)) is not None:
        lock.release()
    return file


def has_summary(folder: Path) -> bool:
    """Return whether a run's folder has a summary that can be read. A damaged one is written again on resuming."""
    try:
        summary = parse_json((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(summary, dict) and "metrics" in summary


class RunFolder:
    """The open folder of a run: writes the run's files, and keeps other processes out with a lock.

    Args:
        path: the folder; made if it does not exist.
        resumable: whether messages say how to resume the run.
        advice: what messages advise.

    Attributes:
        path: the folder.
        advice: as given.
        seconds: seconds that writing has taken so far.

    Raises:
        RunError: the folder holds another run or cannot be made, or another process works in it.
    """

    def __init__(self, path: Path | str, *, resumable: bool = False, advice: FolderAdvice = OWN_COMMAND) -> None:
        self.path = check_free(path, resumable=resumable, advice=advice)
        self.seconds, self._resumable, self.advice = 0.0, resumable, advice
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:  # ValueError: a NUL character
            raise RunError(
                f"{self.path}: can't make this folder: {getattr(error, 'strerror', None) or error}"
            ) from error
        self._enter()
        try:
            # Another process may have begun a run since the first check; the lock excludes that from now on.
            check_free(self.path, resumable=resumable, advice=advice)
        except RunError:
            self.close()
            raise

    @classmethod
    def reopen(
        cls,
        path: Path | str,
        config: Mapping[str, Any],
        defaults: Mapping[str, Any] | None = None,
        advice: FolderAdvice = OWN_COMMAND,
    ) -> RunFolder:
        """Open the folder of an interrupted run.

        Args:
            path: the folder.
            config: the present settings, which must equal those in the folder's ``config.yaml``.
            defaults: the default values of hyperparameters, for those that ``config.yaml`` of an older release lacks.
            advice: what messages advise.

        Raises:
            RunError: the folder holds no run, or a run with other settings (the message lists the differences); or
                another process works in it.
        """
        folder = cls.__new__(cls)
        folder.path, folder.seconds, folder._resumable = check_resumable(path).parent, 0.0, True
        folder.advice = advice
        folder._enter()
        try:
            folder._check_same(config, defaults or {})
        except BaseException:
            folder.close()
            raise
        return folder

    def _enter(self) -> None:
        """Acquire the lock, and remember which folder this is; raise a RunError if another process works in it."""
        self._lock = lock_folder(self.path)
        delete_leftovers(self.state)
        self._identity = folder_identity(self.path)
        self._begun: set[str] = set()
        """Names of the files that this process has appended lines to."""

    def close(self) -> None:
        """Release the folder's lock."""
        if self._lock is not None:
            self._lock.release()

    def _check_same(self, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        """Check that the settings in the folder's ``config.yaml`` equal the present ones; see :meth:`reopen`.

        Raises:
            RunError: they differ, or cannot be read.
        """
        written = self.read_config()
        version = written.get("schema_version")
        if version != SCHEMA_VERSION:
            raise RunError(
                f"{self.path / CONFIG}: was written by another version of this package (schema_version {version!r}, "
                f"this is {SCHEMA_VERSION}); it can't be resumed. {self.advice.unusable}"
            )
        if isinstance(hparams := written.get("hparams"), dict):
            written = {**written, "hparams": {**defaults, **hparams}}
        changes = setting_changes(written, config, NOT_COMPARED)
        if changes:
            raise RunError(
                f"{self.path}: this run can't be resumed with other settings: {'; '.join(changes)}. "
                f"{self.advice.other_settings}"
            )

    def read_config(self) -> dict[str, Any]:
        """Return the run's settings.

        Raises:
            RunError: ``config.yaml`` cannot be read, or is not that of a run.
        """
        file = self.path / CONFIG
        try:
            written = parse_yaml(file.read_text(encoding="utf-8"), file)
        except (OSError, ValueError) as error:
            raise RunError(f"{file}: can't be read: {' '.join(str(error).split())}") from error
        if not isinstance(written, dict):
            raise RunError(f"{file}: isn't the config.yaml of a run, so no run can be resumed here")
        return written

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the run's settings."""
        self._replace(CONFIG, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the run's summary."""
        self._replace(SUMMARY, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")

    def journal(self, *entries: Mapping[str, Any]) -> None:
        """Append lines to the journal; they are on disk when this returns."""
        self.append(JOURNAL, entries)

    def metrics(self, entry: Mapping[str, Any]) -> None:
        """Append the scores of one scoring."""
        self.append(METRICS_FILE, [entry])

    def append(self, name: str, entries: Sequence[Mapping[str, Any]]) -> None:
        """Append lines to a JSON Lines file of the folder; they are on disk when this returns."""
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries).encode()
        with self._writing(name):
            append_durably(self.path / name, lines, must_exist=name in self._begun)
        self._begun.add(name)

    def read(self, name: str) -> list[dict[str, Any]]:
        """Return the lines of the journal or of the scores, without a last line that was written only in part.

        Raises:
            RunError: the file cannot be read, or a line before the last is damaged.
        """
        fields = JOURNAL_FIELDS if name == JOURNAL else SCORING_FIELDS
        return read_lines(self.path / name, fields, f"this run can't be resumed. {self.advice.unusable}")

    def rewrite(self, name: str, entries: Sequence[Mapping[str, Any]]) -> None:
        """Replace the lines of a JSON Lines file."""
        self._replace(name, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))

    @property
    def state(self) -> Path:
        """The state folder: the edits that the method has saved."""
        return self.path / STATE

    def save_state(self, save: Callable[[Path], None]) -> None:
        """Save the edits. Call it before :meth:`journal`: the journal must not list an edit that is not on disk.

        Args:
            save: writes the edits to the folder that it is given.
        """
        with self._writing(STATE):
            new = not self.state.exists()
            try:
                save(self.state)
            except RunError as error:  # of a store that names its files itself
                if not isinstance(error.__cause__, (OSError, SafetensorError)):
                    raise
                raise RunError(f"{error} {self.advice_after_error()}") from error
            if new:
                fsync_path(self.path)

    def _replace(self, name: str, text: str) -> None:
        """Write a file in one step, in place of the one of this name."""
        with self._writing(name):
            write_text_atomically(self.path / name, text)

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """Measure how long writing takes, and turn an ``OSError`` into a ``RunError`` that names the file."""
        began = time.perf_counter()
        try:
            if folder_identity(self.path) != self._identity:
                raise FileNotFoundError(errno.ENOENT, "the run's folder has been replaced by another one")
            yield
        except OSError as error:
            raise RunError(
                f"{self.path / name}: can't be written: {error.strerror}. What was written stays. "
                f"{self.advice_after_error()}"
            ) from error
        finally:
            self.seconds += time.perf_counter() - began

    def advice_after_error(self) -> str:
        """Return what to do about this run when the cause of an error is removed."""
        return self.advice.after_error(self._resumable and (self.path / CONFIG).is_file())
