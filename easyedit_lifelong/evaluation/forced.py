"""Teacher forcing: a model's choices along a given answer, and which questions share a row of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from easyedit_lifelong.models.encoding import EncodedPair

PairKey = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Forced:
    """A model's choices along a given answer.

    Attributes:
        chosen: the model's most probable token at each of the answer's positions.
        target: the answer's tokens.
        nll: mean negative log-likelihood of the answer, in nats per token.
    """

    chosen: tuple[int, ...]
    target: tuple[int, ...]
    nll: float

    @property
    def accuracy(self) -> float:
        """Share of the answer's tokens that the model would choose itself."""
        return sum(c == t for c, t in zip(self.chosen, self.target, strict=True)) / len(self.target)

    @property
    def exact(self) -> bool:
        """Whether it would choose every one of them."""
        return self.chosen == self.target

    def agreement(self, other: Forced) -> float:
        """Share of positions at which two models choose the same token (locality)."""
        return sum(a == b for a, b in zip(self.chosen, other.chosen, strict=True)) / len(self.chosen)


def forced_of(logits: Tensor, target: Sequence[int]) -> Forced:
    """Return a model's choices along an answer, given its logits there, ``(answer, vocabulary)``."""
    logits = logits.float()
    wanted = torch.tensor(list(target), device=logits.device)
    return Forced(tuple(logits.argmax(dim=-1).tolist()), tuple(target), F.cross_entropy(logits, wanted).item())


def key_of(pair: EncodedPair) -> PairKey:
    """Return what identifies a question: the tokens of its prompt and of its answer."""
    return tuple(pair.prompt), tuple(pair.target)


def shared_rows(pairs: Sequence[EncodedPair]) -> list[list[EncodedPair]]:
    """Return the rows of tokens for a model: each row's own question first, then others that it answers, too.

    The logits after a prompt answer every question about it whose answer has one token.
    """
    by_prompt: dict[tuple[int, ...], dict[PairKey, EncodedPair]] = {}
    for pair in pairs:
        by_prompt.setdefault(tuple(pair.prompt), {}).setdefault(key_of(pair), pair)
    rows = []
    for same_prompt in by_prompt.values():
        # The shortest row of several tokens carries those of one; a sort keeps equals in their order.
        long = sorted((p for p in same_prompt.values() if len(p.target) > 1), key=lambda p: len(p.target))
        short = [p for p in same_prompt.values() if len(p.target) == 1]
        rows += [[pair] for pair in long[1:]]
        rows.append([*long[:1], *short])
    return rows
