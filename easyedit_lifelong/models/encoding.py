"""Turn prompts and answers into token rows, the same way for editing and for scoring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from easyedit_lifelong.errors import DataError

IGNORED = -100
"""Stands in labels where nothing is predicted, as torch's and transformers' losses have it."""


@dataclass(frozen=True)
class EncodedPair:
    """A prompt and its answer as token ids; joined, they are what a causal language model reads.

    Attributes:
        prompt: the prompt's.
        target: the answer's; for a classifier, the label's number.
        apart: whether the model doesn't read them in one row: an encoder reads the prompt alone.
    """

    prompt: list[int]
    target: list[int]
    apart: bool = False

    @property
    def tokens(self) -> list[int]:
        """All ids, prompt first."""
        return self.prompt + self.target

    @property
    def length(self) -> int:
        """How many places the pair takes in the model's context."""
        return max(len(self.prompt), len(self.target)) if self.apart else len(self.tokens)


def encode_pair(tokenizer: Any, prompt: str, target: str) -> EncodedPair:
    """Encode a prompt and the answer that follows it after one space.

    They are encoded together, as EasyEdit does, and cut where the prompt alone ends. Where a
    tokenizer merges across that border, the answer is encoded on its own instead: when generating,
    a model is given just the prompt's own tokens.

    Raises:
        DataError: the prompt or the answer has no tokens.
    """
    gap = "" if target[:1].isspace() or prompt[-1:].isspace() else " "
    prompt_ids = list(tokenizer(prompt)["input_ids"])
    together = list(tokenizer(prompt + gap + target)["input_ids"])
    if together[: len(prompt_ids)] == prompt_ids:
        target_ids = together[len(prompt_ids) :]
    else:
        target_ids = list(tokenizer(gap + target, add_special_tokens=False)["input_ids"])
    if not prompt_ids or not target_ids:
        empty = "prompt" if not prompt_ids else "target"
        raise DataError(f"the {empty} of {prompt!r} -> {target!r} has no tokens")
    return EncodedPair(prompt_ids, target_ids)


def pad_rows(
    rows: Sequence[Sequence[int]],
    pad: int,
    side: Literal["left", "right"],
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Stack token rows of different lengths.

    Returns:
        Token ids and attention mask, both of shape ``(rows, longest)``.
    """

    def stacked(tensors: list[Tensor], padding: int) -> Tensor:
        return pad_sequence(tensors, batch_first=True, padding_value=padding, padding_side=side).to(device)

    ids = [torch.tensor(row, dtype=torch.long) for row in rows]
    return stacked(ids, pad), stacked([torch.ones_like(row) for row in ids], 0)


def batches(rows: Sequence[list[int]], batch_tokens: int) -> Iterator[list[list[int]]]:
    """Yield rows of similar length in batches, the longest first, so that little padding is computed.

    Args:
        rows: token rows; empty ones are left out.
        batch_tokens: most tokens of a batch, padding included; a longer row is a batch by itself.
    """
    batch: list[list[int]] = []
    for row in sorted((row for row in rows if row), key=len, reverse=True):
        if batch and len(batch[0]) * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def position_ids(mask: Tensor) -> Tensor:
    """Count each row's real tokens from 0, so that padding doesn't shift positions."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)
