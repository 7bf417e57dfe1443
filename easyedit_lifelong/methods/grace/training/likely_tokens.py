"""The output head restricted to likely tokens, for the passes in which values are trained.

Half of a training step of a small model is its output head: a product with one row for each token of the vocabulary,
forward and backward, though a few hundred tokens have nearly all of the probability. Here, a pass computes the logits
of these alone. All other tokens count as one, whose logit is constant: the logarithm of the sum of their exponentials
in an exact pass. Its error is bounded by another exact pass at the end, see :mod:`.restricted_training`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from easyedit_lifelong.models.encoding import IGNORED
from easyedit_lifelong.models.linear import few_rows_linear
from easyedit_lifelong.models.overrides import overridden
from easyedit_lifelong.models.quantisation import quantised_weight

_MARGIN = 5.0
"""How far, in logits, a target token is raised above all others to see which other tokens rise with it."""
_LEAST_LOGIT = -1e9
"""Least logit of the other tokens together. With minus infinity, the KL divergence would be NaN."""


@dataclass(frozen=True)
class LikelyTokens:
    """The tokens whose logits are computed, for each row of a pass.

    Attributes:
        head: the output head.
        union: ids of the tokens of all rows, sorted, shape ``(tokens,)``.
        weight: the head's rows of these tokens, ``(tokens, width)``.
        bias: their biases, ``(tokens,)``; None if the head has none.
        columns: where each row's tokens are in ``union``, ``(rows, likely)``.
        rest: logit of all other tokens together, ``(rows, targets)``.
    """

    head: nn.Module
    union: Tensor
    weight: Tensor
    bias: Tensor | None
    columns: Tensor
    rest: Tensor

    @classmethod
    def of(cls, head: nn.Linear, tokens: Tensor, logits: Tensor) -> LikelyTokens:
        """Return the restriction of a head to some tokens.

        Args:
            head: the head; see :func:`can_restrict`.
            tokens: ids of each row's tokens, without repetition, ``(rows, likely)``.
            logits: logits of an exact pass, ``(rows, targets, vocabulary)``.
        """
        union, columns = tokens.unique(return_inverse=True)
        others = torch.ones(len(tokens), logits.shape[2], dtype=torch.bool, device=logits.device)
        others = others.scatter(1, tokens, value=False).unsqueeze(1)
        rest = logits.float().masked_fill(~others, -torch.inf).logsumexp(dim=-1).clamp_min(_LEAST_LOGIT)
        bias = None if head.bias is None else head.bias.detach()[union]
        return cls(head, union, head.weight.detach()[union], bias, columns, rest)

    def select_rows(self, rows: Tensor) -> LikelyTokens:
        """Return the tokens of a selection of the rows."""
        return replace(self, columns=self.columns[rows], rest=self.rest[rows])

    def restricting_head(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which the head computes the logits of :attr:`union` alone."""
        return overridden("forward", {self.head: self._forward_of_head()})

    def logits_of_rows(self, logits: Tensor) -> Tensor:
        """Return each row's logits of its own tokens, followed by that of all others, ``(rows, targets, likely + 1)``.

        Args:
            logits: of the tokens in :attr:`union`, ``(rows, targets, tokens)``.
        """
        columns = self.columns.unsqueeze(1).expand(-1, logits.shape[1], -1)
        return torch.cat([logits.gather(2, columns).float(), self.rest.unsqueeze(-1)], dim=-1)

    def classes_of(self, targets: Tensor) -> Tensor:
        """Return target tokens, each one of its row's tokens, as classes of :meth:`logits_of_rows`.

        Args:
            targets: ids, ``(rows, targets)``; ``IGNORED`` stays.
        """
        found = self.union[self.columns].unsqueeze(1) == targets.unsqueeze(2)
        return torch.where(targets == IGNORED, IGNORED, found.int().argmax(dim=-1))

    def _forward_of_head(self) -> Callable[[Tensor], Tensor]:
        """Return the restricted head's ``forward``."""
        return few_rows_linear(self.weight, self.bias)


def can_restrict(head: nn.Module | None) -> TypeGuard[nn.Linear]:
    """Whether a head is a plain linear layer, whose rows can be chosen."""
    return (
        type(head) is nn.Linear
        and head.weight.device.type != "meta"  # a head whose weight accelerate loads for each call
        and quantised_weight(head) is None
        and "forward" not in vars(head)
    )


def likely_tokens(head: nn.Linear, logits: Tensor, targets: Tensor, count: int, edits: int) -> Tensor:
    """Return the tokens that are likely now, or when the hidden state has moved towards a target token.

    Args:
        head: the output head.
        logits: logits of an exact pass, ``(rows, targets, vocabulary)``.
        targets: the target tokens, ``(rows, targets)``; ``IGNORED`` for padding, and in rows without a target, whose
            first position counts.
        count: number of tokens for each edit.
        edits: number of edits; each has the same number of consecutive rows.

    Returns:
        Ids, the target tokens among them, ``(rows, tokens)``. Rows of one edit have the same tokens.
    """
    n_rows = len(targets) // edits
    chosen = list[Tensor]()
    for of_edit, target_rows in zip(logits.split(n_rows), targets.split(n_rows), strict=True):
        counts = target_rows != IGNORED
        counts[:, 0] |= ~counts.any(dim=1)
        scores = of_edit[counts].float().log_softmax(dim=-1).amax(dim=0)
        aims = target_rows[0][target_rows[0] != IGNORED]
        if len(aims):
            scores = torch.maximum(scores, _after_moves(head.weight.detach(), of_edit[0, : len(aims)], aims))
            scores[aims] = torch.inf
        chosen.append(scores.topk(min(count, len(scores))).indices.sort().values)
    return torch.stack(chosen).repeat_interleave(n_rows, dim=0)


def _after_moves(weight: Tensor, logits: Tensor, aims: Tensor) -> Tensor:
    """Return each token's largest log probability after moves of the hidden state along the rows of target tokens.

    Args:
        weight: weight of the head, ``(vocabulary, width)``.
        logits: the logits that predict the target tokens, ``(targets, vocabulary)``.
        aims: the target tokens, ``(targets,)``.
    """
    logits, rows = logits.float(), weight[aims]
    needed = logits.amax(dim=-1) - logits.gather(1, aims.unsqueeze(1)).squeeze(1) + _MARGIN
    moves = rows * (needed / rows.float().square().sum(dim=-1)).unsqueeze(1).to(rows)
    return (logits + F.linear(moves, weight)).log_softmax(dim=-1).amax(dim=0)
