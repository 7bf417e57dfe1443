"""``threshold: auto``: the threshold of SERAC's scope from sentences that no edit is about.

The sample facts that are shipped with this package give about a hundred keys, made as those of edits, and sentences. A
sentence fires if its cosine with the key of a subject that it does not name is above the threshold. The threshold is
the smallest one at which at most a share ``false_fire_rate`` of the sentences fires.
"""

from __future__ import annotations

from typing import Any

import torch

from easyedit_lifelong.methods.retrieval.embedding import Embedder, Standardisation
from easyedit_lifelong.methods.shared.sample_sentences import Sentences, sample_sentences, threshold_at_rate
from easyedit_lifelong.models.encoding import encode_text


@torch.no_grad()
def auto_threshold(
    embedder: Embedder,
    tokenizer: Any,
    standardisation: Standardisation,
    rate: float,
    sentences: Sentences | None = None,
) -> float:
    """Return the threshold for a model.

    Args:
        embedder: embeds prompts.
        tokenizer: the model's tokenizer.
        standardisation: standardises the embeddings.
        rate: the share of sentences that may fire.
        sentences: the sentences; default :func:`sample_sentences`.
    """
    sentences = sentences or sample_sentences()
    subjects, prompts = zip(*sentences.subjects, strict=True)
    keys, queries = (
        standardisation.unit(embedder.embed([encode_text(tokenizer, text) for text in texts]))
        for texts in (prompts, sentences.texts)
    )
    return threshold_at_rate(queries @ keys.t(), sentences.texts, subjects, rate)
