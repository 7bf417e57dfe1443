"""Sentences that are not about an edit, on which methods measure how often an edit answers by mistake."""

from __future__ import annotations

import json
from dataclasses import dataclass

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
