"""Where edits answer: at which later layer a paraphrase's last token is nearer to its prompt's than another question's.

Forward passes only. The gate compares, by cosine, what the answering layer sees at a prompt's last token with what it
saw at the edit's own; of questions about the same subject it has to let those through that ask the same thing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.calibration.passes import Counting, Inputs
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.methods.grace.codebook.distance import COS, prepared

SHARES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
"""Shares of paraphrases that a gate is set to let through."""


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
    """What a layer's gate can tell apart.

    Attributes:
        layer: its path.
        auc: how often a paraphrase is nearer to its prompt than another question is (0.5: chance, 1: always).
        openings: at several radii, the narrowest first.
    """

    layer: str
    auc: float
    openings: tuple[Opening, ...]

    def letting(self, share: float) -> Opening:
        """Return the narrowest gate of those looked at that lets a share of the paraphrases through, or the widest."""
        return next((one for one in self.openings if one.paraphrases >= share), self.openings[-1])

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Gate:
        """Return what ``dataclasses.asdict`` made a dictionary of."""
        return cls(**{**values, "openings": tuple(Opening(**opening) for opening in values["openings"])})


def study_gates(
    inputs: Inputs, layers: Sequence[str], requests: Sequence[EditRequest], tokenizer: Any,
    progress: Counting | None = None,
) -> list[Gate]:  # fmt: skip
    """Return what each layer's gate can tell apart.

    Args:
        inputs: of the layers, each row's last token.
        layers: their paths.
        requests: records with paraphrases and other questions about their subjects.
        tokenizer: the model's.
        progress: hears of the rows read.
    """
    prompts = [_ids(tokenizer, request.prompt) for request in requests]
    same = [(n, _ids(tokenizer, text)) for n, request in enumerate(requests) for text in request.rephrase_prompts]
    other = [
        (n, _ids(tokenizer, probe.prompt))
        for n, request in enumerate(requests)
        for probe in request.relation_specificity
    ]
    inputs.read([*prompts, *(row for _, row in same), *(row for _, row in other)], progress)
    return [_gate(inputs, path, prompts, same, other) for path in layers]


def _gate(
    inputs: Inputs, path: str, prompts: Sequence[list[int]], same: Sequence[tuple[int, list[int]]],
    other: Sequence[tuple[int, list[int]]],
) -> Gate:  # fmt: skip
    def ends(rows: Sequence[list[int]]) -> Tensor:
        return prepared(torch.stack([part[-1] for part in inputs.at(path, rows)]), COS)

    own = ends(prompts)

    def distances(asked: Sequence[tuple[int, list[int]]]) -> Tensor:
        return 1 - (ends([row for _, row in asked]) * own[[n for n, _ in asked]]).sum(dim=1)

    near, far = distances(same), distances(other)
    radii = dict.fromkeys(_rounded_up(float(torch.quantile(near, share, interpolation="higher"))) for share in SHARES)
    openings = tuple(Opening(radius, _within(near, radius), _within(far, radius)) for radius in radii)
    return Gate(path, auc(near, far), openings)


def auc(near: Tensor, far: Tensor) -> float:
    """Return how often one of ``near`` is less than one of ``far``; a tie counts as half."""
    less = (near.unsqueeze(1) < far).double().mean()
    return float(less + (near.unsqueeze(1) == far).double().mean() / 2)


def _within(distances: Tensor, radius: float) -> float:
    return float((distances <= radius).float().mean())


def _rounded_up(radius: float) -> float:
    """Return a radius with two digits behind the point, as files have it; at least the smallest such number."""
    return max(math.ceil(radius * 100), 1) / 100


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text)["input_ids"])
