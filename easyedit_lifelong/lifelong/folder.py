"""A run's folder: ``config.yaml``, ``journal.jsonl``, ``metrics.jsonl``, ``summary.json``, and ``state/``.

A run can be killed at any instant. What was reported done is on disk, and a line or a folder that was
being written then is never taken for one that was finished.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from easyedit_lifelong.atomic import replacing, sync
from easyedit_lifelong.errors import RunError

SCHEMA_VERSION = 1
CONFIG, JOURNAL, METRICS, SUMMARY = "config.yaml", "journal.jsonl", "metrics.jsonl", "summary.json"
STATE = "state"

_MAY_CHANGE = ("started", "data", "hparams.device", "hparams.model_parallel")
"""What a resumed run may be asked otherwise: where it computes, and how its data is named (a digest counts)."""


def check_free(
    path: Path | str,
    *,
    resumable: bool = False,
    what: str = "run",
    files: Sequence[str] = (CONFIG, JOURNAL, METRICS, SUMMARY),
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
    path = Path(path).expanduser()
    if path.exists() and not path.is_dir():
        raise RunError(f"{path}: is a file; --out must name a folder")
    if path.exists() and not os.access(path, os.W_OK | os.X_OK):
        raise RunError(f"{path}: can't be written to. Choose another folder with --out.")
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
        RunError: there is no run.
    """
    file = Path(path).expanduser() / CONFIG
    if not file.is_file():
        raise RunError(f"{file.parent}: holds no run to resume. To begin one there, leave out --resume.")
    return file


class RunFolder:
    """Writes a run's files. Lines of the journal are on disk before :meth:`journal` returns.

    Args:
        path: the folder; made if it isn't there.
        resumable: whether to point out, of another run there, that it can be resumed.

    Raises:
        RunError: it holds another run, or can't be made.
    """

    def __init__(self, path: Path | str, *, resumable: bool = False) -> None:
        self.path = check_free(path, resumable=resumable)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.path}: can't make this folder: {error.strerror}") from error

    @classmethod
    def reopen(cls, path: Path | str, config: Mapping[str, Any]) -> RunFolder:
        """Open the folder of a run that was cut short.

        Args:
            path: the folder.
            config: what the run is asked to do now; it must be what it was asked to do then.

        Raises:
            RunError: it holds no run, or another one; the message says what differs.
        """
        folder = cls.__new__(cls)
        folder.path = Path(path).expanduser()
        file = check_resumable(folder.path)
        try:
            written = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RunError(f"{file}: can't be read: {' '.join(str(error).split())}") from error
        if not isinstance(written, dict):
            raise RunError(f"{file}: isn't a run's; there is nothing to resume")
        changes = _differences(_flat(written), _flat(yaml.safe_load(yaml.safe_dump(dict(config)))))
        if changes:
            raise RunError(
                f"{folder.path}: this run can't be resumed with other settings: {'; '.join(changes)}. "
                "Choose what it began with, or another folder with --out."
            )
        return folder

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write what the run was asked to do."""
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

    def state(self, batch: int) -> Path:
        """Return the folder of the edits as they were after a batch."""
        return self.path / STATE / f"batch-{batch:06d}"

    def save_state(self, batch: int, save: Callable[[Path], None]) -> None:
        """Have the edits written as they are after a batch; they are there whole or not at all."""
        target, temporary = self.state(batch), self.path / STATE / ".tmp"
        with self._writing(STATE):
            for leftover in (temporary, target):  # of a run that was killed in between
                shutil.rmtree(leftover, ignore_errors=True)
            temporary.mkdir(parents=True)
            save(temporary)
            for path in temporary.rglob("*"):
                sync(path)
            sync(temporary)
            os.replace(temporary, target)
            sync(target.parent)

    def drop_states(self, keep: int) -> None:
        """Remove the edits as they were after any batch but this one."""
        for folder in (self.path / STATE).glob("batch-*"):
            if folder != self.state(keep):
                shutil.rmtree(folder, ignore_errors=True)

    def _append(self, name: str, entries: Sequence[Mapping[str, Any]]) -> None:
        with self._writing(name), (self.path / name).open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))
            file.flush()
            os.fsync(file.fileno())

    def _replace(self, name: str, text: str) -> None:
        with self._writing(name), replacing(self.path / name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"{self.path / name}: can't be written: {error.strerror}. What was written stays."
            ) from error


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
    return [
        f"{name} was {then.get(name, nothing)!r}, is {now.get(name, nothing)!r}"
        for name in dict.fromkeys([*then, *now])
        if name not in _MAY_CHANGE and then.get(name, nothing) != now.get(name, nothing)
    ]
