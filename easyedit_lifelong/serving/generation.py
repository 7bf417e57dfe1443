"""Generate the answers of several requests in one batch, each with its own settings.

A row's tokens depend on its prompt, its settings and its seed alone. Prompts are padded on the left, and the model's
``generate`` runs the batch, so that edits find where each prompt ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from easyedit_lifelong.evaluation.stopping import end_tokens
from easyedit_lifelong.models.devices import input_device
from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.model_modes import bare_generation_config, evaluating
from easyedit_lifelong.serving.text_stream import TextStream


@dataclass(frozen=True)
class Sampling:
    """How an answer is generated.

    Attributes:
        max_tokens: the largest number of new tokens.
        temperature: 0 for the most probable token at each step.
        top_p: sample from the most probable tokens whose total probability is at least this.
        seed: seed of the random numbers; None for a new one.
        stop: texts that end the answer.
        logprobs: how many alternatives to report at each token, beside the chosen one; None for no log probabilities.
    """

    max_tokens: int = 16
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None


@dataclass(frozen=True)
class TokenLogprob:
    """The log probability of a generated token, in nats, and of the most probable tokens in its place.

    Attributes:
        token: the token's id.
        logprob: its log probability, at temperature 1.
        top: id and log probability of the most probable tokens.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass
class Row:
    """One answer: its prompt and settings, and what has been generated so far.

    Attributes:
        prompt: the token ids of the prompt.
        sampling: how the answer is generated.
        on_text: called with each piece of text as soon as it is final.
        tokens: the generated tokens, without the one that ends the text.
        text: the text so far.
        logprobs: the log probability of each token, if they are asked for.
        finish_reason: ``stop`` (an end token or a stop text), ``length`` or ``cancelled``; None while it is generated.
        cancelled: set this to end the answer after the present token.
    """

    prompt: list[int]
    sampling: Sampling
    on_text: Callable[[str], None] | None = None
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None
    cancelled: bool = False

    def add_text(self, text: str) -> None:
        """Add a piece of text, and pass it on."""
        self.text += text
        if text and self.on_text is not None:
            self.on_text(text)


@torch.no_grad()
def generate_rows(model: Any, tokenizer: Any, rows: Sequence[Row]) -> None:
    """Generate the answers of a batch of rows. Each row's fields are filled in.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        rows: the rows. The longest prompt and the longest answer must fit the model's context together.
    """
    pad, ends = tokenizer.pad_token_id or 0, end_tokens(model, tokenizer)
    ids, mask = pad_rows([row.prompt for row in rows], pad, "left", input_device(model))
    config = GenerationConfig(
        max_new_tokens=max(row.sampling.max_tokens for row in rows),
        do_sample=False,  # ChooseTokens samples, row by row
        pad_token_id=pad,
        eos_token_id=sorted(ends) or None,
    )
    with evaluating(model), bare_generation_config(model):
        model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([ChooseTokens(rows)]),
            stopping_criteria=StoppingCriteriaList([FollowRows(rows, tokenizer, ends)]),
        )


class ChooseTokens(LogitsProcessor):
    """Leaves each row one possible token if the row samples, and records log probabilities.

    Each row has its own random numbers, so that its answer does not depend on the other rows.

    Args:
        rows: the rows of the batch.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self._random = [_random_numbers(row.sampling.seed) for row in rows]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores, shape ``(rows, vocabulary)``, in which sampled rows have one finite entry."""
        chosen = scores.clone()
        for number, (row, random) in enumerate(zip(self._rows, self._random, strict=True)):
            samples = row.sampling.temperature > 0
            if row.finish_reason is not None or (not samples and row.sampling.logprobs is None):
                continue
            if samples:
                token = sample(scores[number], row.sampling, random)
                chosen[number] = -torch.inf
                chosen[number, token] = 0.0
            else:
                token = int(scores[number].argmax())
            if row.sampling.logprobs is not None:
                row.logprobs.append(_logprob(scores[number], token, row.sampling.logprobs))
        return chosen


def sample(logits: Tensor, sampling: Sampling, random: torch.Generator) -> int:
    """Sample a token.

    Args:
        logits: shape ``(vocabulary,)``.
        sampling: temperature and ``top_p``.
        random: the random numbers, on the CPU, so that a seed gives the same tokens on every device.
    """
    logits = logits.double().cpu()
    probabilities = torch.softmax((logits - logits.max()) / sampling.temperature, dim=-1)
    ordered, tokens = probabilities.sort(descending=True, stable=True)
    total = ordered.cumsum(0)
    kept = total - ordered < sampling.top_p  # tokens before which less than top_p has been reached
    kept[0] = True
    total = total[kept]
    point = torch.rand(1, generator=random, dtype=torch.float64) * total[-1]
    return int(tokens[min(int(torch.searchsorted(total, point, right=True)), len(total) - 1)])


class FollowRows(StoppingCriteria):
    """Adds each new token to its row, and tells which rows are finished.

    Args:
        rows: the rows of the batch.
        tokenizer: decodes their tokens.
        ends: the tokens that end a text.
    """

    def __init__(self, rows: Sequence[Row], tokenizer: Any, ends: set[int]) -> None:
        def decode(tokens: list[int]) -> str:
            text: str = tokenizer.decode(tokens, skip_special_tokens=True)
            return text

        self._rows, self._ends = rows, ends
        self._streams = [TextStream(decode, row.sampling.stop) for row in rows]

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Return whether each row is finished, shape ``(rows,)``; ``input_ids`` have shape ``(rows, tokens)``."""
        for row, stream, token in zip(self._rows, self._streams, input_ids[:, -1].tolist(), strict=True):
            if row.finish_reason is None:
                self._add(row, stream, token)
        return torch.tensor([row.finish_reason is not None for row in self._rows], device=input_ids.device)

    def _add(self, row: Row, stream: TextStream, token: int) -> None:
        """Add a token to a row that is not finished."""
        if row.cancelled:
            row.finish_reason = "cancelled"
            return
        if token in self._ends:
            row.logprobs = row.logprobs[: len(row.tokens)]
            row.add_text(stream.finish())
            row.finish_reason = "stop"
            return
        row.tokens.append(token)
        row.add_text(stream.push(token))
        if stream.stopped:
            row.finish_reason = "stop"
        elif len(row.tokens) >= row.sampling.max_tokens:
            row.add_text(stream.finish())
            row.finish_reason = "length"


def _random_numbers(seed: int | None) -> torch.Generator:
    """Return a generator of random numbers with a seed, or with a new one."""
    generator = torch.Generator()
    generator.manual_seed(int.from_bytes(os.urandom(7), "big") if seed is None else seed)
    return generator


def _logprob(logits: Tensor, token: int, alternatives: int) -> TokenLogprob:
    """Return the log probability of a token, and of the most probable ones; ``logits`` have shape ``(vocabulary,)``."""
    logprobs = logits.float().log_softmax(dim=-1)
    top = logprobs.topk(min(alternatives, len(logprobs)))
    return TokenLogprob(
        token, float(logprobs[token]), tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    )
