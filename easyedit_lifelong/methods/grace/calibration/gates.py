"""Where edits answer: the later layer whose gate separates paraphrases from other questions best.

Forward passes only. The gate compares, by cosine, the answering layer's input at a prompt's last token with its input
at the last token of the edit's own prompt. Of the questions about the same subject, it has to let those through that
ask about the same relation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.methods.calibrator import Progress, no_progress
from easyedit_lifelong.methods.grace.calibration.layer_inputs import LayerInputs
from easyedit_lifelong.methods.grace.codebook.distance import COS, prepared

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
