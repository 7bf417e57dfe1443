"""Text sampled from the model itself, for a machine that has no corpus.

It is what the model makes of its training text, so its keys lie where that text's keys lie; it is not that text,
and files of it say so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.covariance.plan import Amount, Block, Position, text_prefix
from easyedit_lifelong.errors import CovarianceError

ROW_TOKENS = 128
ROWS = 64


class SampledPlan:
    """Rows sampled from a model, at temperature 1 from its whole distribution.

    Every row begins as an encoded text does, then with a random word of the vocabulary (so that rows
    differ, whatever the model has to say to an empty text), and goes on for a fixed length: special
    tokens are never sampled, since they'd end it. Each block has its own generator, made of the
    seed and the block's number; the global one is left alone.

    Args:
        model: causal language model, in evaluation mode when rows are made.
        tokenizer: its tokenizer.
        amount: how much; a sample is one row.
        context: longest row, in tokens; rows are never longer than :data:`ROW_TOKENS`.
        seed: of the sampling.
    """

    def __init__(self, model: Any, tokenizer: Any, amount: Amount, context: int, seed: int) -> None:
        self.model, self.amount, self.seed = model, amount, seed
        self.length = min(ROW_TOKENS, context)
        self._prefix = text_prefix(tokenizer)
        if len(self._prefix) + 2 > self.length:
            raise CovarianceError(f"context: {context} tokens leave no room for text")
        self._special = torch.tensor(sorted(set(tokenizer.all_special_ids)), dtype=torch.long)
        self._words = _words(tokenizer)
        self.tokens = amount.tokens if amount.tokens is not None else amount.total * self.length

    def blocks(self, start: Position) -> Iterator[Block]:
        """Give the blocks from a position on; rows are sampled when they are asked for."""
        position = start
        while position.tokens < self.tokens:
            tokens = min(self.tokens - position.tokens, ROWS * self.length)
            rows, block = -(-tokens // self.length), position.block
            position = Position(block + 1, position.documents + rows, position.tokens + tokens)
            yield Block(partial(self._rows, block, rows, tokens), position)

    def _rows(self, block: int, rows: int, tokens: int) -> list[list[int]]:
        *sampled, last = self.sample(block, rows).tolist()
        return [*sampled, last[: tokens - len(sampled) * self.length]]

    @torch.no_grad()
    def sample(self, block: int, rows: int) -> Tensor:
        """Sample a block's rows: token ids of shape ``(rows, length)``."""
        device = self.model.get_input_embeddings().weight.device
        seed = int.from_bytes(hashlib.sha256(f"{self.seed}:{block}".encode()).digest()[:8], "big") >> 1
        # On the CPU, whatever the model is on: the same draws everywhere.
        generator = torch.Generator().manual_seed(seed)
        starts = self._words[torch.randint(len(self._words), (rows, 1), generator=generator)]
        ids = torch.cat([torch.tensor([self._prefix] * rows, dtype=torch.long).view(rows, -1), starts], dim=1)
        taken, cache = [ids.to(device)], None
        for _ in range(self.length - ids.shape[1]):
            output = self.model(input_ids=taken[-1], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            if cache is None:
                raise CovarianceError(f"{type(self.model).__name__} samples without a cache; give a file as the corpus")
            logits = output.logits[:, -1].float()
            logits[:, self._special.to(logits.device)] = -torch.inf
            draws = torch.rand(rows, 1, generator=generator).to(logits.device)
            taken.append(_draw(logits, draws).to(device))
        return torch.cat(taken, dim=1).cpu()


def _draw(logits: Tensor, draws: Tensor) -> Tensor:
    """Pick a token a row by inverting the distribution function; `multinomial` would draw a number per token.

    Args:
        logits: shape ``(rows, vocabulary)``; -inf for tokens that can't be.
        draws: uniform in [0, 1), shape ``(rows, 1)``.

    Returns:
        Token ids, shape ``(rows, 1)``.
    """
    upto = logits.softmax(dim=-1).cumsum(dim=-1)
    total = upto[:, -1:]
    # A token of probability 0 adds nothing, so the first sum *above* the draw is never at one.
    below = torch.nextafter(total, torch.zeros_like(total))
    return torch.searchsorted(upto, torch.minimum(draws * total, below), right=True)


def _words(tokenizer: Any) -> Tensor:
    """Return the ids of tokens that are words or their beginnings: letters alone, after a space if at all."""
    special = set(tokenizer.all_special_ids)
    ids = [i for i in range(len(tokenizer)) if i not in special]
    texts = tokenizer.batch_decode([[i] for i in ids])
    words = [i for i, text in zip(ids, texts, strict=True) if len(text.strip()) > 1 and text.strip().isalpha()]
    if not words:
        raise CovarianceError("the tokenizer has no words to begin a sampled text with; give a file as the corpus")
    return torch.tensor(words, dtype=torch.long)
