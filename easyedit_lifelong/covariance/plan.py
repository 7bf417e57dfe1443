"""Which tokens are read in which order: blocks of token rows that any process can start from anywhere.

A collection is a fixed sequence of blocks. Sums are kept after whole blocks only, so a collection
that goes on after a kill adds up the same numbers in the same order as one that was never killed; and
processes share a collection by taking every N-th block.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from easyedit_lifelong.errors import CovarianceError

BLOCK_TOKENS = 8192
_AT_ONCE = 32


@dataclass(frozen=True)
class Amount:
    """How much to read: a number of tokens, or MEMIT's number of documents.

    Raises:
        CovarianceError: neither or both are given, or it isn't greater than 0.
    """

    tokens: int | None = None
    samples: int | None = None

    def __post_init__(self) -> None:
        if (self.tokens is None) == (self.samples is None):
            raise CovarianceError("give either a number of tokens or a number of samples")
        if self.total < 1:
            raise CovarianceError(f"{'tokens' if self.samples is None else 'samples'}: must be greater than 0")

    @property
    def total(self) -> int:
        """The number, of whichever it is."""
        return self.tokens if self.tokens is not None else self.samples or 0

    def of(self, position: Position) -> int:
        """How much of it a collection has read at a position."""
        return position.tokens if self.samples is None else position.documents


@dataclass(frozen=True)
class Position:
    """How far a collection is.

    Attributes:
        block: blocks behind it.
        documents: documents behind it, in the collection's order.
        tokens: tokens behind it.
    """

    block: int = 0
    documents: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Block:
    """One block.

    Attributes:
        rows: makes its token rows.
        after: the position behind it.
    """

    rows: Callable[[], list[list[int]]]
    after: Position


class Plan(Protocol):
    """A sequence of blocks."""

    amount: Amount

    def blocks(self, start: Position) -> Iterator[Block]:
        """Give the blocks from a position on."""
        ...


class TextPlan:
    """Documents of a corpus, in random order without repeats.

    A number of samples is MEMIT's protocol: that many documents, those that EasyEdit takes if the seed
    is 0, each cut off at the context length. A number of tokens is met exactly; longer documents
    go on in further rows, each with the special tokens that begin a text.

    Args:
        documents: the texts.
        tokenizer: their tokenizer.
        amount: how much of them.
        context: longest row, in tokens.
        seed: of the order.
        block_tokens: a block ends with the document that reaches this.
    """

    def __init__(
        self, documents: Sequence[str], tokenizer: Any, amount: Amount, context: int, seed: int, block_tokens: int
    ) -> None:
        self.documents, self.tokenizer, self.amount = documents, tokenizer, amount
        self.context, self.block_tokens = context, block_tokens
        self._order = list(range(len(documents)))
        random.Random(1 + seed).shuffle(self._order)  # MEMIT's and EasyEdit's order is that of seed 1
        if amount.samples is not None:
            del self._order[amount.samples :]
        self._prefix = text_prefix(tokenizer)
        if len(self._prefix) >= context:
            raise CovarianceError(f"context: {context} tokens leave no room for text")

    def blocks(self, start: Position) -> Iterator[Block]:
        """Give the blocks from a position on."""
        rows: list[list[int]] = []
        begin = end = start
        for document in self._tokenised(start.documents):
            windows = self._windows(document)
            if self.amount.tokens is not None:
                if end.tokens >= self.amount.tokens:
                    break
                windows = _trim(windows, self.amount.tokens - end.tokens)
            rows += windows
            end = Position(end.block, end.documents + 1, end.tokens + sum(map(len, windows)))
            if end.tokens - begin.tokens >= self.block_tokens:
                begin = end = replace(end, block=end.block + 1)
                yield _block(rows, end)
                rows = []
        if end != begin:
            yield _block(rows, replace(end, block=end.block + 1))

    def _tokenised(self, first: int) -> Iterator[list[int]]:
        cut = {"truncation": True, "max_length": self.context} if self.amount.samples is not None else {}
        for index in range(first, len(self._order), _AT_ONCE):
            texts = [self.documents[i] for i in self._order[index : index + _AT_ONCE]]
            for ids in self.tokenizer(texts, verbose=False, **cut)["input_ids"]:
                yield list(ids)

    def _windows(self, ids: list[int]) -> list[list[int]]:
        if len(ids) <= self.context:
            return [ids] if len(ids) > len(self._prefix) else []
        body = ids[len(self._prefix) :] if ids[: len(self._prefix)] == self._prefix else ids
        width = self.context - len(self._prefix)
        return [self._prefix + body[i : i + width] for i in range(0, len(body), width)]


def text_prefix(tokenizer: Any) -> list[int]:
    """Return the tokens that begin every encoded text."""
    empty = list(tokenizer("", verbose=False)["input_ids"])
    return [token for token in empty if token != tokenizer.eos_token_id or token == tokenizer.bos_token_id]


def _trim(rows: list[list[int]], budget: int) -> list[list[int]]:
    """Return the rows' first ``budget`` tokens, in rows."""
    ends = itertools.accumulate(map(len, rows), initial=0)
    return [row[: budget - end] for row, end in zip(rows, ends, strict=False) if end < budget]


def _block(rows: list[list[int]], after: Position) -> Block:
    return Block(lambda: rows, after)
