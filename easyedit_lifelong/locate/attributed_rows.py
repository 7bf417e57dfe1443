"""The rows whose losses attribution compares: texts, and the answer after its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from easyedit_lifelong.errors import DataError
from easyedit_lifelong.models.encoding import IGNORED, encode_pair, encode_text, pad_rows
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.precision import at_least_float32
from easyedit_lifelong.models.runner import Runner


@dataclass(frozen=True)
class LabelledRow:
    """Token ids, and which of them count in the row's loss.

    Attributes:
        ids: token ids.
        labels: the same ids, or :data:`IGNORED` for those that don't count.
    """

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class PaddedRows:
    """Rows of one length.

    Attributes:
        ids: token ids, shape ``(rows, tokens)``.
        mask: which of them aren't padding.
        targets: the token that each position but the last should predict, or :data:`IGNORED`, shape
            ``(rows, tokens - 1)``.
    """

    ids: Tensor
    mask: Tensor
    targets: Tensor


def encode_texts(runner: Runner, texts: Sequence[str]) -> list[LabelledRow]:
    """Encode texts; all their tokens count.

    Raises:
        DataError: there are no texts, or one is too short or too long.
    """
    if not texts:
        raise DataError("there are no texts to attribute the answer to")
    longest = context_length(runner.model)
    rows = [encode_text(runner.tokenizer, text) for text in texts]
    for number, row in enumerate(rows, 1):
        if len(row) < 2:
            raise DataError(f"text {number}: has fewer than two tokens, so it has no loss. Leave it out.")
        if longest is not None and len(row) > longest:
            raise DataError(f"text {number}: has {len(row)} tokens; the model reads {longest}. Shorten or split it.")
    return [LabelledRow(row, row) for row in rows]


def encode_answer(tokenizer: Any, prompt: str, answer: str) -> LabelledRow:
    """Encode a prompt and its answer; the answer's tokens count.

    Raises:
        DataError: one of them has no tokens.
    """
    pair = encode_pair(tokenizer, prompt, answer)
    return LabelledRow(pair.tokens, [IGNORED] * len(pair.prompt) + pair.target)


def pad(runner: Runner, rows: Sequence[LabelledRow]) -> PaddedRows:
    """Pad rows to one length, on the right."""
    ids, mask = pad_rows([row.ids for row in rows], runner.pad, "right", runner.device)
    labels = torch.full_like(ids, IGNORED)
    for number, row in enumerate(rows):
        labels[number, : len(row.labels)] = torch.tensor(row.labels)
    return PaddedRows(ids, mask, labels[:, 1:])


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each target, shape ``(rows, tokens - 1)``; 0 where there is none."""
    return F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")


def predictions(runner: Runner, rows: PaddedRows) -> Tensor:
    """Return the logits for the targets of rows, in float32 or wider, shape ``(rows, tokens - 1, vocabulary)``."""
    logits = runner.call(rows.ids, rows.mask, rows.mask.sum(dim=1))[:, :-1]
    return at_least_float32(logits)
