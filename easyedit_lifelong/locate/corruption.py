"""Corruptions of a subject's embeddings: Gaussian noise, or the embeddings of other subjects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from easyedit_lifelong.errors import DataError
from easyedit_lifelong.locate.known_facts import EncodedFact
from easyedit_lifelong.models.precision import at_least_float32
from easyedit_lifelong.plurals import counted


class Corruption(Protocol):
    """Returns corrupted embeddings of a subject."""

    def __call__(self, fact: EncodedFact, embeddings: Tensor) -> Tensor:
        """Return corrupted embeddings.

        Args:
            fact: the fact.
            embeddings: embeddings of the subject's tokens, shape ``(subject tokens, width)``.

        Returns:
            Shape ``(samples, subject tokens, width)``.

        Raises:
            DataError: this fact's subject can't be corrupted.
        """


@dataclass(frozen=True)
class GaussianNoise:
    """Adds Gaussian noise to the embeddings (Meng et al. 2022, section 2.1: h*ᵢ⁽⁰⁾ = hᵢ⁽⁰⁾ + ε).

    Every fact gets the first values of the same pseudorandom sequence, which is that of ROME's code at seed 1. So the
    scores of a fact do not depend on other facts, on the device or on the version of torch.

    Attributes:
        level: standard deviation of the noise.
        samples: number of corrupted runs.
        seed: seed of the noise.
    """

    level: float
    samples: int = 10
    seed: int = 1

    def __call__(self, fact: EncodedFact, embeddings: Tensor) -> Tensor:
        """Return the embeddings with noise; see :class:`Corruption`."""
        noise = np.random.RandomState(self.seed).randn(self.samples, *embeddings.shape)
        return embeddings + self.level * torch.from_numpy(noise).to(embeddings)


class OtherSubjects:
    """Replaces the embeddings by those of other subjects with as many tokens.

    Args:
        facts: the facts whose subjects replace others.
        embed: the model's input embeddings.
        samples: largest number of corrupted runs; the first subjects that fit are taken.
    """

    def __init__(self, facts: Iterable[EncodedFact], embed: torch.nn.Module, samples: int = 10) -> None:
        self._embed, self._samples = embed, samples
        self._by_length: dict[int, list[list[int]]] = {}
        for fact in facts:
            same_length = self._by_length.setdefault(len(fact.subject_ids), [])
            if fact.subject_ids not in same_length:
                same_length.append(fact.subject_ids)

    def __call__(self, fact: EncodedFact, embeddings: Tensor) -> Tensor:
        """Return the embeddings of other subjects; see :class:`Corruption`."""
        same_length = self._by_length.get(len(embeddings), [])
        others = [ids for ids in same_length if ids != fact.subject_ids][: self._samples]
        if not others:
            raise DataError(f"{fact.fact.where}: no other subject of the data has {counted(len(embeddings), 'token')}")
        return self._embed(torch.tensor(others, device=embeddings.device)).to(embeddings)


@torch.no_grad()
def subject_embedding_deviation(tokenizer: Any, embed: torch.nn.Module, subjects: Sequence[str]) -> float:
    """Return the standard deviation of all values of the embeddings of subjects' tokens.

    ROME's noise has three times this standard deviation. Subjects are encoded by themselves, as in ROME's code, but
    without special tokens.

    Raises:
        DataError: the subjects have no tokens.
    """
    ids = [token for subject in subjects for token in tokenizer(subject, add_special_tokens=False)["input_ids"]]
    if not ids:
        raise DataError("the subjects have no tokens, so the noise has no standard deviation")
    device = next(embed.parameters()).device
    values = embed(torch.tensor(ids, device=device))
    return float(at_least_float32(values).std())
