"""Where edits answer: what the later layers' gates separate, and edits on trial behind these gates.

A gate compares, by cosine, the answering layer's input at a prompt's last token with its input at the last token of
the edit's own prompt. Of the questions about the same subject, it has to let those through that ask about the same
relation. Forward passes show how well each layer's gate can do this; edits show what a gate costs in generality, and
how many other facts about an edit's subject it spares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.methods.calibrator import Progress, no_progress
from easyedit_lifelong.methods.grace.calibration.layer_inputs import LayerInputs
from easyedit_lifelong.methods.grace.codebook.distance import COS, prepared
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.editor import GraceEditor

SHARES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
"""Shares of paraphrases that a gate is set to let through."""

_Questions = list[tuple[int, list[int]]]
"""Each question's record, by number, and its token ids."""


@dataclass(frozen=True)
class Opening:
    """What a gate of some radius lets through.

    Attributes:
        radius: the radius, a cosine distance.
        paraphrases: share of paraphrases within it.
        others: share of questions about the same subject, and another relation, within it.
    """

    radius: float
    paraphrases: float
    others: float


@dataclass(frozen=True)
class Gate:
    """How well a layer's gate separates paraphrases from other questions.

    Attributes:
        layer: its path.
        auc: how often a paraphrase is nearer to its prompt than another question is (0.5: chance, 1: always).
        openings: at several radii, the narrowest first.
    """

    layer: str
    auc: float
    openings: tuple[Opening, ...]

    def passing(self, share: float) -> Opening:
        """Return the narrowest opening that lets a share of the paraphrases through, or the widest opening."""
        return next((one for one in self.openings if one.paraphrases >= share), self.openings[-1])


def study_gates(
    inputs: LayerInputs,
    layers: Sequence[str],
    requests: Sequence[EditRequest],
    tokenizer: Any,
    progress: Progress = no_progress,
) -> list[Gate]:
    """Return how well each layer's gate separates paraphrases from other questions.

    Args:
        inputs: of the layers, each row's last token.
        layers: their paths.
        requests: records with paraphrases and other questions about their subjects.
        tokenizer: the model's.
        progress: called as rows are read.
    """

    def encoded(texts_of: Callable[[EditRequest], Iterable[str]]) -> _Questions:
        return [(n, list(tokenizer(text)["input_ids"])) for n, one in enumerate(requests) for text in texts_of(one)]

    prompts = encoded(lambda request: [request.prompt])
    paraphrases = encoded(lambda request: request.rephrase_prompts)
    others = encoded(lambda request: [probe.prompt for probe in request.relation_specificity])
    inputs.read([row for _, row in [*prompts, *paraphrases, *others]], progress)
    return [_gate(inputs, path, prompts, paraphrases, others) for path in layers]


def _gate(inputs: LayerInputs, path: str, prompts: _Questions, paraphrases: _Questions, others: _Questions) -> Gate:
    def ends(questions: _Questions) -> Tensor:
        rows = [row for _, row in questions]
        return prepared(torch.stack([part[-1] for part in inputs.at(path, rows)]), COS)

    own = ends(prompts)
    near, far = (
        1 - (ends(questions) * own[[n for n, _ in questions]]).sum(dim=1) for questions in (paraphrases, others)
    )
    radii = dict.fromkeys(_rounded_up(float(torch.quantile(near, share, interpolation="higher"))) for share in SHARES)
    openings = tuple(Opening(radius, *(float((d <= radius).float().mean()) for d in (near, far))) for radius in radii)
    return Gate(path, auc(near, far), openings)


def auc(near: Tensor, far: Tensor) -> float:
    """Return how often one of ``near`` is less than one of ``far``; a tie counts as half."""
    less = (near.unsqueeze(1) < far).double().mean()
    return float(less + (near.unsqueeze(1) == far).double().mean() / 2)


def _rounded_up(radius: float) -> float:
    """Return a radius with two decimal places, as files have it; at least the smallest such number."""
    return max(math.ceil(radius * 100), 1) / 100


SCORES = ("reliability", "generality", "locality", "relation_specificity")


@dataclass(frozen=True)
class Point:
    """The scores of edits behind a gate, teacher-forced.

    Attributes:
        gate: the gate's radius; None for no gate.
        reliability: of the edits' own prompts.
        generality: of their paraphrases.
        locality: share of unchanged tokens, in facts about other subjects.
        relation_specificity: share of unchanged tokens, in other facts about the same subjects.
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
class Trial:
    """Edits that answer at a layer, behind gates of several radii.

    Attributes:
        layer: its path.
        n_edits: how many edits were made, in one codebook.
        n_keys: how many keys the codebook holds then.
        points: scores at each gate, the narrowest first, no gate last.
    """

    layer: str
    n_edits: int
    n_keys: int
    points: tuple[Point, ...]


def try_edits(
    model: Any,
    tokenizer: Any,
    requests: Sequence[EditRequest],
    hparams: GraceHyperParams,
    gates: Sequence[float],
    board: Scoreboard,
    progress: Progress = no_progress,
) -> Trial:
    """Make edits, score them behind each gate, and take them back.

    Args:
        model: an unedited model, which it is again afterwards.
        tokenizer: its tokenizer.
        requests: the edits.
        hparams: GRACE's hyperparameters, with an ``answer_layer`` and any ``gate_eps``.
        gates: radii to score at.
        board: knows the unedited model's answers.
        progress: called after each batch of edits and each scoring.

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
        keys = len(codebook)
        for number, gate in enumerate([*sorted(gates), None], 1):
            codebook.gate_eps = gate
            scores = board.score(model, requests).values
            points.append(Point(gate, *(scores[name] for name in SCORES)))
            progress(len(requests) + number, total)
    finally:
        editor.take_back(list(editor.records))
    return Trial(hparams.answer_layer, len(requests), keys, tuple(points))
