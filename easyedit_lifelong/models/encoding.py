"""Encode prompts and answers as rows of token ids, in one way for editing and scoring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from easyedit_lifelong.errors import DataError
from easyedit_lifelong.models.separator import separator

IGNORED = -100
"""Label of positions that a loss leaves out, as in torch and transformers."""


@dataclass(frozen=True)
class EncodedPair:
    """A prompt and its answer as token ids.

    Attributes:
        prompt: token ids of the prompt.
        target: token ids of the answer; for a classifier, the index of the label.
        apart: whether the row that the model reads has the prompt alone (encoders), and not the prompt followed by the
            answer (causal language models).
    """

    prompt: list[int]
    target: list[int]
    apart: bool = False

    @property
    def tokens(self) -> list[int]:
        """The ids of the prompt, followed by those of the answer."""
        return self.prompt + self.target

    @property
    def length(self) -> int:
        """How many positions of the model's context the pair needs."""
        return max(len(self.prompt), len(self.target)) if self.apart else len(self.tokens)


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Encode a text with the special tokens that the tokenizer adds, but without a second beginning-of-text token.

    A text from a chat template begins with that token already. Models are trained on one.
    """
    ids = list(tokenizer(text)["input_ids"])
    return ids[repeated_beginnings(tokenizer, ids) :]


def repeated_beginnings(tokenizer: Any, ids: Sequence[int]) -> int:
    """Return how many beginning-of-text tokens follow the first token, which is one, in a tokenizer's output."""
    bos, count = tokenizer.bos_token_id, 0
    while bos is not None and list(ids[count : count + 2]) == [bos, bos]:
        count += 1
    return count


def beginning_of_text(tokenizer: Any) -> list[int]:
    """Return the beginning-of-text token that a tokenizer adds to a text; empty if it adds none."""
    return [token for token in encode_text(tokenizer, "a")[:1] if token == tokenizer.bos_token_id]


def encode_pair(
    tokenizer: Any, prompt: str, target: str, joiner: str | None = None, *, eos: bool = False
) -> EncodedPair:
    """Encode a prompt and the answer that follows it.

    Prompt and answer are encoded as one text, as EasyEdit does, and split after the prompt's tokens. If the tokenizer
    merges characters across that border, the answer is encoded separately, because a model that generates receives the
    tokens of the prompt alone.

    Args:
        tokenizer: the tokenizer.
        prompt: the prompt.
        target: the answer.
        joiner: what stands between the two; None: the texts decide (:func:`.separator`).
        eos: end the answer with the tokenizer's end-of-text token.

    Raises:
        DataError: the prompt or the answer has no tokens, or the tokenizer has no end-of-text token.
    """
    gap = separator(prompt, target, joiner)
    prompt_ids = encode_text(tokenizer, prompt)
    joint_ids = encode_text(tokenizer, prompt + gap + target)
    if joint_ids[: len(prompt_ids)] == prompt_ids:
        target_ids = joint_ids[len(prompt_ids) :]
    else:
        target_ids = list(tokenizer(gap + target, add_special_tokens=False)["input_ids"])
    if not prompt_ids or not target_ids:
        empty = "prompt" if not prompt_ids else "target"
        raise DataError(f"the {empty} of {prompt!r} -> {target!r} has no tokens")
    if eos:
        if tokenizer.eos_token_id is None:
            raise DataError("eos: the tokenizer has no end-of-text token; set eos to false")
        target_ids = [*target_ids, tokenizer.eos_token_id]
    return EncodedPair(prompt_ids, target_ids)


def pad_rows(
    rows: Sequence[Sequence[int]],
    pad: int,
    side: Literal["left", "right"],
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Pad rows of token ids to one length.

    Args:
        rows: the token ids.
        pad: id of the padding token.
        side: where the padding goes.
        device: device of the result.

    Returns:
        Token ids and attention mask, both of shape ``(rows, longest)``.
    """

    def pad_with(tensors: list[Tensor], padding: int) -> Tensor:
        return pad_sequence(tensors, batch_first=True, padding_value=padding, padding_side=side).to(device)

    ids = [torch.tensor(row, dtype=torch.long) for row in rows]
    return pad_with(ids, pad), pad_with([torch.ones_like(row) for row in ids], 0)


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield batches of rows of similar length, so that passes compute little padding. The longest rows come first.

    Args:
        lengths: the number of tokens of each row.
        batch_tokens: maximum number of tokens in a batch, padding included. A longer row is a batch by itself.

    Yields:
        The indices of the rows of a batch.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if batch and lengths[batch[0]] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def row_batches(rows: Sequence[list[int]], batch_tokens: int) -> Iterator[list[list[int]]]:
    """Yield the rows of each batch of :func:`batches_by_length`. Empty rows are dropped."""
    rows = [row for row in rows if row]
    for batch in batches_by_length([len(row) for row in rows], batch_tokens):
        yield [rows[index] for index in batch]


def group_by_length(rows: Sequence[Sequence[int]], max_padding: int, max_rows: int | None = None) -> list[list[int]]:
    """Return the indices of rows, from the shortest to the longest, in groups with little padding.

    Args:
        rows: the token ids of each row.
        max_padding: largest number of padding tokens in a group.
        max_rows: largest number of rows in a group; None: any number.
    """
    groups: list[list[int]] = []
    tokens_in_group = 0
    for index in sorted(range(len(rows)), key=lambda index: len(rows[index])):
        length = len(rows[index])  # the longest row so far
        if not groups or len(groups[-1]) * length - tokens_in_group > max_padding or len(groups[-1]) == max_rows:
            groups.append([])
            tokens_in_group = 0
        groups[-1].append(index)
        tokens_in_group += length
    return groups


def position_ids(mask: Tensor) -> Tensor:
    """Return the position of each token in its row, padding not counted; shape of ``mask``, ``(rows, tokens)``."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)
