"""Edits on trial: what a gate costs in generality, and how many other facts about an edit's subject it spares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.methods.calibrator import Progress, no_progress
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.editor import GraceEditor

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
