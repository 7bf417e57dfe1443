"""Generate context templates: short texts before the prompt, so that an edit does not depend on one context (MEMIT)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from easyedit_lifelong.methods.weight_updates.history import Templates
from easyedit_lifelong.models.encoding import encode_text, pad_rows
from easyedit_lifelong.models.model_modes import evaluating
from easyedit_lifelong.models.padding import generation_groups

PLAIN: Templates = [["{}"]]
"""The prompt without a context."""

_FIRST_WORDS = ("The", "Therefore", "Because", "I", "You")
_TOP_K = 5


@torch.no_grad()
def context_templates(model: Any, tokenizer: Any, length_params: Sequence[Sequence[int]], seed: int) -> Templates:
    """Generate context templates; the same seed gives the same templates, on every device.

    Args:
        model: the model, before it is edited.
        tokenizer: its tokenizer.
        length_params: ``(tokens, count)`` of each group.
        seed: seed of the top-k sampling (k = 5, as in MEMIT). No global random generator is used.

    Returns:
        The prompt without a context as the first group, then a group for each of ``length_params``.
    """
    groups = copy.deepcopy(PLAIN)
    sampling = TopKSampling(_TOP_K, torch.Generator().manual_seed(seed))
    with evaluating(model):
        groups += [_sample_group(model, tokenizer, length, count, sampling) for length, count in length_params]
    return groups


def _sample_group(model: Any, tokenizer: Any, length: int, count: int, sampling: TopKSampling) -> list[str]:
    """Generate ``count`` templates from texts of ``length`` tokens, the first word included."""
    first_words = [_FIRST_WORDS[i % len(_FIRST_WORDS)] for i in range(count)]
    rows = [encode_text(tokenizer, text) for text in first_words]
    texts = [""] * count
    for group in generation_groups(model, count):
        sampled = _sample(model, tokenizer, [rows[i] for i in group], length, sampling)
        for index, text in zip(group, sampled, strict=True):
            texts[index] = text
    return [" ".join(text.replace("{", " ").replace("}", " ").split()) + ". {}" for text in texts]


def _sample(
    model: Any, tokenizer: Any, rows: Sequence[Sequence[int]], length: int, sampling: TopKSampling
) -> list[str]:
    """Continue rows of tokens up to ``length`` tokens, padding included; return the texts."""
    pad = tokenizer.pad_token_id or 0
    ids, mask = pad_rows(rows, pad, "left", model.get_input_embeddings().weight.device)
    config = GenerationConfig(
        do_sample=False,  # TopKSampling leaves one token
        pad_token_id=pad,
        max_new_tokens=max(1, length - ids.shape[1]),
        eos_token_id=tokenizer.eos_token_id,
    )
    generated = model.generate(
        input_ids=ids,
        attention_mask=mask,
        generation_config=config,
        logits_processor=LogitsProcessorList([sampling]),
    )
    texts: list[str] = tokenizer.batch_decode(generated, skip_special_tokens=True)
    return texts


class TopKSampling(LogitsProcessor):
    """Leaves each row one possible token, drawn from the k most likely.

    Args:
        k: number of tokens to draw from.
        generator: a random generator on the CPU, so that every device draws the same tokens. Not the global one, from
            which another thread can draw at the same time.
    """

    def __init__(self, k: int, generator: torch.Generator) -> None:
        self._k, self._generator = k, generator

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores of the same shape, ``(rows, vocabulary)``, with one finite entry in each row."""
        smallest = scores.topk(min(self._k, scores.shape[1])).values[:, -1:]
        probabilities = scores.masked_fill(scores < smallest, -torch.inf).softmax(dim=-1)
        drawn = torch.multinomial(probabilities.cpu(), 1, generator=self._generator).to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)
