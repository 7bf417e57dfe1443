"""``eps: auto``: a key's deferral radius, from its own neighbourhood.

What a radius has to keep out is known before anybody asks: the tokens of sentences that aren't about the edit. The
sample facts that come with this package are such sentences, and have subjects of their own. Those, taken as the keys
of a codebook, say how far a radius can reach before too many sentences fire (``false_fire_rate``); an edit's own key
then gets

- that radius, or the distance at which its subject is met again in the edit's own contexts, if that is more,
- but never more than half the way to the nearest token of a sentence that doesn't name the subject.

Half the way to another edit's key is seen to by the codebook's conflict rules, as ever.
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


@dataclass(frozen=True)
class Sentences:
    """Neutral sentences, and the subjects of some.

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
    """Neutral sentences as a layer sees them.

    Args:
        queries_of: from token rows to a layer's inputs at every token, in the space that keys are compared in.
        tokenizer: the model's.
        dist_fn: ``euc`` or ``cos``.
        key_templates: the texts that keys are taken in.
        false_fire_rate: see the module.
        sentences: by default, the sample facts'.

    Attributes:
        usual: the radius at which that share of the sentences holds a token that some other sentence's subject's
            key answers.
    """

    def __init__(
        self,
        queries_of: Callable[[Sequence[list[int]]], list[Tensor]],
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
        self._owner = torch.cat([torch.full((len(part),), n) for n, part in enumerate(tokens)]).to(tokens[0].device)
        self._tokens = prepared(torch.cat(tokens), dist_fn)
        keyed = []
        for subject, prompt in sentences.subjects:
            span = find_subject(prompt, subject)
            if span is not None:
                keyed.append((subject, key_texts(tokenizer, prompt, span, key_templates)))
        ends = queries_of([row for _, rows in keyed for row in rows])
        views = torch.stack([part[-1] for part in ends]).view(len(keyed), 1 + len(key_templates), -1)
        nearest = torch.stack(
            [self._per_sentence(key, subject) for (subject, _), key in zip(keyed, views, strict=True)]
        )
        fires = nearest.amin(dim=0)
        self.usual = float(torch.quantile(fires[fires.isfinite()], false_fire_rate))

    def radius(self, views: Tensor, subject: str, again: Tensor) -> float:
        """Return a key's radius, in units of the distance function.

        Args:
            views: the key's, shape ``(views, width)``.
            subject: whose key it is.
            again: the subject's queries in the edit's own contexts, shape ``(contexts, width)``.
        """
        spread = float(self._distances(prepared(again, self._dist_fn), views).amin(dim=1).max())
        return min(max(self.usual, spread), float(self._per_sentence(views, subject).min()) / 2)

    def _per_sentence(self, views: Tensor, subject: str) -> Tensor:
        """Return how near each sentence comes to a key; infinitely far where it names the subject: ``(sentences,)``."""
        nearest = self._distances(self._tokens, views).amin(dim=1)
        found = nearest.new_full((len(self._texts),), float("inf"))
        found = found.scatter_reduce(0, self._owner, nearest, "amin")
        names = torch.tensor([subject.lower() in text for text in self._texts], device=found.device)
        return found.masked_fill(names, float("inf"))

    def _distances(self, tokens: Tensor, views: Tensor) -> Tensor:
        """Return distances of prepared queries to views, ``(tokens, views)``."""
        return by_product(tokens, prepared(views, self._dist_fn), self._dist_fn)
