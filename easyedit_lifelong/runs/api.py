"""The two loops as functions: :func:`run_lifelong` and :func:`run_consecutive`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from easyedit_lifelong.data.request import Probe, as_requests
from easyedit_lifelong.runs.execute import run_experiment
from easyedit_lifelong.runs.experiment import CONSECUTIVE, LIFELONG, PROTOCOLS, Experiment, Inputs, Source
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
    retention: Sequence[Probe] | None = None,
    trackers: Sequence[str] = (),
    progress: Progress | None = None,
    data_name: str = "",
    task: str | None = None,
    text: str | None = None,
    source: Source | None = None,
) -> RunResult:
    """Edit a model with a stream of requests, one at a time, and keep score.

    Each edit is scored at once (ES). When the schedule says so, and at the end, all edits so far are
    scored again (ERR, generality), with their locality prompts against the unedited model and the
    held-out facts (TRR). "Before" scores are taken before any edit. An edit that fails by itself (its
    loss turns NaN, say) is recorded, counts in the scores as what the model still says, and the run
    goes on.

    A line of the journal is written once its edit is on disk (for a method that can save its edits), so a run
    that was killed at any moment can be resumed, and ends as if it had not been.

    Args:
        model: the model, unedited (also when a run is resumed); it is edited in place.
        tokenizer: its tokenizer.
        requests: in EasyEdit's request fields, or :class:`EditRequest` objects.
        hparams: hyperparameters of a registered method.
        eval_every: number of edits between scorings of all past edits; 1 for after each (default 50, or none if
            ``eval_at`` is given).
        eval_at: numbers of edits after which to score, such as (1, 10, 100, 1000).
        eval_sample: score a random sample of this many past edits where there are more, drawn with the
            hyperparameters' seed.
        out: folder for the run's files.
        resume: continue the interrupted run in ``out``.
        only_errors: leave out requests whose answer the model, as edited so far, already gives.
        retention: held-out facts; the default is the sample data's.
        trackers: names of registered trackers to report to.
        progress: called as the run proceeds.
        data_name: what to call the data in the results.
        task: what the data ask of the model: ``qa`` (the default), ``generation``, or ``classification`` (a
            classifier's).
        text: a held-out text whose perplexity is measured before and after.
        source: where the data came from, for ``config.yaml``; data without one are written into ``out``.

    Raises:
        DataError: a request can't be used. All are checked before the first edit.
        HyperParameterError: the hyperparameters belong to no registered method, or a number makes no sense.
        ModelError: the method can't edit this model with them.
        RunError: ``out`` holds another run, the run in it can't be resumed, or trackers are given without it.
    """
    experiment = Experiment(
        LIFELONG,
        hparams,
        Inputs(as_requests(requests), retention, text, data_name, source=source),
        task=task,
        only_errors=only_errors,
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
    resume: bool = False,
    skip_unusable: bool = False,
    source: Source | None = None,
) -> RunResult:
    """Edit a model with batches of requests, and keep score (CoachHook, section 5).

    Two protocols. *Consecutive*: each batch is added to those before it; when the schedule says so, and at the end,
    all edits so far are scored. *Single-round*: each batch is edited, scored and rolled back, and the
    scores are averages over all requests, each under its own batch's edit. Either way, "before" scores
    and the answers that locality is measured against are the unedited model's. A batch that fails is
    recorded, counts in every score as what the model then says, and the run goes on.

    A line of the journal is written once its batch is edited and, in a consecutive run of a method that
    can save its edits, once they are on disk; so a run that was killed can be resumed after that batch.

    Args:
        model: the model, unedited (also when a run is resumed); it is edited in place.
        tokenizer: its tokenizer.
        requests: in EasyEdit's request fields, or :class:`EditRequest` objects.
        hparams: hyperparameters of a registered method, or of a method of EasyEdit's own that rewrites weights.
        batch_size: requests per batch; the default is ``hparams.batch_size``.
        consecutive: which protocol.
        eval_every: number of *batches* between scorings (default 20, or none if ``eval_at`` is given).
        eval_at: numbers of *edits*: a batch that brings the run there is followed by a scoring.
        eval_sample: score a random sample of this many past edits where there are more, drawn with the
            hyperparameters' seed.
        out: folder for the run's files.
        retention: held-out facts; the default is the sample data's.
        trackers: names of registered trackers to report to.
        progress: called as the run proceeds.
        data_name: what to call the data in the results.
        task: what the data ask of the model: ``qa`` (the default), ``generation``, or ``classification`` (a
            classifier's).
        text: a held-out text whose perplexity is measured before and after.
        resume: continue the interrupted run in ``out``, after the last batch in its journal.
        skip_unusable: leave out requests that can't be used, and list them in the summary.
        source: where the data came from, for ``config.yaml``; data without one are written into ``out``.

    Raises:
        DataError: a request can't be used. All are checked before the first edit.
        HyperParameterError: the hyperparameters belong to no method, or a number makes no sense.
        ModelError: the method can't edit this model with them.
        RunError: ``out`` holds another run; the run in it can't be resumed; or trackers are given without it.
    """
    experiment = Experiment(
        CONSECUTIVE,
        hparams,
        Inputs(as_requests(requests), retention, text, data_name, source=source),
        task=task,
        skip_unusable=skip_unusable,
        batch_size=batch_size,
        protocol=PROTOCOLS[0 if consecutive else 1],
        schedule=Schedule.of(eval_every, eval_at, eval_sample),
        trackers=trackers,
    )
    return run_experiment(experiment, model, tokenizer, out, resume=resume, progress=progress)
