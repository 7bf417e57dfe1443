"""The output head restricted to likely tokens, for the passes in which values are trained.

The output head takes half of the time of a training step of a small model: it is a product with one row for each token
of the vocabulary, forward and backward, though a few hundred tokens have nearly all of the probability. Here, a pass
computes the logits of these alone. All other tokens count as one, whose logit is constant: the logarithm of the sum of
their exponentials in an exact pass. Another exact pass at the end checks the values; see :mod:`.restricted_training`.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, replace
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from easyedit_lifelong.models.encoding import IGNORED
from easyedit_lifelong.models.linear import few_rows_product
from easyedit_lifelong.models.overrides import overridden
from easyedit_lifelong.models.quantisation import quantised_weight

_MARGIN = 5.0
"""How far, in logits, a target token is raised above all others to see which other tokens rise with it."""

_LEAST_LOGIT = -1e9
"""Least logit of the other tokens together. With minus infinity, the KL divergence would be NaN."""

_LEAST_SQUARE = 1e-12
"""Least squared length of a row of the head: that of a token that was never trained can be zero."""


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
        bias = None if head.bias is None else head.bias.detach()[union]
        return cls(head, union, head.weight.detach()[union], bias, columns, _rest_of(logits, tokens))

    def select_rows(self, rows: Tensor) -> LikelyTokens:
        """Return the tokens of a selection of the rows."""
        return replace(self, columns=self.columns[rows], rest=self.rest[rows])

    def restricting_head(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which the head computes the logits of :attr:`union` alone."""
        forward = functools.partial(few_rows_product, weight=self.weight, bias=self.bias)
        return overridden("forward", {self.head: forward})

    def classes_from(self, logits: Tensor) -> Tensor:
        """Return the logits of a row's likely tokens, and then one logit for all other tokens.

        Args:
            logits: those of a restricted pass, ``(rows, targets, tokens)``.

        Returns:
            Shape ``(rows, targets, likely + 1)``.
        """
        if logits.shape[-1] != len(self.union):  # a model that does not call its head
            logits = logits[..., self.union]
        columns = self.columns.unsqueeze(1).expand(-1, logits.shape[1], -1)
        return torch.cat([logits.gather(2, columns).float(), self.rest.unsqueeze(-1)], dim=-1)

    def classes_from_exact(self, logits: Tensor) -> Tensor:
        """Return the same of an exact pass, from its logits of all tokens, ``(rows, targets, vocabulary)``."""
        tokens = self.union[self.columns]
        exact = replace(self, rest=_rest_of(logits, tokens))
        return exact.classes_from(logits[..., self.union])

    def classes_of(self, targets: Tensor) -> Tensor:
        """Return target tokens, each one of its row's tokens, as classes of :meth:`classes_from`.

        Args:
            targets: ids, ``(rows, targets)``; ``IGNORED`` stays.
        """
        found = self.union[self.columns].unsqueeze(1) == targets.unsqueeze(2)
        return torch.where(targets == IGNORED, IGNORED, found.int().argmax(dim=-1))


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
        Ids, all target tokens of an edit's rows among them, ``(rows, tokens)``. Rows of one edit have the same tokens.
    """
    n_rows = len(targets) // edits
    target_ids = [rows[rows != IGNORED].unique() for rows in targets.split(n_rows)]
    count = min(max(count, *(len(ids) for ids in target_ids)), logits.shape[-1])
    chosen = list[Tensor]()
    for of_edit, target_rows, ids in zip(logits.split(n_rows), targets.split(n_rows), target_ids, strict=True):
        counts = target_rows != IGNORED
        counts[:, 0] |= ~counts.any(dim=1)
        scores = of_edit[counts].float().log_softmax(dim=-1).amax(dim=0)
        aims = target_rows[0][target_rows[0] != IGNORED]
        if len(aims):
            scores = torch.maximum(scores, _after_moves(head.weight.detach(), of_edit[0, : len(aims)], aims))
        scores[ids] = torch.inf
        chosen.append(scores.topk(count).indices.sort().values)
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
    lengths = rows.float().square().sum(dim=-1).clamp_min(_LEAST_SQUARE)
    moves = rows * (needed / lengths).unsqueeze(1).to(rows)
    return (logits + F.linear(moves, weight)).log_softmax(dim=-1).amax(dim=0)


def _rest_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the logit of all tokens but each row's own together, ``(rows, targets)``.

    Args:
        logits: logits of an exact pass, ``(rows, targets, vocabulary)``.
        tokens: ids of each row's tokens, ``(rows, likely)``.
    """
    own = torch.zeros(len(tokens), logits.shape[2], dtype=torch.bool, device=logits.device)
    own = own.scatter(1, tokens, value=True).unsqueeze(1)
    return logits.float().masked_fill(own, -torch.inf).logsumexp(dim=-1).clamp_min(_LEAST_LOGIT)
