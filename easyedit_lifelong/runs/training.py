"""The training loop of methods that are trained for a model: order of records, validation, checkpoints, artefact."""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.clock import now
from easyedit_lifelong.data.request import EditRequest, as_requests
from easyedit_lifelong.edits.edits_folder import folder_write_errors
from easyedit_lifelong.errors import DataError, EditError, HyperParameterError, ModelError, RunError
from easyedit_lifelong.folder_lock import lock_folder
from easyedit_lifelong.hparams_files import hparams_values
from easyedit_lifelong.methods.artefacts import write_artefact
from easyedit_lifelong.methods.shared.editors import carries_edits, internal_pass
from easyedit_lifelong.methods.trained_editor import Training, TrainingSchedule
from easyedit_lifelong.models.fingerprint import model_fingerprint
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.models.model_modes import editing, frozen
from easyedit_lifelong.models.wrappers import unwrap_model
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.runs.hyperparameter_files import find_method
from easyedit_lifelong.runs.requests_digest import requests_digest
from easyedit_lifelong.runs.training_folder import TrainingFolder, TrainingProgress, check_training_folder
from easyedit_lifelong.versions import package_versions

Report = Callable[[int, int | None, str | None], None]
"""``report(edits, total, line)`` is called after every step, with a line of text if there is a new one."""

_MAY_DIFFER = ("archive", "device", "max_iters", "model_name", "model_parallel", "silent", "verbose")
"""Hyperparameters that can differ when a training is resumed."""


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training.

    Attributes:
        folder: the folder of the artefact.
        edits: number of training edits.
        best_edits: number of training edits after which the artefact was written.
        best_loss: its loss on the held-out records.
        reason: why the training ended.
    """

    folder: Path
    edits: int
    best_edits: int
    best_loss: float
    reason: str


def train_editor(
    model: Any,
    tokenizer: Any,
    requests: Sequence[Any],
    hparams: Any,
    out: Path | str,
    *,
    edits: int | None = None,
    minutes: float | None = None,
    resume: bool = False,
    report: Report | None = None,
) -> TrainingResult:
    """Train a method for a model, and write the artefact that editing needs.

    The last tenth of the records is held out, and not trained on. After every validation on these records, the folder
    has the artefact with the smallest loss so far, and a checkpoint. A training that was interrupted and is resumed
    ends with bitwise the same artefact as an uninterrupted one, unless ``minutes`` ends it.

    Args:
        model: the unedited model. Its weights stay as they are.
        tokenizer: its tokenizer.
        requests: requests with locality prompts and, preferably, paraphrases.
        hparams: the hyperparameters of the method.
        out: the folder.
        edits: number of training edits; None: that of the hyperparameters.
        minutes: stop after this time, including that of interrupted sessions.
        resume: continue the interrupted training in the folder.
        report: shows the progress.

    Raises:
        HyperParameterError: the method is not trained.
        DataError: a record cannot be used, or there are too few.
        ModelError: the method cannot edit the model, or the model has edits.
        RunError: the folder cannot be used.
        EditError: a loss or a gradient is not finite; or no validation had a finite loss. The last checkpoint stays.
    """
    method = find_method(hparams)
    if method.train is None:
        raise HyperParameterError(f"{method.name} is not trained; it edits without a trained artefact")
    out = check_training_folder(Path(out), resume)
    valid = as_requests(requests)
    check_enough(valid)
    if carries_edits(model):
        raise ModelError("the model carries edits; train on the unedited model")
    model, schedule = unwrap_model(model), method.train.schedule(hparams)
    values = hparams_values(hparams, model_label(model))
    settings = {
        "method": method.name,
        "weights": model_fingerprint(model),
        "requests_sha256": requests_digest(valid, []),
        **{name: value for name, value in values.items() if name not in _MAY_DIFFER},
    }
    with editing(model), frozen(model), internal_pass(model), contextlib.ExitStack() as stack:
        training = method.train.start(model, tokenizer, hparams)
        records = [training.encode(request) for request in valid]
        out.mkdir(parents=True, exist_ok=True)
        if (lock := lock_folder(out)) is not None:
            stack.callback(lock.release)
        check_training_folder(out, resume)  # another process may have trained there since the first check
        folder, progress = TrainingFolder(out, settings), TrainingProgress()
        if resume and folder.has_checkpoint:
            progress, tensors = folder.load_checkpoint()
            if progress.steps:
                _load_state(training, tensors, out)
        else:
            folder.clear_curve()
            # Before the first artefact: a folder with an artefact and no checkpoint can't be resumed.
            folder.save_checkpoint(progress, {})
        description = {
            "method": method.name,
            "model": {"name": model_label(model), "fingerprint": settings["weights"]},
            "hparams": values,
        }
        loop = _Loop(training, records, schedule, folder, progress, description, report)
        reason = loop.run(schedule.edits if edits is None else edits, minutes)
    if progress.best_loss is None:
        raise EditError(f"{out}: no validation had a finite loss, so no artefact was written")
    return TrainingResult(out, progress.edits, progress.best_edits, progress.best_loss, reason)


def check_enough(requests: Sequence[EditRequest]) -> None:
    """Check that there are records to train on and one to hold out.

    Raises:
        DataError: there are too few.
    """
    if len(requests) < 2:
        raise DataError(f"the training needs at least two records; there are {len(requests)}")


def _load_state(training: Training, tensors: Mapping[str, Any], out: Path) -> None:
    """Restore the state of a training.

    Raises:
        RunError: the checkpoint does not fit.
    """
    try:
        training.load_state(tensors)
    except (KeyError, RuntimeError) as error:
        raise RunError(f"{out}: the checkpoint is damaged ({error}). Start again in another folder.") from error


class _Loop:
    """Runs optimiser steps and validations.

    Args:
        training: the method that is being trained.
        records: the encoded records; the last tenth is held out.
        schedule: the schedule.
        folder: the folder of the training.
        progress: how far the training is; it is updated.
        description: the description of the artefact.
        report: shows the progress.
    """

    def __init__(
        self,
        training: Training,
        records: Sequence[Any],
        schedule: TrainingSchedule,
        folder: TrainingFolder,
        progress: TrainingProgress,
        description: Mapping[str, Any],
        report: Report | None,
    ) -> None:
        held_out = min(schedule.max_held_out, max(1, len(records) // 10))
        self._training, self._schedule, self._folder, self._progress = training, schedule, folder, progress
        self._records, self._held_out = records[:-held_out], records[-held_out:]
        self._description = {
            **description,
            "data": {"records": len(self._records), "held_out": held_out},
            "versions": package_versions(),
        }
        self._report, self._unreported = report, list[str]()
        self._seconds_before, self._began = progress.seconds, time.monotonic()
        self._epoch, self._order = -1, list[int]()

    def run(self, edits: int | None, minutes: float | None) -> str:
        """Train until an end is reached; return the reason for the end."""
        schedule, progress = self._schedule, self._progress
        while (reason := self._end(edits, minutes)) is None:
            validations = progress.edits // schedule.edits_per_validation
            self._step()
            if progress.edits // schedule.edits_per_validation > validations:
                self._validate()
            self._show(edits)
        if progress.validated_edits != progress.edits:
            self._validate()
            self._show(edits)
        return reason

    def _end(self, edits: int | None, minutes: float | None) -> str | None:
        """Return why the training ends now; None if it does not."""
        progress = self._progress
        if edits is not None and progress.edits >= edits:
            return "all training edits are done"
        if minutes is not None and progress.edits and self._seconds() >= 60 * minutes:
            return f"{minutes:g} minutes are over"
        if progress.best_loss is not None and progress.edits - progress.best_edits >= self._schedule.patience:
            return f"no validation was better during {counted(progress.edits - progress.best_edits, 'training edit')}"
        return None

    def _step(self) -> None:
        """Make one optimiser step."""
        schedule, progress = self._schedule, self._progress
        numbers = range(progress.edits, progress.edits + schedule.edits_per_step)
        batches = [self._batch(number, schedule.requests_per_edit) for number in numbers]
        lines = progress.edits // schedule.edits_per_line
        values = self._training.train_step(batches, random.Random(f"{schedule.seed} step {progress.steps}"))
        progress.steps += 1
        progress.edits += len(batches)
        progress.since_line.append(dict(values))
        if progress.edits // schedule.edits_per_line > lines:
            count = len(progress.since_line)
            names = progress.since_line[0]
            self._add_line(
                "training", {name: sum(entry[name] for entry in progress.since_line) / count for name in names}
            )
            progress.since_line = []

    def _batch(self, edit: int, size: int) -> list[Any]:
        """Return the records of a training edit. Every epoch has its own order."""
        count = len(self._records)
        chosen = []
        for number in range(edit * size, (edit + 1) * size):
            epoch, place = divmod(number, count)
            if epoch != self._epoch:
                self._epoch, self._order = epoch, list(range(count))
                random.Random(f"{self._schedule.seed} epoch {epoch}").shuffle(self._order)
            chosen.append(self._records[self._order[place]])
        return chosen

    def _validate(self) -> None:
        """Validate, write the artefact if it is the best one so far, and save a checkpoint."""
        progress, size = self._progress, self._schedule.requests_per_edit
        batches = [self._held_out[begin : begin + size] for begin in range(0, len(self._held_out), size)]
        values = self._training.validate(batches, random.Random(f"{self._schedule.seed} validation"))
        is_best = math.isfinite(values["loss"]) and (progress.best_loss is None or values["loss"] < progress.best_loss)
        self._add_line("validation", {**values, "best": is_best})
        if is_best:
            progress.best_loss, progress.best_edits = values["loss"], progress.edits
            validation = {"edits": progress.edits, **values}
            content = {**self._description, "validation": validation}
            with folder_write_errors(self._folder.path, "the files of the artefact"):
                write_artefact(self._folder.path, content, self._training.artefact())
        progress.seconds, progress.validated_edits = self._seconds(), progress.edits
        self._folder.save_checkpoint(progress, self._training.state())

    def _add_line(self, kind: str, values: Mapping[str, Any]) -> None:
        """Append a line to the training curve and to the log."""
        progress = self._progress
        entry = {"edits": progress.edits, "kind": kind, **values, "seconds": round(self._seconds(), 1)}
        self._folder.add_line(entry)
        progress.lines += 1
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items() if not isinstance(value, bool))
        best = "  (best so far)" if values.get("best") else ""
        self._unreported.append(f"{counted(progress.edits, 'edit')}, {kind}: {numbers}{best}")
        self._folder.log(f"{now()}  {self._unreported[-1]}")

    def _show(self, total: int | None) -> None:
        """Report the progress."""
        if self._report is not None:
            self._report(self._progress.edits, total, "\n".join(self._unreported) or None)
        self._unreported.clear()

    def _seconds(self) -> float:
        """Return the time spent on the training, including interrupted sessions."""
        return self._seconds_before + time.monotonic() - self._began
