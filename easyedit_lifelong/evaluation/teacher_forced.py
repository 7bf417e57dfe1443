"""Teacher-forced answers, and the rows of a batch that questions with the same prompt share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from easyedit_lifelong.models.encoding import EncodedPair
from easyedit_lifelong.models.precision import at_least_float32

PairKey = tuple[tuple[int, ...], tuple[int, ...]]
"""The tokens of a prompt and of its answer."""


@dataclass(frozen=True)
class ForcedAnswer:
    """A teacher-forced answer: what a model predicts at each position of a given answer.

    Attributes:
        chosen: the most probable token at each position of the answer.
        target: the tokens of the given answer.
        nll: mean negative log-likelihood of the given answer, in nats per token.
    """

    chosen: tuple[int, ...]
    target: tuple[int, ...]
    nll: float

    @property
    def accuracy(self) -> float:
        """The share of the answer's tokens that are the most probable ones."""
        return sum(c == t for c, t in zip(self.chosen, self.target, strict=True)) / len(self.target)

    @property
    def exact(self) -> bool:
        """Whether all tokens of the answer are the most probable ones."""
        return self.chosen == self.target

    def agreement(self, other: ForcedAnswer) -> float:
        """Return the share of positions at which two models predict the same token (locality)."""
        return sum(a == b for a, b in zip(self.chosen, other.chosen, strict=True)) / len(self.chosen)


def forced_answer(logits: Tensor, target: Sequence[int]) -> ForcedAnswer:
    """Return the teacher-forced answer that a model's logits give.

    Args:
        logits: the logits that predict the answer's tokens, shape ``(answer tokens, vocabulary)``.
        target: the answer's tokens.
    """
    logits = at_least_float32(logits)
    labels = torch.tensor(list(target), device=logits.device)
    return ForcedAnswer(tuple(logits.argmax(dim=-1).tolist()), tuple(target), F.cross_entropy(logits, labels).item())


def key_of(pair: EncodedPair) -> PairKey:
    """Return the key that identifies a question."""
    return tuple(pair.prompt), tuple(pair.target)


def shared_rows(pairs: Sequence[EncodedPair]) -> list[list[EncodedPair]]:
    """Group questions whose answers one row of a batch can score.

    The logits at the end of a prompt score every answer of one token. So a question with such an answer needs no row
    if another question has the same prompt.

    Args:
        pairs: the questions; repeated ones are dropped.

    Returns:
        The questions of each row. The row's tokens are those of its first question.
    """
    by_prompt: dict[tuple[int, ...], dict[PairKey, EncodedPair]] = {}
    for pair in pairs:
        by_prompt.setdefault(tuple(pair.prompt), {}).setdefault(key_of(pair), pair)
    rows = []
    for same_prompt in by_prompt.values():
        # The row of the shortest answer of several tokens also scores the answers of one token.
        several_tokens = [pair for pair in same_prompt.values() if len(pair.target) > 1]
        one_token = [pair for pair in same_prompt.values() if len(pair.target) == 1]
        several_tokens.sort(key=lambda pair: len(pair.target))
        rows += [[pair] for pair in several_tokens[1:]]
        rows.append([*several_tokens[:1], *one_token])
    return rows
