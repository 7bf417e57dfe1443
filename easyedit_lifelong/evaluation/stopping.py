"""Greedy generation in batches: end each row by its own text, without a checkpoint's generation settings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria


class StopEachRow(StoppingCriteria):
    """Ends each row of a batch by its own text.

    Args:
        tokenizer: the model's.
        begin: column of the batch at which the new text begins.
        batch: the prompt's index of each row.
        limits: by prompt, how many tokens are added at most.
        ends: tokens that end a text.
        ended: whether the prompt of this index needs no more than this text.

    Attributes:
        lengths: by row that has ended, how many tokens were added until then.
    """

    def __init__(
        self,
        tokenizer: Any,
        begin: int,
        batch: Sequence[int],
        limits: Sequence[int],
        ends: set[int],
        ended: Callable[[int, str], bool],
    ) -> None:
        self.tokenizer, self.begin, self.batch = tokenizer, begin, batch
        self.limits, self.ends, self.ended = limits, ends, ended
        self.lengths: dict[int, int] = {}

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Return which rows have ended, shape ``(rows,)``."""
        outputs = input_ids[:, self.begin :].tolist()
        for row, (index, tokens) in enumerate(zip(self.batch, outputs, strict=True)):
            if row not in self.lengths and (
                len(tokens) >= self.limits[index]
                or tokens[-1] in self.ends
                or self.ended(index, self.tokenizer.decode(tokens, skip_special_tokens=True))
            ):
                self.lengths[row] = len(tokens)
        done = [row in self.lengths for row in range(len(self.batch))]
        return torch.tensor(done, device=input_ids.device)


@contextlib.contextmanager
def bare_generation_config(model: Any) -> Iterator[None]:
    """Set the model's own generation settings aside inside.

    A checkpoint's repetition penalty, beams or suppressed tokens would supply whatever the
    configuration given to ``generate`` leaves open, and greedy text would not be greedy.
    """
    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before
