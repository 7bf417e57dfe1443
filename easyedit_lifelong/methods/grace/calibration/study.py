"""A calibration from end to end: its steps in order; a step that is finished is kept and not repeated."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.evaluation.scorers import scorer_for
from easyedit_lifelong.methods.calibrator import ShowStep, no_progress
from easyedit_lifelong.methods.grace.calibration.answering import Gate, Opening, Point, Trial, study_gates, try_edits
from easyedit_lifelong.methods.grace.calibration.candidate_layers import Layer, answering_layers, finding_layers
from easyedit_lifelong.methods.grace.calibration.choice import (
    best_finding,
    best_gates,
    best_trial,
    eps_of,
    values_of,
    with_values,
)
from easyedit_lifelong.methods.grace.calibration.finding import Finding, Radius, StudyTexts, study_finding
from easyedit_lifelong.methods.grace.calibration.layer_inputs import LayerInputs
from easyedit_lifelong.methods.grace.calibration.usable_records import usable_records, with_other_relations
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.subject.whitening import whitening_of
from easyedit_lifelong.methods.shared.second_moments import named_moments
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.runner import Runner

TRIED_SHARE = 0.9
"""Edits are made behind the gate that lets this share of paraphrases through; then the gate is moved."""


@dataclass(frozen=True)
class Settings:
    """What a calibration looks for.

    Attributes:
        layers: where subjects may be found; None for the default layers.
        answer_layers: where edits may answer; None for the default layers.
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
        gates: how well the answering layers' gates separate questions; None before that is known.
        trials: the edits on trial, as far as they are finished.
    """

    findings: list[Finding] | None = None
    gates: list[Gate] | None = None
    trials: list[Trial] = field(default_factory=list)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Steps:
        """Return the steps whose fields ``dataclasses.asdict`` and JSON made these values of."""

        def all_of(kind: Any, several: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
            return tuple(kind(**one) for one in several)

        findings, gates = values["findings"], values["gates"]
        return cls(
            None
            if findings is None
            else [
                Finding(**{**one, "common": all_of(Radius, one["common"]), "auto": Radius(**one["auto"])})
                for one in findings
            ],
            None if gates is None else [Gate(**{**one, "openings": all_of(Opening, one["openings"])}) for one in gates],
            [Trial(**{**one, "points": all_of(Point, one["points"])}) for one in values["trials"]],
        )


@dataclass(frozen=True)
class Calibration:
    """What a calibration found and chose.

    Attributes:
        settings: what it looked for.
        steps: all that it found.
        counts: how much that rests on: records ``given`` and used (``records``), ``paraphrases`` that name their
            subject, different ``locality`` prompts, and records whose question about another relation is ``made``.
        finding: where subjects are found, and by which distance.
        eps: their radius.
        trial: where edits answer.
        point: behind which gate.
        chosen: the chosen hyperparameters, by name.
        hparams: all hyperparameters with the chosen values.
    """

    settings: Settings
    steps: Steps
    counts: dict[str, int]
    finding: Finding
    eps: float | str
    trial: Trial
    point: Point
    chosen: dict[str, Any]
    hparams: GraceHyperParams


def calibrate(
    model: Any,
    tokenizer: Any,
    requests: Sequence[EditRequest],
    hparams: GraceHyperParams,
    settings: Settings,
    *,
    steps: Steps | None = None,
    save: Callable[[Steps], object] = lambda steps: None,
    show: ShowStep = lambda name: contextlib.nullcontext(no_progress),
) -> Calibration:
    """Choose the hyperparameters of GRACE by subjects that depend on the model.

    Args:
        model: a causal language model without edits; it is unchanged afterwards.
        tokenizer: its tokenizer.
        requests: records that nothing else is judged by.
        hparams: of GRACE by subjects; values that are not chosen stay as they are.
        settings: what to look for.
        steps: the finished steps of an earlier calibration with the same arguments; the others are run.
        save: called with all finished steps after every step.
        show: shows each step's progress.

    Raises:
        DataError: there are too few usable records.
        ModelError: the model has no such layers.
        CovarianceError: the second moments to whiten with cannot be obtained.
        EditError: an edit failed.
    """
    steps = steps or Steps()
    finding = finding_layers(model, settings.layers)
    answering = answering_layers(model, settings.answer_layers, finding)
    scorer = scorer_for(model, tokenizer)
    records, made = with_other_relations(usable_records(requests, scorer, model), hparams.seed)
    texts = StudyTexts.of(records, tokenizer, hparams)
    counts = {
        "given": len(requests),
        "records": len(records),
        "paraphrases": len(texts.paraphrases),
        "locality": len(texts.locality),
        "made": made,
    }
    runner, rate = Runner(model, tokenizer), settings.false_fire_rate
    if steps.findings is None:
        bases = _bases(model, tokenizer, finding, hparams, show)
        with show("finding subjects") as progress:
            inputs = LayerInputs(runner, {path: find_module(model, path)[1] for path in finding})
            steps.findings = study_finding(inputs, finding, texts, bases, tokenizer, hparams, rate, progress)
        save(steps)
    if steps.gates is None:
        with show("comparing questions") as progress:
            inputs = LayerInputs(runner, {path: find_module(model, path)[1] for path in answering}, ends_only=True)
            steps.gates = study_gates(inputs, answering, records, tokenizer, progress)
        save(steps)
    found = best_finding(steps.findings, rate)
    eps = eps_of(found, rate, len(texts.locality))
    edits, board = records[: settings.edits], None
    for gate in best_gates(steps.gates, settings.tries):
        if any(trial.layer == gate.layer for trial in steps.trials):
            continue
        tried = with_values(hparams, values_of(found, eps, rate, gate.layer, gate.passing(TRIED_SHARE).radius))
        with show(f"editing at {gate.layer}") as progress:
            board = board or Scoreboard(scorer, model, edits, [], generation_requests=[])
            radii = [opening.radius for opening in gate.openings]
            steps.trials.append(try_edits(model, tokenizer, edits, tried, radii, board, progress))
        save(steps)
    trial, point = best_trial(steps.trials, settings.generality)
    chosen = values_of(found, eps, rate, trial.layer, point.gate)
    return Calibration(settings, steps, counts, found, eps, trial, point, chosen, with_values(hparams, chosen))


def _bases(
    model: Any, tokenizer: Any, layers: Sequence[str], hparams: GraceHyperParams, show: ShowStep
) -> dict[str, Tensor]:
    """Return every layer's whitening, from second moments on disk or collected in one pass."""
    with show("second moments") as progress:
        moments = named_moments(model, tokenizer, layers, hparams, progress)
    return {path: whitening_of(found.moment).cpu() for path, found in moments.items()}
