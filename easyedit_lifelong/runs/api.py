"""The two loops as functions: :func:`run_lifelong` and :func:`run_consecutive`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from easyedit_lifelong.data.multiple_choice import MultipleChoiceItem, as_items
from easyedit_lifelong.data.request import Probe, as_requests
from easyedit_lifelong.data.samples import capability_items
from easyedit_lifelong.errors import HyperParameterError
from easyedit_lifelong.evaluation.chat_requests import chat_settings
from easyedit_lifelong.evaluation.harness import HarnessTasks
from easyedit_lifelong.runs.execute import run_experiment
from easyedit_lifelong.runs.experiment import (
    CONSECUTIVE,
    KEEP_EDITS,
    LIFELONG,
    SINGLE_ROUND,
    Experiment,
    Inputs,
    Source,
)
from easyedit_lifelong.runs.schedule import Schedule
from easyedit_lifelong.runs.state import Progress, RunResult


def run_lifelong(
    model: Any,
    tokenizer: Any,
    requests: Iterable[Any],
    hparams: Any,
    *,
    eval_every: int | None = None,
    eval_at: Sequence[int] = (),
    eval_sample: int | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    only_errors: bool = False,
    skip_unusable: bool = False,
    retention: Sequence[Probe] | None = None,
    trackers: Sequence[str] = (),
    progress: Progress | None = None,
    data_name: str = "",
    task: str | None = None,
    text: str | None = None,
    capability: bool | Iterable[Any] = False,
    lm_eval: Sequence[str] = (),
    lm_eval_path: Path | str | None = None,
    lm_eval_limit: int | None = None,
    chat: bool = False,
    system: str | None = None,
    carry_over: bool = False,
    self_consistency: bool = False,
    judge: str | None = None,
    source: Source | None = None,
) -> RunResult:
    """Edit a model with a stream of requests, one at a time, and score the edits.

    Each edit is scored right after it was made (ES). When the schedule says so, and at the end, all edits so far are
    scored again (ERR, generality), together with their locality prompts, compared with the unedited model, and the
    held-out facts (TRR). "Before" scores are scores of the unedited model. If an edit fails (for example, its loss
    becomes NaN), the run records the failure and continues; in all scores, the failed edit counts with the answers of
    the model without it.

    The journal's line of an edit is written after the edit is on disk, if the method can save its edits. So a run can
    be resumed after it was killed at any moment, and gives the same edits and scores.

    Args:
        model: the model, unedited (also when a run is resumed); it is edited in place.
        tokenizer: its tokenizer.
        requests: mappings with EasyEdit's request fields, or :class:`EditRequest` objects.
        hparams: hyperparameters of a registered method.
        eval_every: number of edits between scorings; 1 scores after each edit (default 50, or none if ``eval_at``
            is given).
        eval_at: numbers of edits after which to score, such as (1, 10, 100, 1000).
        eval_sample: score a random sample of this many past edits if there are more, drawn with the
            hyperparameters' seed.
        out: folder for the run's files.
        resume: continue the interrupted run in ``out``.
        only_errors: skip a request if the model, as edited so far, already gives its target.
        skip_unusable: skip requests that can't be edited, and list them in the summary.
        retention: held-out facts for TRR; the default is the sample data's.
        trackers: names of registered trackers to report to.
        progress: receives what the run reports while it works.
        data_name: the name of the data in the results.
        task: the task of the data: ``qa`` (the default), ``generation``, or ``classification`` (for classifiers).
        text: a held-out text whose perplexity is measured before and after.
        capability: multiple-choice questions that are answered before and after: mappings with ``question``,
            ``choices``, ``answer`` (index or text of the right choice) and optionally ``subject``; True for the set of
            this package.
        lm_eval: names of tasks of lm-evaluation-harness that are evaluated before and after.
        lm_eval_path: a folder with YAML files of further tasks.
        lm_eval_limit: use only this many questions of each task.
        chat: ask every prompt as the user's turn of a chat, in the tokenizer's chat template.
        system: the system message of ``chat``; None for the template's default.
        carry_over: also score edits of plain prompts in a chat, and edits of a chat as plain prompts.
        self_consistency: also score what the model writes after its answers: whether it contains the old answer.
        judge: the judge of generated answers: ``match``, ``openai:MODEL``, or one of a plugin.
        source: where the data came from, for ``config.yaml``; without it, the data are written to ``out``.

    Returns:
        The edited model, the scores, and the content of the run's files.

    Raises:
        DataError: a request can't be used. All are checked before the first edit.
        HyperParameterError: the hyperparameters belong to no registered method, or a number is out of range.
        ModelError: the method can't edit this model with these hyperparameters.
        RunError: ``out`` holds another run, or a run that can't be resumed; or there are trackers, but no ``out``.
    """
    experiment = Experiment(
        LIFELONG,
        hparams,
        Inputs(as_requests(requests), retention, text, _items(capability), data_name, source=source),
        lm_eval=_tasks(lm_eval, lm_eval_path, lm_eval_limit),
        chat=chat_settings(chat, system),
        carry_over=carry_over,
        self_consistency=self_consistency,
        judge=judge,
        task=task,
        only_errors=only_errors,
        skip_unusable=skip_unusable,
        schedule=Schedule.of(eval_every, eval_at, eval_sample),
        trackers=trackers,
    )
    return run_experiment(experiment, model, tokenizer, out, resume=resume, progress=progress)


def run_consecutive(
    model: Any,
    tokenizer: Any,
    requests: Iterable[Any],
    hparams: Any,
    *,
    batch_size: int | None = None,
    consecutive: bool = True,
    eval_every: int | None = None,
    eval_at: Sequence[int] = (),
    eval_sample: int | None = None,
    out: Path | str | None = None,
    retention: Sequence[Probe] | None = None,
    trackers: Sequence[str] = (),
    progress: Progress | None = None,
    data_name: str = "",
    task: str | None = None,
    text: str | None = None,
    capability: bool | Iterable[Any] = False,
    lm_eval: Sequence[str] = (),
    lm_eval_path: Path | str | None = None,
    lm_eval_limit: int | None = None,
    chat: bool = False,
    system: str | None = None,
    carry_over: bool = False,
    self_consistency: bool = False,
    judge: str | None = None,
    resume: bool = False,
    skip_unusable: bool = False,
    source: Source | None = None,
) -> RunResult:
    """Edit a model with batches of requests, and score the edits (CoachHook, section 5).

    There are two protocols. *Consecutive*: the model keeps the edits of all batches; when the schedule says so, and at
    the end, all edits so far are scored. *Single-round*: each batch is edited, scored and rolled back; the scores are
    averages over all requests, each scored on the model that has only its batch's edits. In both, "before" scores are
    scores of the unedited model, and locality compares with its answers. If a batch fails, the run records the failure
    and continues; in all scores, the batch's requests count with the answers of the model without these edits.

    The journal's lines of a batch are written after the batch was edited and, in a consecutive run of a method that
    can save its edits, after the edits are on disk. So a run that was killed can be resumed after that batch.

    Args:
        model: the model, unedited (also when a run is resumed); it is edited in place.
        tokenizer: its tokenizer.
        requests: mappings with EasyEdit's request fields, or :class:`EditRequest` objects.
        hparams: hyperparameters of a registered method, or of one of EasyEdit's own methods that change weights.
        batch_size: requests per batch; the default is ``hparams.batch_size``.
        consecutive: True for the consecutive protocol, False for single-round.
        eval_every: number of *batches* between scorings (default 20, or none if ``eval_at`` is given).
        eval_at: numbers of *edits*; the run scores after the batch that reaches each of them.
        eval_sample: score a random sample of this many past edits if there are more, drawn with the
            hyperparameters' seed.
        out: folder for the run's files.
        retention: held-out facts for TRR; the default is the sample data's.
        trackers: names of registered trackers to report to.
        progress: receives what the run reports while it works.
        data_name: the name of the data in the results.
        task: the task of the data: ``qa`` (the default), ``generation``, or ``classification`` (for classifiers).
        text: a held-out text whose perplexity is measured before and after.
        capability: multiple-choice questions that are answered before and after: mappings with ``question``,
            ``choices``, ``answer`` (index or text of the right choice) and optionally ``subject``; True for the set of
            this package.
        lm_eval: names of tasks of lm-evaluation-harness that are evaluated before and after.
        lm_eval_path: a folder with YAML files of further tasks.
        lm_eval_limit: use only this many questions of each task.
        chat: ask every prompt as the user's turn of a chat, in the tokenizer's chat template.
        system: the system message of ``chat``; None for the template's default.
        carry_over: also score edits of plain prompts in a chat, and edits of a chat as plain prompts.
        self_consistency: also score what the model writes after its answers: whether it contains the old answer.
        judge: the judge of generated answers: ``match``, ``openai:MODEL``, or one of a plugin.
        resume: continue the interrupted run in ``out``, after the last batch in its journal.
        skip_unusable: skip requests that can't be edited, and list them in the summary.
        source: where the data came from, for ``config.yaml``; without it, the data are written to ``out``.

    Returns:
        The edited model, the scores, and the content of the run's files.

    Raises:
        DataError: a request can't be used. All are checked before the first edit.
        HyperParameterError: the hyperparameters belong to no method, or a number is out of range.
        ModelError: the method can't edit this model with these hyperparameters.
        RunError: ``out`` holds another run, or a run that can't be resumed; or there are trackers, but no ``out``.
    """
    experiment = Experiment(
        CONSECUTIVE,
        hparams,
        Inputs(as_requests(requests), retention, text, _items(capability), data_name, source=source),
        lm_eval=_tasks(lm_eval, lm_eval_path, lm_eval_limit),
        chat=chat_settings(chat, system),
        carry_over=carry_over,
        self_consistency=self_consistency,
        judge=judge,
        task=task,
        skip_unusable=skip_unusable,
        batch_size=batch_size,
        protocol=KEEP_EDITS if consecutive else SINGLE_ROUND,
        schedule=Schedule.of(eval_every, eval_at, eval_sample),
        trackers=trackers,
    )
    return run_experiment(experiment, model, tokenizer, out, resume=resume, progress=progress)


def _items(capability: bool | Iterable[Any]) -> list[MultipleChoiceItem]:
    """Return the multiple-choice questions of the argument ``capability``."""
    if isinstance(capability, bool):
        return capability_items() if capability else []
    return as_items(capability)


def _tasks(names: Sequence[str], path: Path | str | None, limit: int | None) -> HarnessTasks | None:
    """Return the tasks of lm-evaluation-harness that the arguments name; None without names.

    Raises:
        HyperParameterError: there is a folder or a limit of tasks, but no names.
    """
    if names:
        return HarnessTasks(tuple(names), None if path is None else str(path), limit)
    for name, value in (("lm_eval_path", path), ("lm_eval_limit", limit)):
        if value is not None:
            raise HyperParameterError(f"{name}: also give lm_eval, the names of the tasks")
    return None
