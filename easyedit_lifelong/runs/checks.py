"""What the loops share: the checks before a run, its state, and its trackers."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from easyedit_lifelong import bridge
from easyedit_lifelong.data.request import EditRequest, Probe, check_unique
from easyedit_lifelong.data.samples import retention_probes
from easyedit_lifelong.errors import DataError, HyperParameterError, RunError
from easyedit_lifelong.evaluation.context_fit import check_fit
from easyedit_lifelong.evaluation.metrics import METRICS, mean
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.models.kinds import Kind, kind_of
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.registry import Tracker
from easyedit_lifelong.runs.run_folder import RunFolder

LOG = logging.getLogger(__name__)


class Progress(Protocol):
    """Hears of every request as it is dealt with, and of every scoring.

    A method ``prepared(done, total)``, if there is one, hears how much of what the editing method needs
    before its first edit is there. So do methods ``journaled(entry)`` and ``scored(entry)`` hear every line of
    the journal and of the scores, before :meth:`edited`.
    """

    def edited(self, done: int, scores: Mapping[str, float]) -> None:
        """``done`` requests have been dealt with; ``scores`` are the latest."""


def tell(progress: Progress, method: str, entries: Sequence[Mapping[str, Any]]) -> None:
    """Tell a progress display lines of a run's files, if it has a method that listens to them."""
    listener = getattr(progress, method, None)
    if listener is not None:
        for entry in entries:
            listener(entry)


@dataclass
class RunResult:
    """A run's outcome; with ``out`` given, the same lies in its ``summary.json``.

    Attributes:
        edited_model: the model after the last edit.
        metrics: final scores by name; :data:`~easyedit_lifelong.evaluation.metrics.METRICS` says
            what each means.
        timing: seconds, by name.
        journal: what became of each request, in order.
        curve: the scores at every point of evaluation.
        summary: what ``summary.json`` holds.
        folder: the run's folder, if there is one.
    """

    edited_model: Any
    metrics: dict[str, float]
    timing: dict[str, float]
    journal: list[dict[str, Any]]
    curve: list[dict[str, Any]]
    summary: dict[str, Any]
    folder: Path | None


@dataclass
class RunState:
    """What a run has come to.

    An edit that failed counts in every score, with the model as it stayed: a method that fails on
    what is hard must not look better for it.
    """

    model: Any
    attempted: list[EditRequest] = field(default_factory=list)
    journal: list[dict[str, Any]] = field(default_factory=list)
    curve: list[dict[str, Any]] = field(default_factory=list)
    success: list[float] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"edited": 0, "failed": 0, "skipped": 0})
    seconds: dict[str, float] = field(
        default_factory=lambda: {"preparing": 0.0, "editing": 0.0, "scoring": 0.0, "io": 0.0}
    )

    def edit_success(self) -> dict[str, float]:
        """Return ES, if anything was edited."""
        success = mean(self.success)
        return {} if success is None else {"ES": success}

    def latest(self) -> dict[str, float]:
        """Return what a progress display shows."""
        scores = {k: v for k, v in (self.curve[-1] if self.curve else {}).items() if k in ("ERR", "TRR", "locality")}
        return {**self.edit_success(), **scores}

    def final(self) -> dict[str, float]:
        """Return the scores of the last evaluation."""
        return {name: score for name, score in (self.curve[-1] if self.curve else {}).items() if name in METRICS}


def find_method(hparams: Any) -> EditMethod:
    """Return the method that hyperparameters belong to: a registered one, or EasyEdit's own.

    Raises:
        HyperParameterError: there is none.
    """
    method = get_plugins().method_for(hparams) or bridge.easyedit_method_for(hparams)
    if method is None:
        raise HyperParameterError(f"{type(hparams).__name__} belongs to no registered editing method")
    return method


def task_of(model: Any, asked: str | None) -> str:
    """Return the task of a run: a classifier's answers are labels, whatever its data's format says.

    Raises:
        HyperParameterError: a classifier is asked to write.
    """
    if kind_of(model) is not Kind.CLASSIFIER:
        return asked or "qa"
    if asked == "generation":
        raise HyperParameterError(f"task: {asked}: {type(model).__name__} is a classifier; it writes no text")
    return "classification"


def held_out_facts(model: Any, given: Sequence[Probe] | None) -> list[Probe]:
    """Return the held-out facts of a run: those given, else the sample data's, which no classifier has labels for."""
    if given is not None:
        return list(given)
    return [] if kind_of(model) is Kind.CLASSIFIER else retention_probes()


def check_run(requests: Sequence[EditRequest], trackers: Sequence[str], out: Path | str | None) -> None:
    """Check what needs neither model nor method.

    Raises:
        DataError: there are no requests, or two with the same id.
        PluginError: there is no such tracker.
        RunError: trackers are given without a folder to write to.
    """
    if not requests:
        raise DataError("there are no requests to edit")
    check_unique(requests)
    for tracker in trackers:
        get_plugins().trackers.get(tracker)
    if trackers and out is None:
        raise RunError(f"trackers ({', '.join(trackers)}) write into a run's folder; name one with out=")


def prepare_method(
    method: EditMethod, state: RunState, tokenizer: Any, hparams: Any, progress: Progress | None
) -> None:
    """Have the method compute what it needs before its first edit, and note how long that took."""
    if method.prepare is not None:
        began = time.perf_counter()
        # Who only wants to hear of edits needn't listen to this.
        method.prepare(state.model, tokenizer, hparams, getattr(progress, "prepared", None))
        state.seconds["preparing"] += time.perf_counter() - began


def check_method(method: EditMethod, model: Any, tokenizer: Any, hparams: Any) -> None:
    """Check that the method can edit the model.

    Raises:
        ModelError: it can't edit this model with these hyperparameters.
    """
    if method.check is not None:
        method.check(model, tokenizer, hparams)


def check_requests(
    method: EditMethod, model: Any, tokenizer: Any, hparams: Any, requests: Sequence[EditRequest], scorer: Scorer
) -> None:
    """Check that every request fits the model and is of use to the method.

    Raises:
        DataError: one isn't; the message names it.
    """
    check_fit(requests, scorer, model)
    if method.check_requests is not None:
        method.check_requests(model, tokenizer, hparams, requests)


def usable_requests(
    method: EditMethod, model: Any, tokenizer: Any, hparams: Any, requests: Sequence[EditRequest], scorer: Scorer,
    *, skip: bool,
) -> tuple[list[EditRequest], list[dict[str, Any]]]:  # fmt: skip
    """Return the requests that can be used and, if others may be skipped, which can't and why.

    Raises:
        DataError: one can't be used and none may be skipped, or none is left.
    """
    usable: list[EditRequest] = []
    skipped = []
    for few in [[request] for request in requests] if skip else [requests]:
        try:
            check_requests(method, model, tokenizer, hparams, few, scorer)
        except DataError as error:
            if not skip:
                raise
            skipped.append({"case_id": few[0].case_id, "reason": str(error)})
        else:
            usable += few
    if not usable:
        raise DataError(f"none of the {len(requests)} requests can be used; the first: {skipped[0]['reason']}")
    if skipped:
        LOG.warning("%d of %d requests can't be used and are left out", len(skipped), len(requests))
    return usable, skipped


def open_trackers(
    names: Sequence[str], folder: RunFolder | None, config: Mapping[str, Any], stack: ExitStack
) -> list[Tracker]:
    """Open trackers, to be closed with the stack."""
    trackers = []
    for name in names:
        assert folder is not None  # checked with everything else
        tracker = get_plugins().trackers.get(name).create(folder.path, config)
        stack.callback(tracker.close)
        trackers.append(tracker)
    return trackers
