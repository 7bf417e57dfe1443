"""``eps: auto``: a key's deferral radius, from the texts around it.

What a radius has to keep out is known in advance: the tokens of sentences that aren't about the edit. The
sample facts that come with this package are such sentences, and have their own subjects. Those subjects, taken as the
keys of a codebook, show how far a radius can reach before too many sentences fire (``false_fire_rate``). The key of an
edit then gets

- that radius, or the distance of the key to its subject in the edit's own contexts, if that is more,
- but never more than half the distance to the nearest token of a sentence that doesn't name the subject.

The codebook's conflict rules see to half the distance to another edit's key, as ever.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.data import samples
from easyedit_lifelong.data.subjects import find_subject
from easyedit_lifelong.methods.grace.codebook.distance import by_product, prepared
from easyedit_lifelong.methods.grace.subject.contexts import key_texts

_TEXTS = ("prompt", "src", "rephrase_prompt", "rephrase", "locality_prompt", "loc", "relation_specificity_prompt")


QueriesOf = Callable[[Sequence[list[int]]], list[Tensor]]
"""From token rows to a layer's inputs at every token, in the space that keys are compared in."""


@dataclass(frozen=True)
class Sentences:
    """Sentences that aren't about an edit, and the subjects of some.

    Attributes:
        texts: the sentences.
        subjects: a subject and a sentence that names it.
    """

    texts: list[str]
    subjects: list[tuple[str, str]]


def sample_sentences() -> Sentences:
    """Return the sentences of the sample facts."""
    texts, subjects = [probe.prompt for probe in samples.retention_probes()], []
    for path in (samples.COUNTERFACT, samples.ZSRE):
        for record in json.loads(path.read_text(encoding="utf-8")):
            texts += [record[name] for name in _TEXTS if name in record]
            subjects.append((record["subject"], record.get("prompt") or record["src"]))
    return Sentences(list(dict.fromkeys(texts)), subjects)


class Neighbourhood:
    """Sentences that aren't about an edit, as a layer's inputs.

    Args:
        queries_of: of the layer.
        tokenizer: the model's.
        dist_fn: ``euc`` or ``cos``.
        key_templates: the texts that keys are taken in.
        false_fire_rate: see the module.
        sentences: by default, the sample facts'.

    Attributes:
        auto_radius: the radius at which that share of the sentences holds a token within the radius of the key of
            some other sentence's subject.
    """

    def __init__(
        self,
        queries_of: QueriesOf,
        tokenizer: Any,
        dist_fn: str,
        key_templates: Sequence[str],
        false_fire_rate: float,
        sentences: Sentences | None = None,
    ) -> None:
        sentences = sentences or sample_sentences()
        self._dist_fn = dist_fn
        self._texts = [text.lower() for text in sentences.texts]
        tokens = queries_of([list(tokenizer(text)["input_ids"]) for text in sentences.texts])
        counts = torch.tensor([len(part) for part in tokens], device=tokens[0].device)
        self._owner = torch.arange(len(tokens), device=counts.device).repeat_interleave(counts)
        self._tokens = prepared(torch.cat(tokens), dist_fn)
        spans = [(subject, prompt, find_subject(prompt, subject)) for subject, prompt in sentences.subjects]
        keyed = [
            (subject, key_texts(tokenizer, prompt, span, key_templates))
            for subject, prompt, span in spans
            if span is not None
        ]
        ends = queries_of([row for _, rows in keyed for row in rows])
        keys = torch.stack([part[-1] for part in ends]).view(len(keyed), 1 + len(key_templates), -1)
        fires = torch.stack(
            [self._per_sentence(key, subject) for (subject, _), key in zip(keyed, keys, strict=True)]
        ).amin(dim=0)
        self.auto_radius = float(torch.quantile(fires[fires.isfinite()], false_fire_rate))

    def radius(self, key: Tensor, subject: str, again: Tensor) -> float:
        """Return a key's radius, in units of the distance function.

        Args:
            key: its key vectors, shape ``(key vectors, width)``.
            subject: the key's subject.
            again: the subject's queries in the edit's own contexts, shape ``(contexts, width)``.
        """
        spread = float(self._distances(prepared(again, self._dist_fn), key).amin(dim=1).max())
        return min(max(self.auto_radius, spread), float(self._per_sentence(key, subject).min()) / 2)

    def _per_sentence(self, key: Tensor, subject: str) -> Tensor:
        """Return each sentence's distance to a key; infinite where it names the subject: ``(sentences,)``."""
        nearest = self._distances(self._tokens, key).amin(dim=1)
        found = nearest.new_full((len(self._texts),), float("inf"))
        found = found.scatter_reduce(0, self._owner, nearest, "amin")
        names = torch.tensor([subject.lower() in text for text in self._texts], device=found.device)
        return found.masked_fill(names, float("inf"))

    def _distances(self, tokens: Tensor, key: Tensor) -> Tensor:
        """Return distances of prepared queries to key vectors, ``(tokens, key vectors)``."""
        return by_product(tokens, prepared(key, self._dist_fn), self._dist_fn)
