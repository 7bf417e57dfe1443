"""Score the edits of a run again, without editing: with further data or metrics, or after a part of the edits."""

from __future__ import annotations

import time
from collections.abc import Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError, HyperParameterError, RunError, did_you_mean
from easyedit_lifelong.evaluation.carry_over import CARRY_OVER
from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.runs.checks import check_data, scorer_of
from easyedit_lifelong.runs.execute import make_scoreboard
from easyedit_lifelong.runs.experiment import Data, Inputs
from easyedit_lifelong.runs.experiment_files import read_experiment
from easyedit_lifelong.runs.harness_results import AFTER, BEFORE, HarnessResults
from easyedit_lifelong.runs.inputs import read_inputs
from easyedit_lifelong.runs.plan import Plan, make_plan
from easyedit_lifelong.runs.run_config import run_config, summary_settings
from easyedit_lifelong.runs.run_folder import CONFIG, JOURNAL, STATE, RunFolder, check_free
from easyedit_lifelong.runs.run_lines import JOURNAL_FIELDS, read_lines
from easyedit_lifelong.runs.run_scores import score_all, summarize
from easyedit_lifelong.runs.state import RunResult, RunState, run_result

_GENERATED = "generated"
_CHANGEABLE = ("retention", "text", "capability", "lm_eval", "carry_over", "task", "skip_unusable", "schedule")
"""The settings of a run that a rescoring can change."""


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
            ``carry_over`` and ``lm_eval``. Tasks of lm-evaluation-harness are not evaluated again unless they are
            given.

    Returns:
        The rescoring.

    Raises:
        DataError: the data can't be read, or none of their records belongs to an edit.
        HyperParameterError: a metric or a number of edits is invalid.
        RunError: the folder holds no run with saved edits, or the run's data have changed.
    """
    _check_metrics(metrics)
    folder = Path(run).expanduser()
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
    path = None if out is None else check_free(out)
    return Rescoring(folder, plan, replace(inputs, requests=requests), skipped, journal, tuple(metrics), path)


def rescore(rescoring: Rescoring, model: Any, tokenizer: Any) -> RunResult:
    """Load a run's edits onto the unedited model, and score them.

    Args:
        rescoring: what to score.
        model: the run's model, unedited; the edits stay on it.
        tokenizer: its tokenizer.

    Returns:
        The edited model and the scores. The folder has the files of a run, so that ``report`` reads it; ES and the
        seconds of editing are those of the run.

    Raises:
        DataError: a prompt with its answer is too long for the model.
        ModelError: the model lacks a layer that was edited.
        RunError: the saved edits are damaged or belong to another model, or the folder can't be written.
    """
    began = time.perf_counter()
    # The method's checks of requests concern editing. Records with further questions need no subject, for example.
    plan = replace(rescoring.plan, method=replace(rescoring.plan.method, check_requests=None))
    scorer = scorer_of(plan, model, tokenizer)
    checked = check_data(plan, rescoring.inputs, model, tokenizer, scorer)
    config = run_config(plan, model, checked)
    settings = summary_settings(plan, model, checked, config)
    generates = _needs_generated(rescoring.metrics)
    state = RunState(model)
    for entry in rescoring.journal:
        state.record(entry)
    state.attempted = [request for request in checked.usable if request.case_id not in rescoring.skipped]
    with ExitStack() as stack:
        folder = None if rescoring.out is None else RunFolder(rescoring.out)
        if folder is not None:
            stack.callback(folder.close)
            origin = {"run": str(rescoring.run.resolve()), "edits": state.counts["edited"]}
            folder.write_config({**config, "recorded": {**config["recorded"], "rescored": origin}})
            folder.journal(*rescoring.journal)
        harness = HarnessResults(plan.experiment.lm_eval, folder, resume=False)
        harness.evaluate(BEFORE, model, tokenizer)
        board = make_scoreboard(plan, model, scorer, checked, generates=generates)
        _load_edits(rescoring, model, tokenizer)
        score_all(
            state,
            board,
            folder,
            [],
            thorough=True,
            generate=generates,
            sample=plan.schedule.sample,
            seed=plan.seed,
            counts=plan.method.counts,
            n_seen=len(rescoring.journal),
        )
        harness.evaluate(AFTER, model, tokenizer)
        total = time.perf_counter() - began
        summary = summarize(
            state, board, settings, total, sample=plan.schedule.sample, seed=plan.seed, **harness.summary()
        )
        summary = _only_metrics(summary, rescoring.metrics)
        if folder is not None:
            folder.write_summary(summary)
    return run_result(state, summary, folder.path if folder else None)


def rescore_run(run: Path | str, model: Any, tokenizer: Any, **options: Any) -> RunResult:
    """Score the edits of a run again on its unedited model, without editing.

    Args:
        run: the folder of a run, finished or interrupted.
        model: the run's model, unedited; the edits stay on it.
        tokenizer: its tokenizer.
        **options: the options of :func:`plan_rescoring`.

    Returns:
        The edited model and the scores.

    Raises:
        LifelongError: as :func:`plan_rescoring` and :func:`rescore` do.
    """
    return rescore(plan_rescoring(run, **options), model, tokenizer)


def _load_edits(rescoring: Rescoring, model: Any, tokenizer: Any) -> None:
    """Load the edits of a rescoring onto the unedited model."""
    edited = [entry["case_id"] for entry in rescoring.journal if entry["status"] == "edited"]
    keeper = rescoring.plan.method.state
    assert keeper is not None  # plan_rescoring refuses the run otherwise
    keeper.load(model, tokenizer, rescoring.plan.hparams, rescoring.run / STATE, edited)


def _check_metrics(names: Sequence[str]) -> None:
    """Raise a HyperParameterError if there is no metric of a name."""
    for name in names:
        if name not in METRICS:
            raise HyperParameterError(f"metrics: there is no metric {name!r}.{did_you_mean(name, METRICS)}")


def _needs_generated(metrics: Sequence[str]) -> bool:
    """Return whether one of the metrics needs generated answers; without names, all metrics are wanted.

    The carry-over is scored together with them.
    """
    return not metrics or any(METRICS[name].kind == _GENERATED or name in CARRY_OVER for name in metrics)


def _only_metrics(summary: dict[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    """Return a summary with these metrics only, each also "before"; without names, the summary itself."""
    if not metrics:
        return summary
    names = {*metrics, *(f"{name}_before" for name in metrics)}
    reduced = {
        key: {name: value for name, value in summary[key].items() if name in names}
        for key in ("metrics", "intervals", "metric_kinds")
    }
    return {**summary, **reduced}


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
    journal = read_lines(folder / JOURNAL, JOURNAL_FIELDS)
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
        raise HyperParameterError(
            f"edits: {edits} edits end within a batch of this run; use {' or '.join(map(str, sorted(nearest)))}"
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
            f"{inputs.name}: none of its {len(inputs.requests)} records has the prompt and the target of an edit of "
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
