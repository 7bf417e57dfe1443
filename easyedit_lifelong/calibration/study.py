"""A calibration from end to end: its steps in order, each kept when it is done and not done again."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from easyedit_lifelong.calibration.candidates import Layer, answering_layers, finding_layers
from easyedit_lifelong.calibration.choice import (
    Choice,
    best_finding,
    best_gates,
    best_trial,
    eps_of,
    values_of,
    with_values,
)
from easyedit_lifelong.calibration.finding import Asked, Finding, study_finding
from easyedit_lifelong.calibration.gates import Gate, study_gates
from easyedit_lifelong.calibration.passes import Counting, Inputs
from easyedit_lifelong.calibration.records import usable_records, with_other_relations
from easyedit_lifelong.calibration.trials import Trial, try_edits
from easyedit_lifelong.covariance import obtain_moments
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.evaluation.scorers import scorer_for
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.subject.whitening import whitening_of
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.runner import Runner

Showing = Callable[[str], AbstractContextManager[Counting]]
"""Shows a step's progress while it goes on inside."""

EDITED_BEHIND = 0.9
"""Edits are made behind the gate that lets this share of paraphrases through; then it is moved."""


@dataclass(frozen=True)
class Settings:
    """What a calibration is asked to look for.

    Attributes:
        layers: where subjects may be found; None for the usual ones.
        answer_layers: where edits may answer; None for the usual ones.
        false_fire_rate: share of unrelated prompts in which a key may be found.
        generality: share of the generality without a gate that the gate has to leave.
        edits: how many records are edited.
        tries: at how many answering layers.
    """

    layers: tuple[Layer, ...] | None
    answer_layers: tuple[Layer, ...] | None
    false_fire_rate: float
    generality: float = 0.9
    edits: int = 50
    tries: int = 2


@dataclass
class Steps:
    """What a calibration has found so far.

    Attributes:
        findings: where subjects are found; None before that is known.
        gates: what the answering layers' gates can tell apart; None before that is known.
        trials: the edits on trial, as far as they are done.
    """

    findings: list[Finding] | None = None
    gates: list[Gate] | None = None
    trials: list[Trial] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return it, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Steps:
        """Return what :meth:`to_dict` made a dictionary of."""
        findings, gates = values["findings"], values["gates"]
        return cls(
            None if findings is None else [Finding.from_dict(one) for one in findings],
            None if gates is None else [Gate.from_dict(one) for one in gates],
            [Trial.from_dict(one) for one in values["trials"]],
        )


@dataclass(frozen=True)
class Counts:
    """How much a calibration rests on.

    Attributes:
        given: records in the data.
        records: those that could be used.
        paraphrases: of theirs that name their subject.
        locality: different locality prompts.
        made: records whose question about another relation was made up.
    """

    given: int
    records: int
    paraphrases: int
    locality: int
    made: int


@dataclass(frozen=True)
class Calibration:
    """What was seen, and what is picked.

    Attributes:
        steps: all that was seen.
        counts: how much that rests on.
        choice: what is picked.
        hparams: the hyperparameters with it.
    """

    steps: Steps
    counts: Counts
    choice: Choice
    hparams: GraceHyperParams


def calibrate(
    model: Any, tokenizer: Any, requests: Sequence[EditRequest], hparams: GraceHyperParams, settings: Settings, *,
    steps: Steps | None = None, keep: Callable[[Steps], None] | None = None, showing: Showing | None = None,
) -> Calibration:  # fmt: skip
    """Pick what GRACE by subjects needs, on records that nothing else is to be judged by.

    Args:
        model: a causal language model without edits; it is the same after.
        tokenizer: its tokenizer.
        requests: the records.
        hparams: of GRACE by subjects; what isn't picked stays as it is.
        settings: what to look for.
        steps: what an earlier calibration of the very same kind has found; the rest is done.
        keep: is given what has been found after every step.
        showing: shows each step's progress.

    Raises:
        DataError: there are too few usable records.
        ModelError: the model has no such layers.
        CovarianceError: the second moments to whiten with can't be had.
        EditError: an edit failed.
    """
    steps, keep, showing = steps or Steps(), keep or _forget, showing or _silent
    finding = finding_layers(model, settings.layers)
    answering = answering_layers(model, settings.answer_layers, finding)
    scorer = scorer_for(model, tokenizer)
    records, made = with_other_relations(usable_records(requests, scorer, model), hparams.seed)
    asked = Asked.of(records, tokenizer, hparams)
    counts = Counts(len(requests), len(records), len(asked.paraphrases), len(asked.locality), made)
    runner, rate = Runner(model, tokenizer), settings.false_fire_rate
    if steps.findings is None:
        bases = _bases(model, tokenizer, finding, hparams, showing)
        with showing("finding subjects") as progress:
            inputs = Inputs(runner, {path: find_module(model, path)[1] for path in finding})
            steps.findings = study_finding(inputs, finding, asked, bases, tokenizer, hparams, rate, progress)
        keep(steps)
    if steps.gates is None:
        with showing("comparing questions") as progress:
            inputs = Inputs(runner, {path: find_module(model, path)[1] for path in answering}, ends_only=True)
            steps.gates = study_gates(inputs, answering, records, tokenizer, progress)
        keep(steps)
    found = best_finding(steps.findings, rate)
    eps = eps_of(found, rate, len(asked.locality))
    edits, board = records[: settings.edits], None
    for gate in best_gates(steps.gates, settings.tries):
        if any(trial.layer == gate.layer for trial in steps.trials):
            continue
        answers = {"answer_layer": gate.layer, "gate_eps": gate.letting(EDITED_BEHIND).radius}
        tried = with_values(hparams, {**values_of(found, eps, rate), **answers})
        with showing(f"editing at {gate.layer}") as progress:
            board = board or Scoreboard(scorer, model, edits, [], listen_to=[])
            radii = [opening.radius for opening in gate.openings]
            steps.trials.append(try_edits(model, tokenizer, edits, tried, radii, board, progress))
        keep(steps)
    choice = Choice(found, eps, *best_trial(steps.trials, settings.generality))
    return Calibration(steps, counts, choice, with_values(hparams, choice.values(rate)))


def _bases(
    model: Any, tokenizer: Any, layers: Sequence[str], hparams: GraceHyperParams, showing: Showing
) -> dict[str, Tensor]:
    """Return every layer's whitening, from second moments on disk or collected in one pass."""
    with showing("second moments") as progress:
        moments = obtain_moments(
            model, tokenizer, layers, stats_dir=hparams.stats_dir, dataset=hparams.mom2_dataset,
            n_samples=hparams.mom2_n_samples, n_tokens=hparams.mom2_n_tokens, dtype=hparams.mom2_dtype,
            engine=hparams.mom2_engine, seed=hparams.seed, progress=progress,
        )  # fmt: skip
    return {path: whitening_of(found.moment).cpu() for path, found in moments.items()}


def _forget(_: Steps) -> None:
    """Keep nothing."""


@contextlib.contextmanager
def _silent(_: str) -> Any:
    yield lambda done, total: None
