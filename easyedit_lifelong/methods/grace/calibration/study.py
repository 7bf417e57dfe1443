"""The calibration of GRACE by subjects, from records to hyperparameters. Finished steps are saved and not repeated."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.evaluation.scorers import requests_and_scorer
from easyedit_lifelong.methods.calibrator import ShowStep, no_progress
from easyedit_lifelong.methods.grace.calibration.answer_layer_study import (
    Gate,
    GateScores,
    ScoredTrial,
    study_gates,
    try_edits,
)
from easyedit_lifelong.methods.grace.calibration.candidate_layers import (
    Layer,
    candidate_answer_layers,
    candidate_key_layers,
)
from easyedit_lifelong.methods.grace.calibration.choice import (
    best_gates,
    best_key_layer,
    best_trial,
    calibrated_values,
    choose_eps,
    choose_named_eps,
    with_values,
)
from easyedit_lifelong.methods.grace.calibration.key_layer_study import KeyLayerResult, study_key_layers
from easyedit_lifelong.methods.grace.calibration.layer_inputs import LayerInputs
from easyedit_lifelong.methods.grace.calibration.study_texts import StudyTexts
from easyedit_lifelong.methods.grace.calibration.usable_records import add_relation_probes, usable_records
from easyedit_lifelong.methods.grace.codebook.relation_metric import RelationMetric
from easyedit_lifelong.methods.grace.config import RELATIONS, GraceHyperParams
from easyedit_lifelong.methods.grace.subject.relation_prompts import relation_metrics
from easyedit_lifelong.methods.shared.second_moments import named_moments
from easyedit_lifelong.methods.shared.subject_keys.whitening import whitening_of
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.runner import Runner

DEFAULT_EDITS = 50
"""How many records are edited on trial by default."""

_TRIAL_SHARE = 0.9
"""Trial edits are made with the gate that this share of the paraphrases passes, then scored with several gates."""


@dataclass(frozen=True)
class Settings:
    """The settings of a calibration.

    Attributes:
        layers: candidates for the key layer; None for the default layers.
        answer_layers: candidates for the answer layer; None for the default layers.
        false_fire_rate: permitted share of unrelated prompts in which a key matches.
        generality: least generality with the chosen gate, as a share of the generality without a gate.
        edits: how many records are edited on trial.
        tries: at how many answer layers these records are edited.
    """

    layers: tuple[Layer, ...] | None
    answer_layers: tuple[Layer, ...] | None
    false_fire_rate: float
    generality: float = 0.9
    edits: int = DEFAULT_EDITS
    tries: int = 2


@dataclass
class Steps:
    """The results of a calibration's finished steps.

    Attributes:
        findings: how well paraphrases match at each key layer and distance; None until this step is finished.
        gates: how well each answer layer's gate separates questions; None until this step is finished.
        trials: the finished trials, one for each answer layer.
    """

    findings: list[KeyLayerResult] | None = None
    gates: list[Gate] | None = None
    trials: list[ScoredTrial] = field(default_factory=list)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Steps:
        """Build the steps from the values of ``dataclasses.asdict``, as read back from JSON."""
        steps = cls(trials=[ScoredTrial.from_dict(entry) for entry in values["trials"]])
        if values["findings"] is not None:
            steps.findings = [KeyLayerResult.from_dict(entry) for entry in values["findings"]]
        if values["gates"] is not None:
            steps.gates = [Gate.from_dict(entry) for entry in values["gates"]]
        return steps


@dataclass(frozen=True)
class Calibration:
    """The result of a calibration.

    Attributes:
        settings: its settings.
        steps: the results of all its steps.
        counts: the amount of data, by name. ``given``: all records. ``records``: the records that were used.
            ``paraphrases``: paraphrases that name their subject. ``locality``: different locality prompts. ``made``:
            records whose questions about another relation were made from other records' prompts.
        key_layer: the result of the chosen key layer and distance.
        eps: the chosen radius: a number, or ``auto``.
        trial: the trial at the chosen answer layer.
        gate_scores: the scores with the chosen gate.
        chosen: the values of the calibrated hyperparameters, by name.
        hparams: all hyperparameters, with the chosen values.
    """

    settings: Settings
    steps: Steps
    counts: dict[str, int]
    key_layer: KeyLayerResult
    eps: float | str
    trial: ScoredTrial
    gate_scores: GateScores
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
    """Choose those hyperparameters of GRACE by subjects that depend on the model.

    The steps are: collect second moments, study the key layers, study the gates of the answer layers, and edit at the
    answer layers whose gates separate best.

    Args:
        model: a causal language model without edits; it is unchanged afterwards.
        tokenizer: its tokenizer.
        requests: records held out for the calibration: scores on them mean nothing afterwards.
        hparams: hyperparameters of GRACE by subjects; values that are not calibrated stay as they are.
        settings: the settings of the calibration.
        steps: the finished steps of an earlier calibration with the same arguments. Only the others are run.
        save: called after every step with all finished steps.
        show: shows each step's progress.

    Raises:
        DataError: too few records are usable.
        ModelError: the model is no causal language model or has no such layers.
        CovarianceError: the second moments for whitening cannot be obtained.
        EditError: an edit failed.
    """
    steps = steps or Steps()
    key_layers = candidate_key_layers(model, settings.layers)
    answer_layers = candidate_answer_layers(model, settings.answer_layers, key_layers)
    requests, scorer = requests_and_scorer(model, tokenizer, requests, hparams)
    records, n_borrowed = add_relation_probes(usable_records(requests, scorer, model), hparams.seed)
    texts = StudyTexts.of(records, tokenizer, hparams)
    counts = {
        "given": len(requests),
        "records": len(records),
        "paraphrases": len(texts.paraphrases),
        "locality": len(texts.locality),
        "made": n_borrowed,
    }
    runner, rate = Runner(model, tokenizer), settings.false_fire_rate
    if steps.findings is None:
        bases = _whitening_matrices(model, tokenizer, key_layers, hparams, show)
        with show("finding subjects") as progress:
            inputs = LayerInputs(runner, {path: find_module(model, path)[1] for path in key_layers})
            steps.findings = study_key_layers(inputs, key_layers, texts, bases, tokenizer, hparams, rate, progress)
        save(steps)
    if steps.gates is None:
        modules = {path: find_module(model, path)[1] for path in answer_layers}
        metrics: dict[str, RelationMetric] = {}
        if hparams.gate_metric == RELATIONS:
            with show("comparing relations") as progress:
                metrics = relation_metrics(model, tokenizer, modules, hparams.stats_dir, progress)
        with show("comparing questions") as progress:
            inputs = LayerInputs(runner, modules, ends_only=True)
            steps.gates = study_gates(inputs, answer_layers, records, tokenizer, metrics, progress)
        save(steps)
    key_layer = best_key_layer(steps.findings, rate)
    eps = choose_eps(key_layer, rate, len(texts.locality))
    named_eps = None if hparams.named_eps is None else choose_named_eps(key_layer)
    edits = records[: settings.edits]
    board: Scoreboard | None = None  # it scores the base model, so make it only if there is something to score
    for gate in best_gates(steps.gates, settings.tries):
        if any(trial.layer == gate.layer for trial in steps.trials):
            continue
        trial_gate = gate.passing(_TRIAL_SHARE).radius
        trial_hparams = with_values(hparams, calibrated_values(key_layer, eps, rate, gate.layer, trial_gate, named_eps))
        with show(f"editing at {gate.layer}") as progress:
            board = board or Scoreboard(scorer, model, edits, [], generation_requests=[])
            radii = [opening.radius for opening in gate.openings]
            steps.trials.append(try_edits(model, tokenizer, edits, trial_hparams, radii, board, progress))
        save(steps)
    trial, gate_scores = best_trial(steps.trials, settings.generality)
    chosen = calibrated_values(key_layer, eps, rate, trial.layer, gate_scores.gate, named_eps)
    all_hparams = with_values(hparams, chosen)
    return Calibration(settings, steps, counts, key_layer, eps, trial, gate_scores, chosen, all_hparams)


def _whitening_matrices(
    model: Any, tokenizer: Any, layers: Sequence[str], hparams: GraceHyperParams, show: ShowStep
) -> dict[str, Tensor]:
    """Return every layer's whitening matrix, from second moments on disk or collected in one pass."""
    with show("second moments") as progress:
        moments = named_moments(model, tokenizer, layers, hparams, progress)
    return {path: whitening_of(second_moment.moment).cpu() for path, second_moment in moments.items()}
