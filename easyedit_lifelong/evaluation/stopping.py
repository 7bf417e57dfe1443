"""Where generated text ends: at an end token, at a limit, or where it is complete, for each row of a batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Return the tokens that end a text."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = tokenizer.eos_token_id if ends is None else ends
    return {token for token in (ends if isinstance(ends, (list, tuple)) else [ends]) if token is not None}


def text_before_end(tokenizer: Any, tokens: Sequence[int], ends: Collection[int]) -> str:
    """Return the text of tokens up to the first end token, without special tokens."""
    kept = itertools.takewhile(lambda token: token not in ends, tokens)
    return str(tokenizer.decode(list(kept), skip_special_tokens=True))


class StopEachRow(StoppingCriteria):
    """A stopping criterion that decides for each row of a batch.

    A row stops at its limit, at an end token, or when its text is complete.

    Args:
        tokenizer: the model's tokenizer.
        begin: the column at which the new tokens begin.
        batch: the prompt's index of each row.
        limits: the largest number of new tokens of each prompt.
        ends: the tokens that end a text.
        is_complete: ``is_complete(index, text)`` returns whether the text for the prompt of this index is complete.

    Attributes:
        lengths: for each row that has stopped, its number of new tokens.
    """

    def __init__(
        self,
        tokenizer: Any,
        begin: int,
        batch: Sequence[int],
        limits: Sequence[int],
        ends: set[int],
        is_complete: Callable[[int, str], bool],
    ) -> None:
        self.tokenizer, self.begin, self.batch = tokenizer, begin, batch
        self.limits, self.ends, self.is_complete = limits, ends, is_complete
        self.lengths: dict[int, int] = {}

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Return whether each row has stopped, shape ``(rows,)``; ``input_ids`` have shape ``(rows, tokens)``."""
        outputs = input_ids[:, self.begin :].tolist()
        for row, tokens in enumerate(outputs):
            if row not in self.lengths and self.row_has_ended(row, tokens):
                self.lengths[row] = len(tokens)
        stopped = [row in self.lengths for row in range(len(self.batch))]
        return torch.tensor(stopped, device=input_ids.device)

    def row_has_ended(self, row: int, tokens: list[int]) -> bool:
        """Return whether the text of a row ends after these new tokens."""
        index = self.batch[row]
        return (
            len(tokens) >= self.limits[index]
            or tokens[-1] in self.ends
            or self.is_complete(index, self.tokenizer.decode(tokens, skip_special_tokens=True))
        )
