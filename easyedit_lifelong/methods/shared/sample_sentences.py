"""Sentences that are not about an edit, on which methods measure how often an edit answers by mistake."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from easyedit_lifelong.data import samples

_TEXTS = ("prompt", "src", "rephrase_prompt", "rephrase", "locality_prompt", "loc", "relation_specificity_prompt")
"""The fields of the sample facts that hold sentences."""


@dataclass(frozen=True)
class Sentences:
    """Sentences that are not about an edit.

    Attributes:
        texts: the sentences.
        subjects: pairs of a subject and a sentence about it.
    """

    texts: list[str]
    subjects: list[tuple[str, str]]


def sample_sentences() -> Sentences:
    """Return the sentences and subjects of the sample facts."""
    texts, subjects = [probe.prompt for probe in samples.retention_probes()], []
    for path in (samples.COUNTERFACT, samples.ZSRE):
        for record in json.loads(path.read_text(encoding="utf-8")):
            texts += [record[name] for name in _TEXTS if name in record]
            subjects.append((record["subject"], record.get("prompt") or record["src"]))
    return Sentences(list(dict.fromkeys(texts)), subjects)


def threshold_at_rate(cosines: Tensor, texts: Sequence[str], subjects: Sequence[str], rate: float) -> float:
    """Return the smallest threshold at which at most a share ``rate`` of sentences fires.

    A sentence fires if its cosine with the key of a subject that it does not name is above the threshold.

    Args:
        cosines: the cosine of each sentence with each key, shape ``(sentences, keys)``.
        texts: the sentences.
        subjects: the subject of each key.
        rate: the share, at least 0 and below 1.
    """
    named = [[subject.lower() in text.lower() for subject in subjects] for text in texts]
    highest = cosines.masked_fill(torch.tensor(named, device=cosines.device), -1.0).amax(dim=1)
    return float(highest.sort(descending=True).values[int(rate * len(highest))])
