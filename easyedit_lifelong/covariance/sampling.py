"""Sample text from the model itself, for machines without a corpus.

A model generates text similar to its training text, so the keys of sampled text resemble those of training text. They
aren't the same; the files say that their text is self-sampled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.covariance.blocks import Amount, Block, Position, text_prefix
from easyedit_lifelong.covariance.sampled_texts import SampledTexts
from easyedit_lifelong.errors import CovarianceError

ROW_TOKENS = 128
ROWS = 64


class SampledPlan:
    """Samples rows from a model, at temperature 1 from its full distribution.

    A row consists of the special tokens that begin an encoded text, a random word of the vocabulary (so that rows
    differ), and tokens sampled from the model up to a fixed length. Special tokens are never sampled, because they
    would end the text. Every block has its own random generator, seeded with the seed and the block's index.

    Args:
        model: causal language model; it must be in evaluation mode when rows are sampled.
        tokenizer: its tokenizer.
        amount: how much to sample; an amount in documents is a number of rows.
        context: maximum length of a row, in tokens. Rows have at most :data:`ROW_TOKENS` tokens.
        seed: seed of the sampling.
        stored: rows that were sampled before; new ones are added to them. None: every row is sampled.

    Attributes:
        length: length of a row, in tokens.
        tokens: total number of tokens.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        amount: Amount,
        context: int,
        seed: int,
        stored: SampledTexts | None = None,
    ) -> None:
        self.model, self.amount, self.seed, self._stored = model, amount, seed, stored
        self.length = min(ROW_TOKENS, context)
        self._prefix = text_prefix(tokenizer)
        if len(self._prefix) + 2 > self.length:
            raise CovarianceError(f"context: {context} tokens leave no room for text. Give a larger number.")
        self._special = torch.tensor(sorted(set(tokenizer.all_special_ids)), dtype=torch.long)
        self._word_ids = _word_ids(tokenizer)
        self.tokens = amount.tokens if amount.tokens is not None else amount.total * self.length

    def blocks(self, start: Position) -> Iterator[Block]:
        """Yield the blocks from a position on. Rows are sampled, or read, when ``Block.rows`` is called."""
        position = start
        while position.tokens < self.tokens:
            tokens = min(self.tokens - position.tokens, ROWS * self.length)
            rows, block = -(-tokens // self.length), position.block
            position = Position(block + 1, position.documents + rows, position.tokens + tokens)
            yield Block(partial(self._block_rows, block, rows, tokens), position)

    def _block_rows(self, block: int, rows: int, tokens: int) -> list[list[int]]:
        """Return the rows of a block; the last one is cut so that the block has ``tokens`` tokens."""
        sample = partial(self.sample, block, rows)
        ids = sample() if self._stored is None else self._stored.block(block, rows, self.length, sample)
        *sampled, last = ids.tolist()
        return [*sampled, last[: tokens - len(sampled) * self.length]]

    @torch.no_grad()
    def sample(self, block: int, rows: int) -> Tensor:
        """Sample the rows of a block.

        Returns:
            Token ids, shape ``(rows, length)``.

        Raises:
            CovarianceError: the model doesn't support a key-value cache.
        """
        device = self.model.get_input_embeddings().weight.device
        seed = int.from_bytes(hashlib.sha256(f"{self.seed}:{block}".encode()).digest()[:8], "big") >> 1
        # Draw on the CPU, so that the draws don't depend on the model's device.
        generator = torch.Generator().manual_seed(seed)
        starts = self._word_ids[torch.randint(len(self._word_ids), (rows, 1), generator=generator)]
        ids = torch.cat([torch.tensor([self._prefix] * rows, dtype=torch.long).view(rows, -1), starts], dim=1)
        pieces, cache = [ids.to(device)], None
        for _ in range(self.length - ids.shape[1]):
            output = self.model(input_ids=pieces[-1], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            if cache is None:
                raise CovarianceError(
                    f"{type(self.model).__name__} has no key-value cache to sample with. Give a file as the corpus."
                )
            logits = output.logits[:, -1].float()
            logits[:, self._special.to(logits.device)] = -torch.inf
            draws = torch.rand(rows, 1, generator=generator).to(logits.device)
            pieces.append(_draw(logits, draws).to(device))
        return torch.cat(pieces, dim=1).cpu()


def _draw(logits: Tensor, draws: Tensor) -> Tensor:
    """Sample one token per row by inverse transform sampling: find the draw in the cumulative distribution.

    ``torch.multinomial`` would draw a number for every token of the vocabulary.

    Args:
        logits: shape ``(rows, vocabulary)``; -inf for excluded tokens.
        draws: uniform in [0, 1), shape ``(rows, 1)``.

    Returns:
        Token ids, shape ``(rows, 1)``.
    """
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    total = cumulative[:, -1:]
    # right=True finds the first sum above the draw. A token of probability 0 doesn't increase the sum: it is never
    # found.
    below_total = torch.nextafter(total, torch.zeros_like(total))
    return torch.searchsorted(cumulative, torch.minimum(draws * total, below_total), right=True)


def _word_ids(tokenizer: Any) -> Tensor:
    """Return the ids of tokens that can begin a word: two letters or more, with or without a space before them."""
    special = set(tokenizer.all_special_ids)
    ids = [i for i in range(len(tokenizer)) if i not in special]
    texts = tokenizer.batch_decode([[i] for i in ids])
    words = [i for i, text in zip(ids, texts, strict=True) if len(text.strip()) > 1 and text.strip().isalpha()]
    if not words:
        raise CovarianceError("the tokenizer has no words to begin a sampled text with. Give a file as the corpus.")
    return torch.tensor(words, dtype=torch.long)
