"""The folder of a tracing: its settings, a JSON and a safetensors file for each fact, and a log.

A fact's JSON is written last, so that a fact with a JSON is complete. All files are written in one step. A tracing can
be killed at any moment, and continues with the first fact that has no JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from easyedit_lifelong.atomic import atomic_file, delete_leftovers, write_text_atomically
from easyedit_lifelong.clock import now
from easyedit_lifelong.edits.edits_folder import folder_write_errors
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.locate.known_facts import KnownFact
from easyedit_lifelong.locate.restorations import KINDS, MODULES
from easyedit_lifelong.locate.trace import FactTrace
from easyedit_lifelong.parsing import parse_json
from easyedit_lifelong.paths import expanded_path
from easyedit_lifelong.runs.run_folder import check_free
from easyedit_lifelong.runs.setting_changes import setting_changes
from easyedit_lifelong.write_errors import translated_write_errors

SCHEMA_VERSION = 1
CONFIG, FACTS, LOG_FILE = "locate.json", "facts", "locate.log"
TRACED, UNKNOWN, SKIPPED = "traced", "unknown", "skipped"


class TraceFolder:
    """Reads and writes the files of one tracing.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Write the settings of a new tracing, or compare them with those of the tracing that the folder holds.

        Raises:
            RunError: the folder holds a tracing with other settings, or can't be written to.
        """
        if not (self.path / CONFIG).exists():
            with folder_write_errors(self.path, "the settings of the tracing"):
                # The settings come first: they are what --resume looks for.
                write_text_atomically(self.path / CONFIG, _json({"schema_version": SCHEMA_VERSION, **settings}))
                (self.path / FACTS).mkdir(exist_ok=True)
            return
        # Not the name or path of the model: the fingerprint of its weights is compared.
        changes = setting_changes(self.settings(), settings, ("schema_version.", "model."))
        if changes:
            raise RunError(
                f"{self.path}: this tracing can't be resumed with other settings: {'; '.join(changes)}. Use its "
                "settings, or choose another folder with --out."
            )
        (self.path / FACTS).mkdir(exist_ok=True)
        delete_leftovers(self.path / FACTS)

    def settings(self) -> dict[str, Any]:
        """Return the settings of the tracing.

        Raises:
            RunError: the folder holds no tracing, or one of another version.
        """
        if not (self.path / CONFIG).is_file():
            raise RunError(f"{self.path}: holds no tracing (it has no {CONFIG}). `locate` makes one.")
        settings = _read_object(self.path / CONFIG)
        if settings.get("schema_version") != SCHEMA_VERSION:
            raise RunError(f"{self.path}: was written by another version of this package. Trace into another folder.")
        return settings

    def statuses(self) -> dict[str, str]:
        """Return the status of each processed fact by its identifier, in the order of the files' names.

        Raises:
            RunError: a file is damaged.
        """
        return {str(entry["fact_id"]): str(entry["status"]) for _, entry in self._files()}

    def statuses_of(self, facts: Sequence[KnownFact]) -> dict[int, str]:
        """Return the status of each processed fact by its index in the data.

        Args:
            facts: the data, which can have been extended since the facts were processed.

        Raises:
            RunError: a file is damaged, or belongs to another fact than that of the data.
        """
        statuses = {}
        for path, entry in self._files():
            index = int(path.stem) if path.stem.isdecimal() else len(facts)
            if index >= len(facts) or any(entry.get(name) != value for name, value in _of_fact(facts[index]).items()):
                raise RunError(
                    f"{path}: is of the fact {entry['fact_id']!r}, {entry.get('prompt')!r}, which the data don't have "
                    "at this place. Resume with the data that the tracing began with, or choose another folder with "
                    "--out."
                )
            statuses[index] = str(entry["status"])
        return statuses

    def add_trace(self, index: int, trace: FactTrace, seconds: float) -> None:
        """Write the trace of a fact.

        Args:
            index: index of the fact in the data.
            trace: its trace.
            seconds: how long it took.

        Raises:
            RunError: a file can't be written.
        """
        arrays: dict[str, Tensor] = {kind: scores.contiguous() for kind, scores in trace.scores.items()}
        arrays |= {f"severed_{module}": scores.contiguous() for module, scores in trace.severed.items()}
        content = to_bytes(arrays)
        entry = {
            "status": TRACED,
            **_of_fact(trace.fact),
            "tokens": trace.tokens,
            "subject_tokens": list(trace.subject),
            "answer_token": trace.answer,
            "high": trace.high,
            "low": trace.low,
            "scores_sha256": hashlib.sha256(content).hexdigest(),
            "seconds": round(seconds, 3),
            "finished": now(),
        }
        try:
            with atomic_file(self._stem(index).with_suffix(".safetensors")) as temporary:
                temporary.write_bytes(content)
        except OSError as error:
            raise RunError(f"{self.path / FACTS}: can't be written to: {error.strerror}") from error
        self._add(index, entry)

    def add_skipped(self, index: int, fact: KnownFact, status: str, reason: str) -> None:
        """Record that a fact was not traced, and why.

        Raises:
            RunError: a file can't be written.
        """
        self._add(index, {"status": status, **_of_fact(fact), "reason": reason})

    def traces(self) -> Iterator[FactTrace]:
        """Yield the traces of all traced facts.

        Raises:
            RunError: a file is missing or damaged.
        """
        for path, entry in self._files():
            if entry["status"] != TRACED:
                continue
            arrays = _read_arrays(path.with_suffix(".safetensors"), entry.get("scores_sha256"))
            try:
                yield FactTrace(
                    KnownFact(entry["fact_id"], entry["prompt"], entry["subject"], entry["answer"], str(path)),
                    tokens=entry["tokens"],
                    subject=(entry["subject_tokens"][0], entry["subject_tokens"][1]),
                    answer=entry["answer_token"],
                    high=entry["high"],
                    low=entry["low"],
                    scores={kind: arrays[kind] for kind in KINDS if kind in arrays},
                    severed={
                        module: arrays[f"severed_{module}"] for module in MODULES if f"severed_{module}" in arrays
                    },
                )
            except (KeyError, TypeError, IndexError) as error:
                raise _damaged(path) from error

    def log(self, text: str) -> None:
        """Append a line to the log.

        Raises:
            RunError: the file can't be written.
        """
        with (
            folder_write_errors(self.path, "the lines of the log"),
            (self.path / LOG_FILE).open("a", encoding="utf-8") as file,
        ):
            file.write(f"{now()} {text}\n")

    def _stem(self, index: int) -> Path:
        return self.path / FACTS / f"{index:06}"

    def _add(self, index: int, entry: Mapping[str, Any]) -> None:
        path = self._stem(index).with_suffix(".json")
        with translated_write_errors(path):
            write_text_atomically(path, _json(entry))

    def _files(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield the JSON file of each processed fact, and its content."""
        for path in sorted((self.path / FACTS).glob("*.json")):
            entry = _read_object(path)
            if "fact_id" not in entry or "status" not in entry:
                raise _damaged(path)
            yield path, entry


def check_trace_folder(path: Path, resume: bool) -> Path:
    """Check that a tracing can begin or continue in a folder, without changing it.

    Returns:
        The path, with ``~`` expanded.

    Raises:
        RunError: it cannot.
    """
    if not resume:
        return check_free(path, resumable=True, what="tracing", files=(CONFIG, FACTS))
    path = expanded_path(path, RunError)
    if not (path / CONFIG).is_file():
        raise RunError(f"{path}: holds no tracing to resume. To start one there, leave out --resume.")
    return path


def _of_fact(fact: KnownFact) -> dict[str, Any]:
    values = asdict(fact)
    del values["where"]
    return values


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _damaged(path: Path) -> RunError:
    return RunError(f"{path}: is damaged. Delete it, and trace again with --resume.")


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path) from error
    if not isinstance(value, dict):
        raise _damaged(path)
    return value


def _read_arrays(path: Path, digest: object) -> dict[str, Tensor]:
    """Return the scores of a trace by name.

    Args:
        path: the file.
        digest: its SHA-256 digest; None for a trace of an earlier release, which recorded none.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        content = path.read_bytes()
        if digest is not None and hashlib.sha256(content).hexdigest() != digest:
            raise ValueError("it has been changed since it was written")
        return from_bytes(content)
    except (OSError, ValueError, SafetensorError) as error:
        raise RunError(
            f"{path}: is missing or damaged. Delete {path.with_suffix('.json').name} and trace again with --resume."
        ) from error
