"""A run's folder: ``config.yaml``, ``journal.jsonl``, ``metrics.jsonl``, ``summary.json``, and ``state/``.

A run can be killed at any instant, and the disk can be full at any. What was reported done is on disk, and a
line that was being written then is never taken for one that was finished. One process at a time works in a
folder; its lock goes with it, however it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from easyedit_lifelong.atomic import replace_text, sync
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.runs.folder_lock import lock_folder

SCHEMA_VERSION = 2
CONFIG, JOURNAL, METRICS, SUMMARY = "config.yaml", "journal.jsonl", "metrics.jsonl", "summary.json"
STATE = "state"
GENERATIONS = "generations.jsonl"

_FREE = (
    "recorded.started.",
    "data.",
    "retention.",
    "text.",
    "trackers.",
    "hparams.device.",
    "hparams.model_parallel.",
    "hparams.model_name.",
    "hparams.mom2_engine.",
)
"""Settings that may differ when a run is resumed: the device, the trackers, the location of the data (a digest of the
requests and held-out facts is compared), and how the model's location is written (``model``, in full, and the
weights' fingerprint are compared)."""


def check_free(
    path: Path | str,
    *,
    resumable: bool = False,
    what: str = "run",
    files: Sequence[str] = (CONFIG, JOURNAL, METRICS, SUMMARY, STATE),
) -> Path:
    """Return the path if a run can be written there, without touching it.

    Args:
        path: the folder.
        resumable: whether to point out that a run can be resumed.
        what: what shall be written there, for messages.
        files: the files by which another one shows.

    Raises:
        RunError: it holds another run, isn't a folder, or can't be written to.
    """
    path = _expanded(path)
    if path.exists() and not path.is_dir():
        raise RunError(f"{path}: is a file; --out must name a folder")
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise RunError(f"{path}: can't make this folder: {there} is a file. Choose another folder with --out.")
    if not os.access(there, os.W_OK | os.X_OK):
        what = "can't be written to" if there == path else f"can't make this folder: {there} can't be written to"
        raise RunError(f"{path}: {what}. Choose another folder with --out.")
    held = [name for name in files if (path / name).exists()]
    if held:
        raise RunError(
            f"{path}: holds another {what} ({', '.join(held)}), which won't be overwritten. "
            "Choose another folder with --out, or delete this one."
            + (" If it was cut short, --resume goes on with it." if resumable else "")
        )
    return path


def check_resumable(path: Path | str) -> Path:
    """Return the file that says what the run in a folder was asked to do.

    Raises:
        RunError: there is no run, or another process works on it.
    """
    file = _expanded(path) / CONFIG
    if not file.is_file():
        raise RunError(f"{file.parent}: holds no run to resume. To begin one there, leave out --resume.")
    if (lock := lock_folder(file.parent)) is not None:
        lock.release()
    return file


class RunFolder:
    """Writes a run's files, and lets nobody else. Lines of the journal are on disk before :meth:`journal` returns.

    Args:
        path: the folder; made if it isn't there.
        resumable: whether to point out, of another run there, that it can be resumed.

    Attributes:
        path: the folder.
        seconds: how long writing has taken so far.

    Raises:
        RunError: it holds another run, can't be made, or another process works in it.
    """

    def __init__(self, path: Path | str, *, resumable: bool = False) -> None:
        self.path = check_free(path, resumable=resumable)
        self.seconds = 0.0
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.path}: can't make this folder: {error.strerror}") from error
        self._lock = lock_folder(self.path)
        try:
            check_free(self.path, resumable=resumable)  # somebody may have been quicker
        except RunError:
            self.close()
            raise

    @classmethod
    def reopen(cls, path: Path | str, config: Mapping[str, Any]) -> RunFolder:
        """Open the folder of an interrupted run.

        Args:
            path: the folder.
            config: what the run is asked to do now; it must be what it was asked to do then.

        Raises:
            RunError: it holds no run, or another one (the message says what differs), or another process works in it.
        """
        folder = cls.__new__(cls)
        folder.path, folder.seconds = check_resumable(path).parent, 0.0
        folder._lock = lock_folder(folder.path)
        try:
            folder._check_same(config)
        except BaseException:
            folder.close()
            raise
        return folder

    def close(self) -> None:
        """Let others work in the folder."""
        if self._lock is not None:
            self._lock.release()

    def _check_same(self, config: Mapping[str, Any]) -> None:
        written = self.read_config()
        version = written.get("schema_version")
        if version != SCHEMA_VERSION:
            raise RunError(
                f"{self.path / CONFIG}: was written by another version of this package (schema_version {version!r}, "
                f"this is {SCHEMA_VERSION}); it can't be resumed. Begin anew, in another folder, with --out."
            )
        changes = _differences(_flat(written), _flat(yaml.safe_load(yaml.safe_dump(dict(config)))))
        if changes:
            raise RunError(
                f"{self.path}: this run can't be resumed with other settings: {'; '.join(changes)}. "
                "Choose what it began with, or another folder with --out."
            )

    def read_config(self) -> dict[str, Any]:
        """Return the run's settings.

        Raises:
            RunError: the file can't be used.
        """
        file = self.path / CONFIG
        try:
            written = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise RunError(f"{file}: can't be read: {' '.join(str(error).split())}") from error
        if not isinstance(written, dict):
            raise RunError(f"{file}: isn't a run's; there is nothing to resume")
        return written

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the run's settings."""
        self._replace(CONFIG, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the run's outcome; the file is there whole or not at all."""
        self._replace(SUMMARY, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")

    def journal(self, *entries: Mapping[str, Any]) -> None:
        """Append what became of one request, or of each of a batch."""
        self._append(JOURNAL, entries)

    def metrics(self, entry: Mapping[str, Any]) -> None:
        """Append the scores at one point of the run."""
        self._append(METRICS, [entry])

    def read(self, name: str) -> list[dict[str, Any]]:
        """Return a file's lines; one at its end that was never finished is left out.

        Raises:
            RunError: the file can't be read, or is broken in its middle.
        """
        path = self.path / name
        try:
            lines = path.read_bytes().split(b"\n") if path.exists() else []
        except OSError as error:
            raise RunError(f"{path}: can't be read: {error.strerror}") from error
        entries = []
        for number, line in enumerate(lines[:-1], 1):  # what stands behind the last newline is torn, or nothing
            try:
                entries.append(json.loads(line))
            except ValueError as error:
                raise RunError(f"{path}, line {number}: is not JSON; this run can't be resumed") from error
        return entries

    def rewrite(self, name: str, entries: Sequence[Mapping[str, Any]]) -> None:
        """Replace a file's lines."""
        self._replace(name, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))

    @property
    def state(self) -> Path:
        """The folder of the method's edits."""
        return self.path / STATE

    def save_state(self, save: Callable[[Path], None]) -> None:
        """Have the method's edits brought up to date on disk, before the journal says that they are made."""
        with self._writing(STATE):
            new = not self.state.exists()
            save(self.state)
            if new:
                sync(self.path)

    def _append(self, name: str, entries: Sequence[Mapping[str, Any]]) -> None:
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries).encode()
        # Unbuffered: what a full disk refused must not be written after all when the file is closed.
        with self._writing(name), (self.path / name).open("ab", buffering=0) as file:
            whole = file.tell()  # 0 of a new file, whose entry in the folder has to be on disk, too
            try:
                rest = memoryview(lines)
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
                if not whole:
                    sync(self.path)
            except OSError:
                with contextlib.suppress(OSError):  # else the torn line is dropped when the run is resumed
                    os.truncate(self.path / name, whole)
                raise

    def _replace(self, name: str, text: str) -> None:
        with self._writing(name):
            replace_text(self.path / name, text)

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        except OSError as error:
            raise RunError(
                f"{self.path / name}: can't be written: {error.strerror}. What was written stays; "
                "once that is mended, --resume goes on with the run."
            ) from error
        finally:
            self.seconds += time.perf_counter() - began


def _expanded(path: Path | str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # "~somebody"
        raise RunError(f"{path}: there is no such user here. Write the folder in full.") from error


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    nothing = "nothing"
    fixed = [name for name in dict.fromkeys([*then, *now]) if not f"{name}.".startswith(_FREE)]
    return [
        f"{name} was {then.get(name, nothing)!r}, is {now.get(name, nothing)!r}"
        for name in fixed
        if then.get(name, nothing) != now.get(name, nothing)
    ]
