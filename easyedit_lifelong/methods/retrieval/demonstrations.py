"""Demonstrations in front of a fact: other facts, each with a prompt and the answer that is right when the fact is.

A record gives up to three kinds (IKE, section 3.2): *copy*, its own prompt; *update*, a paraphrase; *retain*, a
locality prompt, whose answer the fact does not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from easyedit_lifelong.data.readers import read_json, read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.methods.retrieval.config import RetrievalHyperParams
from easyedit_lifelong.methods.retrieval.contexts import demonstration, sentence
from easyedit_lifelong.methods.retrieval.embedding import Embedder, KeySpace
from easyedit_lifelong.models.encoding import encode_text


class Demonstrations:
    """The demonstrations of a file, of which an edit gets those that are nearest to its prompt.

    Args:
        tokenizer: the model's tokenizer.
        hparams: ``demonstrations``, ``n_demonstrations`` and the templates are used.
        embedder: embeds prompts.
        space: the space in which embeddings are compared.

    Attributes:
        settings: the result of :func:`demonstration_settings`.

    Raises:
        DataError: the file does not exist, or a record is invalid.
    """

    def __init__(self, tokenizer: Any, hparams: RetrievalHyperParams, embedder: Embedder, space: KeySpace) -> None:
        self.settings = demonstration_settings(hparams)
        self._tokenizer, self._count = tokenizer, hparams.n_demonstrations
        self._embedder, self._space = embedder, space
        self._texts: list[str] = []
        prompts: list[str] = []
        if hparams.demonstrations is not None:
            for record in read_requests(hparams.demonstrations, read_json):
                for prompt, answer in _prompts(record):
                    fact = sentence(tokenizer, record.prompt, record.target_new, record.joiner)
                    self._texts.append(demonstration(hparams, fact, sentence(tokenizer, prompt, answer)))
                    prompts.append(prompt)
        self._keys = self._embedded(prompts) if prompts else None

    def nearest(self, prompt: str) -> list[str]:
        """Return the demonstrations whose prompts are nearest to a prompt, the nearest last."""
        if self._keys is None:
            return []
        cosines = self._keys @ self._embedded([prompt])[0]
        best = cosines.topk(min(self._count, len(self._texts))).indices.tolist()
        return [self._texts[number] for number in reversed(best)]

    @torch.no_grad()
    def _embedded(self, prompts: Sequence[str]) -> torch.Tensor:
        """Return the embeddings of prompts, of unit length."""
        rows = [encode_text(self._tokenizer, prompt) for prompt in prompts]
        return self._space.unit(self._embedder.embed(rows))


def demonstration_settings(hparams: RetrievalHyperParams) -> tuple[str | None, int, str, str]:
    """Return the hyperparameters that demonstrations depend on, beside the embeddings."""
    return hparams.demonstrations, hparams.n_demonstrations, hparams.fact_template, hparams.prompt_prefix


def _prompts(record: EditRequest) -> list[tuple[str, str]]:
    """Return the prompts of a record's demonstrations, and the answer of each."""
    copied = [(record.prompt, record.target_new)]
    updated = [(prompt, record.target_new) for prompt in record.rephrase_prompts[:1]]
    retained = [(probe.prompt, probe.answer) for probes in record.locality.values() for probe in probes[:1]]
    return copied + updated + retained
