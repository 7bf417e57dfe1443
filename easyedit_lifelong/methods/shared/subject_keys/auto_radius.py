"""``eps: auto``: a deferral radius for each key, from sentences that are not about the edit.

A key should match its subject in any context, and no token of an unrelated sentence. The sample facts that are shipped
with this package serve as unrelated sentences. They have subjects themselves. With these subjects as the keys of a
codebook, one can measure the radius at which a share ``false_fire_rate`` of the sentences matches the key of another
sentence's subject: the *auto radius*. The radius of an edit's key is

- the auto radius, or the distance from the key to its subject in the edit's contexts, whichever is larger,
- but at most half the distance to the nearest token of a sentence that does not name the subject.

Where two edits' keys are near each other, the codebook's decisions shrink the radii further (GRACE, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.data.subjects import find_subject
from easyedit_lifelong.methods.shared.sample_sentences import Sentences, sample_sentences
from easyedit_lifelong.methods.shared.subject_keys.distance import normalized, rounded_pairwise_distances
from easyedit_lifelong.methods.shared.subject_keys.key_texts import key_texts
from easyedit_lifelong.models.encoding import encode_text

QueriesOf = Callable[[Sequence[list[int]]], list[Tensor]]
"""Maps rows of token ids to a layer's inputs in the key space: one tensor ``(tokens, width)`` for each row."""


class Neighbourhood:
    """The neighbourhood of keys: activations of unrelated sentences at one layer. They determine the keys' radii.

    Args:
        queries_of: returns the layer's inputs for rows of tokens.
        tokenizer: the model's.
        dist_fn: ``euc`` or ``cos``.
        key_templates: the templates that key vectors are taken from, besides the prompt.
        false_fire_rate: share of the sentences that may match the key of another sentence's subject.
        sentences: the unrelated sentences; default :func:`sample_sentences`.

    Attributes:
        auto_radius: the radius at which this share of the sentences matches.
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
        self._lowercase_texts = [text.lower() for text in sentences.texts]
        queries = queries_of([encode_text(tokenizer, text) for text in sentences.texts])
        lengths = torch.tensor([len(queries_of_tokens) for queries_of_tokens in queries], device=queries[0].device)
        self._sentence_of_token = torch.arange(len(queries), device=lengths.device).repeat_interleave(lengths)
        self._tokens = normalized(torch.cat(queries), dist_fn)
        subjects: list[str] = []
        key_rows: list[list[int]] = []
        for subject, prompt in sentences.subjects:
            if (span := find_subject(prompt, subject)) is not None:
                subjects.append(subject)
                key_rows += key_texts(tokenizer, prompt, span, key_templates)
        key_vectors = torch.stack([queries_of_tokens[-1] for queries_of_tokens in queries_of(key_rows)])
        keys = key_vectors.view(len(subjects), 1 + len(key_templates), -1)
        distances = [self._sentence_distances(key, subject) for key, subject in zip(keys, subjects, strict=True)]
        # A sentence fires from the distance to its nearest key on.
        firing_radii = torch.stack(distances).amin(dim=0)
        self.auto_radius = float(torch.quantile(firing_radii[firing_radii.isfinite()], false_fire_rate))

    def radius(self, key: Tensor, subject: str, context_queries: Tensor) -> float:
        """Return a key's radius, in units of the distance function.

        Args:
            key: its key vectors, shape ``(key vectors, width)``.
            subject: the key's subject.
            context_queries: the queries at the subject in the edit's contexts, shape ``(contexts, width)``.
        """
        farthest_context = float(self._distances(normalized(context_queries, self._dist_fn), key).amin(dim=1).max())
        nearest_sentence = float(self._sentence_distances(key, subject).min())
        return min(max(self.auto_radius, farthest_context), nearest_sentence / 2)

    def _sentence_distances(self, key: Tensor, subject: str) -> Tensor:
        """Return the distance from a key to the nearest token of each sentence, ``(sentences,)``.

        The distance is infinite where the sentence names the subject: a match there is no false fire.
        """
        token_distances = self._distances(self._tokens, key).amin(dim=1)
        distances = token_distances.new_full((len(self._lowercase_texts),), float("inf"))
        distances = distances.scatter_reduce(0, self._sentence_of_token, token_distances, "amin")
        names_subject = [subject.lower() in text for text in self._lowercase_texts]
        return distances.masked_fill(torch.tensor(names_subject, device=distances.device), float("inf"))

    def _distances(self, tokens: Tensor, key: Tensor) -> Tensor:
        """Return the distances from prepared queries to key vectors, ``(tokens, key vectors)``."""
        return rounded_pairwise_distances(tokens, normalized(key, self._dist_fn), self._dist_fn)
