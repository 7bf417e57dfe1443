"""Turn prompts and answers into token rows, the same way for editing and for scoring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

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
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        span = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[i, span] = torch.tensor(row, dtype=torch.long)
        mask[i, span] = 1
    return ids.to(device), mask.to(device)


def position_ids(mask: Tensor) -> Tensor:
    """Count each row's real tokens from 0, so that padding doesn't shift positions."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)
