"""Plan a rescoring: read a run's settings, journal and data, and check that its edits can be scored again."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError, HyperParameterError, RunError, did_you_mean
from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.parsing import parse_yaml
from easyedit_lifelong.paths import expanded_path
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.runs.experiment import Data, Inputs
from easyedit_lifelong.runs.experiment_files import read_experiment
from easyedit_lifelong.runs.inputs import read_inputs
from easyedit_lifelong.runs.plan import Plan, make_plan
from easyedit_lifelong.runs.run_folder import CONFIG, JOURNAL, check_free, has_summary
from easyedit_lifelong.runs.run_lines import JOURNAL_FIELDS, read_lines

_CHANGEABLE = (
    "retention",
    "text",
    "capability",
    "lm_eval",
    "carry_over",
    "self_consistency",
    "judge",
    "task",
    "skip_unusable",
    "schedule",
)
"""The settings of a run that a rescoring can change."""

RESCORED = "rescored"
"""The entry of `recorded` in `config.yaml` that marks the folder of a rescoring, and names the run."""


@dataclass(frozen=True)
class Rescoring:
    """A rescoring whose settings and data were read and checked. :func:`plan_rescoring` makes it.

    Attributes:
        run: the folder of the run.
        plan: the plan of the run, with the settings that the rescoring changes.
        inputs: the requests to score, and what else is scored.
        skipped: the case_ids of those of these requests that the run skipped.
        journal: the run's lines of the edits that are loaded.
        metrics: the metrics to report; empty for all.
        out: folder for the results; None to write none.
    """

    run: Path
    plan: Plan
    inputs: Inputs
    skipped: Set[int | str]
    journal: list[dict[str, Any]]
    metrics: tuple[str, ...]
    out: Path | None


def plan_rescoring(
    run: Path | str,
    *,
    edits: int | None = None,
    data: Data | None = None,
    metrics: Sequence[str] = (),
    out: Path | str | None = None,
    device: str | int | None = None,
    **changes: Any,
) -> Rescoring:
    """Read a run's settings, journal and data, and check that its edits can be scored again.

    Args:
        run: the folder of a run, finished or interrupted.
        edits: load and score only this many edits, the run's first; None for all. For a method that edits in batches,
            the number must end a batch.
        data: other data with further questions for the run's edits. A record belongs to the edit that has the same
            prompt and target; other records are left out. None for the run's own data.
        metrics: names of the metrics to report; empty for all. Answers are generated only if a metric needs them.
        out: folder for the results; None to write none.
        device: the device to load the model on, for those who load it with the plan's hyperparameters; None for the
            run's.
        **changes: settings of :class:`~easyedit_lifelong.runs.experiment.Experiment` that replace the run's:
            ``retention``, ``text``, ``capability``, ``task``, ``schedule`` (for its sample), ``skip_unusable``,
            ``carry_over``, ``self_consistency`` and ``lm_eval``. Tasks of lm-evaluation-harness are not evaluated again
            unless they are given.

    Returns:
        The rescoring.

    Raises:
        DataError: the data can't be read, or none of their records belongs to an edit.
        HyperParameterError: a metric or a number of edits is invalid.
        RunError: the folder holds no run with saved edits, or the run's data have changed.
    """
    _check_metrics(metrics)
    folder = expanded_path(run, RunError)
    if not (folder / CONFIG).is_file():
        raise RunError(f"{folder}: holds no run (it has no {CONFIG})")
    unknown = set(changes) - set(_CHANGEABLE)
    if unknown:
        raise TypeError(f"a rescoring can't change {', '.join(sorted(unknown))}")
    experiment = replace(read_experiment(folder / CONFIG), trackers=(), lm_eval=None)
    if device is not None:
        changes["overrides"] = {**experiment.overrides, "device": device}
    plan = make_plan(replace(experiment, **changes), None)
    _check_saved_edits(plan, folder)
    journal = _first_edits(folder, edits)
    inputs = read_inputs(plan.experiment if data is None else replace(plan.experiment, data=data), plan.seed)
    skipped: Set[int | str] = set()
    if data is None:
        requests = _own_requests(inputs, journal, folder)
        skipped = {entry["case_id"] for entry in journal if entry["status"] == "skipped"}
    else:
        requests = _requests_of_other_data(inputs, journal)
    path = None if out is None else expanded_path(out, RunError)
    if path is not None and not is_interrupted(path):
        check_free(path)
    return Rescoring(folder, plan, replace(inputs, requests=requests), skipped, journal, tuple(metrics), path)


def _check_metrics(names: Sequence[str]) -> None:
    """Raise a HyperParameterError if there is no metric of a name."""
    for name in names:
        if name not in METRICS:
            known = ", ".join(metric for metric in METRICS if not metric.endswith("_before"))
            raise HyperParameterError(
                f"metrics: there is no metric {name!r}.{did_you_mean(name, METRICS)} Known (docs/metrics.md): {known}."
            )


def _check_saved_edits(plan: Plan, folder: Path) -> None:
    """Raise a RunError if a run keeps no edits, or its method can't save them."""
    if not plan.keeps_edits:
        raise RunError(f"{folder}: a single-round run rolls its edits back; there are none to score again")
    if plan.method.state is None:
        raise RunError(f"{folder}: {plan.method.name} can't save its edits, so they can't be scored again")


def _first_edits(folder: Path, edits: int | None) -> list[dict[str, Any]]:
    """Return the lines of a run's journal up to its first edits.

    Args:
        folder: the run's folder.
        edits: the number of edits; None for all.

    Raises:
        HyperParameterError: the run has fewer edits, or they end within a batch.
        RunError: the journal can't be read, or has no edit.
    """
    journal = read_lines(folder / JOURNAL, JOURNAL_FIELDS, "this run can't be scored again")
    done = max((entry["n_edits"] for entry in journal), default=0)
    if not done:
        raise RunError(f"{folder / JOURNAL}: lists no edit")
    if edits is None:
        return journal
    if not 1 <= edits <= done:
        raise HyperParameterError(f"edits: {edits}, but the run in {folder} has {done}")
    ends = [line for line, (entry, following) in enumerate(pairwise(journal), 1) if _ends_batch(entry, following)]
    ends.append(len(journal))
    by_edits = {journal[end - 1]["n_edits"]: end for end in ends}
    if edits not in by_edits:
        nearest = sorted(by_edits, key=lambda n: abs(n - edits))[:2]
        ends_at = " or ".join(map(str, sorted(nearest)))
        raise HyperParameterError(
            f"edits: {counted(edits, 'edit')} {'ends' if edits == 1 else 'end'} within a batch of this run; "
            f"use {ends_at}"
        )
    return journal[: by_edits[edits]]


def _ends_batch(entry: dict[str, Any], following: dict[str, Any]) -> bool:
    """Return whether a line of the journal is the last of its batch. In the lifelong loop, every line is."""
    return "batch" not in entry or entry["batch"] != following.get("batch")


def _own_requests(inputs: Inputs, journal: Sequence[dict[str, Any]], folder: Path) -> list[EditRequest]:
    """Return those of a run's own requests that its journal has a line of.

    Raises:
        RunError: a line belongs to no request.
    """
    by_case = {request.case_id: request for request in inputs.requests}
    requests = []
    for number, entry in enumerate(journal, 1):
        request = by_case.get(entry.get("case_id", ""))
        if request is None or _question_of(request) != _question(entry):
            raise RunError(f"{folder / JOURNAL}, line {number}: belongs to no record of the data in {folder / CONFIG}")
        requests.append(request)
    return requests


def _requests_of_other_data(inputs: Inputs, journal: Sequence[dict[str, Any]]) -> list[EditRequest]:
    """Return the requests of other data that have the prompt and the target of an attempted edit.

    Raises:
        DataError: there is none.
    """
    attempted = {_question(entry) for entry in journal if entry["status"] != "skipped"}
    requests = [request for request in inputs.requests if _question_of(request) in attempted]
    if not requests:
        raise DataError(
            f"{inputs.name}: none of its records ({len(inputs.requests)}) has the prompt and the target of an edit of "
            "this run"
        )
    return requests


def _question(entry: dict[str, Any]) -> tuple[Any, Any]:
    """Return the prompt, or the user's words in a prompt in chat form, and the target of a line of the journal."""
    prompt = entry.get("question", entry.get("prompt"))
    return prompt.strip() if isinstance(prompt, str) else prompt, entry.get("target_new")


def _question_of(request: EditRequest) -> tuple[Any, Any]:
    """Return the prompt and the target of a request as :func:`_question` returns those of its line."""
    return request.question.strip(), request.target_new


def is_interrupted(path: Path) -> bool:
    """Return whether a folder holds the results of a rescoring that was interrupted, so that they can be replaced."""
    if has_summary(path):
        return False
    try:
        recorded = parse_yaml((path / CONFIG).read_text(encoding="utf-8"))["recorded"]
        return RESCORED in recorded
    except (OSError, ValueError, KeyError, TypeError):
        return False
