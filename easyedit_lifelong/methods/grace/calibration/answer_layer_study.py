"""The study of answer layers and relation gates: how well each layer's gate separates questions, and trial edits.

A relation gate compares the answer layer's input at a prompt's last token with its input at the last token of the
edit's own prompt. Of the questions about the edited subject, those that ask about the same relation should pass the
gate, and no others. Forward passes show how well each layer's gate can separate them. Trial edits show what a gate
costs in generality, and how many other facts about the subjects it protects.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.methods.calibrator import Progress, no_progress
from easyedit_lifelong.methods.grace.calibration.layer_inputs import LayerInputs
from easyedit_lifelong.methods.grace.codebook.relation_metric import RelationMetric
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.methods.shared.subject_keys.distance import COS, normalized
from easyedit_lifelong.models.encoding import encode_text

SHARES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
"""Gates are studied at the radii at which these shares of the paraphrases pass."""


@dataclass(frozen=True)
class _Questions:
    """Encoded questions about the subjects of records.

    Attributes:
        rows: the token ids of each question.
        records: the index of each question's record.
    """

    rows: list[list[int]]
    records: list[int]

    @classmethod
    def of(cls, texts_by_record: Iterable[Iterable[str]], tokenizer: Any) -> _Questions:
        """Encode the questions about each record."""
        questions = cls([], [])
        for record, texts in enumerate(texts_by_record):
            for text in texts:
                questions.rows.append(encode_text(tokenizer, text))
                questions.records.append(record)
        return questions


@dataclass(frozen=True)
class Opening:
    """How many questions pass a gate of one radius.

    Attributes:
        radius: the gate's radius, a cosine distance.
        paraphrases: share of the paraphrases that pass.
        others: share of the questions about another relation of the same subject that pass; lower is better.
    """

    radius: float
    paraphrases: float
    others: float


@dataclass(frozen=True)
class Gate:
    """How well a layer's gate separates paraphrases from questions about another relation.

    Attributes:
        layer: the layer's path.
        auc: area under the ROC curve: how often a paraphrase is nearer to its prompt than a question about another
            relation is (0.5: chance, 1: always).
        openings: what passes at several radii, ascending.
    """

    layer: str
    auc: float
    openings: tuple[Opening, ...]

    def passing(self, share: float) -> Opening:
        """Return the narrowest opening at which this share of the paraphrases passes; the widest if there is none."""
        return next((opening for opening in self.openings if opening.paraphrases >= share), self.openings[-1])

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Gate:
        """Build a gate from the values of ``dataclasses.asdict``, as read back from JSON."""
        return cls(**{**values, "openings": tuple(Opening(**entry) for entry in values["openings"])})


def study_gates(
    inputs: LayerInputs,
    layers: Sequence[str],
    requests: Sequence[EditRequest],
    tokenizer: Any,
    metrics: Mapping[str, RelationMetric],
    progress: Progress = no_progress,
) -> list[Gate]:
    """Return how well each layer's gate separates paraphrases from questions about another relation.

    Args:
        inputs: the layers' inputs, at least at each row's last token.
        layers: the layers' paths.
        requests: records with paraphrases and with questions about another relation of their subjects.
        tokenizer: the model's.
        metrics: the layers' relation metrics, by path; empty for cosine distance of activations.
        progress: called with the number of rows read so far, and the total.
    """
    prompts = _Questions.of(([request.prompt] for request in requests), tokenizer)
    paraphrases = _Questions.of((request.rephrase_prompts for request in requests), tokenizer)
    probes = ((probe.prompt for probe in request.relation_specificity) for request in requests)
    others = _Questions.of(probes, tokenizer)
    inputs.read([*prompts.rows, *paraphrases.rows, *others.rows], progress)
    return [_study_gate(inputs, path, prompts, paraphrases, others, metrics.get(path)) for path in layers]


def _study_gate(
    inputs: LayerInputs,
    path: str,
    prompts: _Questions,
    paraphrases: _Questions,
    others: _Questions,
    metric: RelationMetric | None,
) -> Gate:
    """Return how well the gate of one layer separates paraphrases from other questions."""
    gates = _last_inputs(inputs, path, prompts.rows, metric)
    near = _cosine_distances(_last_inputs(inputs, path, paraphrases.rows, metric), gates[paraphrases.records])
    far = _cosine_distances(_last_inputs(inputs, path, others.rows, metric), gates[others.records])
    radii = dict.fromkeys(_round_up(float(torch.quantile(near, share, interpolation="higher"))) for share in SHARES)
    openings = tuple(Opening(radius, _share_within(radius, near), _share_within(radius, far)) for radius in radii)
    return Gate(path, auc(near, far), openings)


def _last_inputs(inputs: LayerInputs, path: str, rows: Sequence[list[int]], metric: RelationMetric | None) -> Tensor:
    """Return a layer's input at the last token of each row, as a unit vector of the gate's metric, ``(rows, size)``."""
    activations = torch.stack([vectors[-1] for vectors in inputs.at(path, rows)])
    return normalized(activations if metric is None else metric.project(activations), COS)


def _cosine_distances(vectors: Tensor, others: Tensor) -> Tensor:
    """Return the cosine distance of each vector of unit length to the other at the same index, ``(n,)``."""
    return 1 - (vectors * others).sum(dim=1)


def _share_within(radius: float, distances: Tensor) -> float:
    """Return the share of distances that are at most a radius."""
    return float((distances <= radius).float().mean())


def auc(near: Tensor, far: Tensor) -> float:
    """Return the area under the ROC curve of two sets of distances.

    This is the share of pairs in which a distance of ``near`` is less than one of ``far``; a tie counts as half.

    Args:
        near: distances that should be small, ``(n,)``.
        far: distances that should be large, ``(m,)``.
    """
    less = (near.unsqueeze(1) < far).double().mean()
    return float(less + (near.unsqueeze(1) == far).double().mean() / 2)


def _round_up(radius: float) -> float:
    """Round a radius up to two decimal places, as it is written to files; return at least 0.01."""
    return max(math.ceil(radius * 100), 1) / 100


SCORES = ("reliability", "generality", "locality", "relation_specificity")
"""The scores by which trial edits are compared, by metric name."""


@dataclass(frozen=True)
class GateScores:
    """The teacher-forced scores of trial edits with a gate of one radius. All are shares; higher is better.

    Attributes:
        gate: the gate's radius; None for no gate.
        reliability: share of target tokens predicted after the edits' own prompts.
        generality: share of target tokens predicted after their paraphrases.
        locality: share of unchanged tokens after prompts about other subjects.
        relation_specificity: share of unchanged tokens after questions about another relation of the same subjects.
    """

    gate: float | None
    reliability: float
    generality: float
    locality: float
    relation_specificity: float

    @property
    def scores(self) -> list[float]:
        """The scores, in the order of :data:`SCORES`."""
        return [getattr(self, name) for name in SCORES]


@dataclass(frozen=True)
class ScoredTrial:
    """Trial edits that answer at one layer, scored with gates of several radii.

    Attributes:
        layer: the answer layer's path.
        n_edits: how many edits were made, all in one codebook.
        n_keys: how many keys the codebook had after them.
        points: the scores at each gate, by ascending radius; the last is without a gate.
    """

    layer: str
    n_edits: int
    n_keys: int
    points: tuple[GateScores, ...]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ScoredTrial:
        """Build a trial from the values of ``dataclasses.asdict``, as read back from JSON."""
        return cls(**{**values, "points": tuple(GateScores(**entry) for entry in values["points"])})


def try_edits(
    model: Any,
    tokenizer: Any,
    requests: Sequence[EditRequest],
    hparams: GraceHyperParams,
    gates: Sequence[float],
    board: Scoreboard,
    progress: Progress = no_progress,
) -> ScoredTrial:
    """Make edits, score them with each gate, and roll them back.

    Args:
        model: the base model; it is unchanged afterwards.
        tokenizer: its tokenizer.
        requests: the edits.
        hparams: GRACE's hyperparameters, with an ``answer_layer`` and any ``gate_eps``.
        gates: the gate radii to score at.
        board: scores the edits; it holds the base model's answers.
        progress: called after each batch of edits and after each scoring.

    Raises:
        DataError: a record cannot be used.
        EditError: an edit failed.
    """
    editor = GraceEditor.on(model, tokenizer, hparams)
    size, total = hparams.train_batch, len(requests) + len(gates) + 1
    points = []
    try:
        for start in range(0, len(requests), size):
            editor.edit(requests[start : start + size])
            progress(min(start + size, len(requests)), total)
        codebook = editor.codebook
        assert codebook is not None and hparams.answer_layer is not None
        n_keys = len(codebook)
        for number, gate in enumerate([*sorted(gates), None], 1):
            codebook.gate_eps = gate
            scores = board.score(model, requests).values
            points.append(GateScores(gate, *(scores[name] for name in SCORES)))
            progress(len(requests) + number, total)
    finally:
        editor.remove_records(list(editor.records))
    return ScoredTrial(hparams.answer_layer, len(requests), n_keys, tuple(points))
