"""The folder of a training: its checkpoint, its curve and its log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from easyedit_lifelong.atomic import append_durably, atomic_file, write_text_atomically
from easyedit_lifelong.edits.step_files import chained_digest
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.artefacts import DESCRIPTION
from easyedit_lifelong.paths import expanded_path
from easyedit_lifelong.runs.run_folder import check_free
from easyedit_lifelong.runs.setting_changes import setting_changes
from easyedit_lifelong.write_errors import translated_write_errors

SCHEMA_VERSION = 1
CHECKPOINT, CURVE, LOG_FILE = "checkpoint.safetensors", "training.jsonl", "training.log"


@dataclass
class TrainingProgress:
    """How far a training is.

    Attributes:
        steps: number of optimiser steps.
        edits: number of training edits.
        lines: number of lines of the training curve.
        seconds: time spent, including interrupted sessions.
        best_loss: the smallest loss of a validation; None before the first one.
        best_edits: the number of training edits at that validation.
        validated_edits: the number of training edits at the latest validation.
        since_line: the values of the steps since the last line of the training curve.
    """

    steps: int = 0
    edits: int = 0
    lines: int = 0
    seconds: float = 0.0
    best_loss: float | None = None
    best_edits: int = 0
    validated_edits: int = 0
    since_line: list[dict[str, float]] = field(default_factory=list)


class TrainingFolder:
    """Reads and writes the files of one training.

    Args:
        path: the folder, which must exist.
        settings: everything that determines the training, ready for JSON.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self._settings = path, json.loads(json.dumps(settings))  # JSON turns tuples into lists

    def save_checkpoint(self, progress: TrainingProgress, tensors: Mapping[str, Tensor]) -> None:
        """Write the checkpoint in one step; replace the previous one.

        Raises:
            RunError: the file cannot be written.
        """
        entry = {"schema_version": SCHEMA_VERSION, "settings": self._settings, "progress": asdict(progress)}
        arrays = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        text = json.dumps(entry)
        content = to_bytes(arrays, {"checkpoint": text, "digest": chained_digest("", text, arrays)})
        path = self.path / CHECKPOINT
        with translated_write_errors(path), atomic_file(path) as temporary:
            temporary.write_bytes(content)

    def load_checkpoint(self) -> tuple[TrainingProgress, dict[str, Tensor]]:
        """Return the checkpoint, and remove what was written to the curve after it.

        Raises:
            RunError: there is none, it is damaged, or it has other settings.
        """
        entry, tensors = _read(self.path / CHECKPOINT)
        changes = setting_changes(entry["settings"], self._settings)
        if changes:
            raise RunError(
                f"{self.path}: this training can't be resumed with other settings: {'; '.join(changes)}. Use its "
                "settings, or choose another folder with --out."
            )
        progress = TrainingProgress(**entry["progress"])
        curve = self.path / CURVE
        try:
            lines = curve.read_text(encoding="utf-8").splitlines(keepends=True) if curve.exists() else []
        except UnicodeDecodeError as error:
            raise RunError(f"{curve}: is damaged. Start again in another folder.") from error
        if len(lines) < progress.lines:
            raise RunError(f"{curve}: lacks lines that the checkpoint counts. Start again in another folder.")
        self._write_curve("".join(lines[: progress.lines]))
        return progress, tensors

    @property
    def has_checkpoint(self) -> bool:
        """Whether a checkpoint has been written."""
        return (self.path / CHECKPOINT).is_file()

    def clear_curve(self) -> None:
        """Remove all lines of the training curve.

        Raises:
            RunError: the file cannot be written.
        """
        self._write_curve("")

    def add_line(self, entry: Mapping[str, Any]) -> None:
        """Append a line to the training curve. It is on disk when this returns, since the next checkpoint counts it.

        Raises:
            RunError: the file cannot be written.
        """
        with translated_write_errors(self.path / CURVE):
            append_durably(self.path / CURVE, f"{json.dumps(entry)}\n".encode())

    def log(self, text: str) -> None:
        """Append a line to the log.

        Raises:
            RunError: the file cannot be written.
        """
        path = self.path / LOG_FILE
        with translated_write_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    def _write_curve(self, text: str) -> None:
        """Replace the training curve."""
        with translated_write_errors(self.path / CURVE):
            write_text_atomically(self.path / CURVE, text)


def check_training_folder(path: Path, resume: bool) -> Path:
    """Check that a training can begin or continue in a folder, without changing it.

    Returns:
        The path, with ``~`` expanded.

    Raises:
        RunError: it cannot.
    """
    if not resume:
        return check_free(path, resumable=True, what="training", files=(CHECKPOINT, CURVE, DESCRIPTION))
    path = expanded_path(path, RunError)
    if (path / CHECKPOINT).is_file():
        return path
    if (path / DESCRIPTION).is_file():
        raise RunError(
            f"{path}: has no {CHECKPOINT}, so this training can't be resumed. Choose another folder with --out."
        )
    if not (path / CURVE).is_file():
        raise RunError(f"{path}: holds no training to resume. To start one there, leave out --resume.")
    return path  # interrupted before its first checkpoint


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the entry and the tensors of a checkpoint. Checkpoints of earlier releases have no digest.

    Raises:
        RunError: it is damaged, or was written by another version.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
        text = metadata["checkpoint"]
        entry = json.loads(text)
        if metadata.get("digest", digest := chained_digest("", text, tensors)) != digest:
            raise ValueError("it has been changed since it was written")
        version = entry["schema_version"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RunError(f"{path}: is damaged, or not a checkpoint. Start again in another folder.") from error
    if version != SCHEMA_VERSION:
        raise RunError(f"{path}: was written by another version of this package. Start again in another folder.")
    return entry, tensors
