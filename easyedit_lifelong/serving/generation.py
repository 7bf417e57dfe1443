"""An answer that is being generated: its settings, the choice of its tokens, and its text.

An answer's tokens depend on its prompt, its settings, its seed and the version of the edits, not on the other rows of
a batch, up to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.evaluation.stopping import end_tokens
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


class Continuation:
    """Chooses the tokens of one answer, and adds them to its row.

    Args:
        row: the row.
        model: the model that generates it.
        tokenizer: decodes its tokens.
    """

    def __init__(self, row: Row, model: Any, tokenizer: Any) -> None:
        def decode(tokens: list[int]) -> str:
            text: str = tokenizer.decode(tokens, skip_special_tokens=True)
            return text

        self.row = row
        self._ends = end_tokens(model, tokenizer)
        self._stream = TextStream(decode, row.sampling.stop)
        self._random = _random_numbers(row.sampling.seed)

    def choose(self, logits: Tensor, most_probable: int) -> int:
        """Return the next token, and record its log probability if the row asks for it.

        Args:
            logits: shape ``(vocabulary,)``.
            most_probable: the token with the largest logit.
        """
        sampling, token = self.row.sampling, most_probable
        if sampling.temperature > 0:
            token = sample(logits, sampling, self._random)
        if sampling.logprobs is not None:
            self.row.logprobs.append(_logprob(logits, token, sampling.logprobs))
        return token

    def add(self, token: int) -> None:
        """Add a token to the row. Its ``finish_reason`` is set if it ends."""
        row, stream = self.row, self._stream
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
