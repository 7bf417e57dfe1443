"""Divide a collection into blocks of token rows.

A collection is a fixed sequence of blocks, and it can start at any of them. Sums are saved only after complete blocks.
So a resumed collection adds the same numbers in the same order as one that wasn't interrupted. Of N processes, each
takes every N-th block.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from easyedit_lifelong.errors import CovarianceError

BLOCK_TOKENS = 8192
_TOKENIZER_BATCH = 32
"""How many documents are tokenized in one call."""


@dataclass(frozen=True)
class Amount:
    """How much text to read: a number of tokens, or a number of documents (MEMIT's samples).

    Raises:
        CovarianceError: none or both are given, or the number isn't greater than 0.
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
        """The number of tokens, or of documents."""
        return self.tokens if self.tokens is not None else self.samples or 0

    def of(self, position: Position) -> int:
        """Return how many tokens, or documents, a collection has read at a position."""
        return position.tokens if self.samples is None else position.documents


@dataclass(frozen=True)
class Position:
    """A position in a collection.

    Attributes:
        block: number of blocks before it.
        documents: number of documents before it, in the collection's order.
        tokens: number of tokens before it.
    """

    block: int = 0
    documents: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Block:
    """A block of token rows.

    Attributes:
        rows: computes and returns the token rows.
        after: the position at the end of the block.
    """

    rows: Callable[[], list[list[int]]]
    after: Position


class Plan(Protocol):
    """A sequence of blocks."""

    amount: Amount

    def blocks(self, start: Position) -> Iterator[Block]:
        """Yield the blocks from a position on."""
        ...


class TextPlan:
    """Reads documents of a corpus in random order, each once.

    An amount in samples follows MEMIT's protocol: that many documents are read, each truncated to the context length.
    With seed 0, they are the documents that EasyEdit selects. An amount in tokens is read exactly: documents longer
    than the context continue in the next row, and every row starts with the special tokens that begin a text.

    Args:
        documents: the texts.
        tokenizer: tokenizer of the model.
        amount: how much to read.
        context: maximum length of a row, in tokens.
        seed: seed of the order.
        block_tokens: a block ends with the document at which it has this many tokens.
    """

    def __init__(
        self, documents: Sequence[str], tokenizer: Any, amount: Amount, context: int, seed: int, block_tokens: int
    ) -> None:
        self.documents, self.tokenizer, self.amount = documents, tokenizer, amount
        self.context, self.block_tokens = context, block_tokens
        self._order = list(range(len(documents)))
        random.Random(1 + seed).shuffle(self._order)  # seed 0 gives the order of MEMIT and EasyEdit, which use 1
        if amount.samples is not None:
            del self._order[amount.samples :]
        self._prefix = text_prefix(tokenizer)
        if len(self._prefix) >= context:
            raise CovarianceError(f"context: {context} tokens leave no room for text. Give a larger number.")

    def blocks(self, start: Position) -> Iterator[Block]:
        """Yield the blocks from a position on."""
        rows: list[list[int]] = []
        begin = end = start
        for document in self._tokenize(start.documents):
            document_rows = self._split_document(document)
            if self.amount.tokens is not None:
                if end.tokens >= self.amount.tokens:
                    break
                document_rows = _take_tokens(document_rows, self.amount.tokens - end.tokens)
            rows += document_rows
            end = Position(end.block, end.documents + 1, end.tokens + sum(map(len, document_rows)))
            if end.tokens - begin.tokens >= self.block_tokens:
                begin = end = replace(end, block=end.block + 1)
                yield _block(rows, end)
                rows = []
        if end != begin:
            yield _block(rows, replace(end, block=end.block + 1))

    def _tokenize(self, first: int) -> Iterator[list[int]]:
        """Yield the token ids of the documents from an index on."""
        truncation = {"truncation": True, "max_length": self.context} if self.amount.samples is not None else {}
        for index in range(first, len(self._order), _TOKENIZER_BATCH):
            texts = [self.documents[i] for i in self._order[index : index + _TOKENIZER_BATCH]]
            for ids in self.tokenizer(texts, verbose=False, **truncation)["input_ids"]:
                yield list(ids)

    def _split_document(self, ids: list[int]) -> list[list[int]]:
        """Return a document in rows of at most the context length; no row for an empty document."""
        if len(ids) <= self.context:
            return [ids] if len(ids) > len(self._prefix) else []
        body = ids[len(self._prefix) :] if ids[: len(self._prefix)] == self._prefix else ids
        width = self.context - len(self._prefix)
        return [self._prefix + body[i : i + width] for i in range(0, len(body), width)]


def text_prefix(tokenizer: Any) -> list[int]:
    """Return the special tokens with which every encoded text begins."""
    empty = list(tokenizer("", verbose=False)["input_ids"])
    return [token for token in empty if token != tokenizer.eos_token_id or token == tokenizer.bos_token_id]


def _take_tokens(rows: list[list[int]], budget: int) -> list[list[int]]:
    """Return rows with the first ``budget`` tokens of the given ones."""
    starts = itertools.accumulate(map(len, rows), initial=0)
    return [row[: budget - start] for row, start in zip(rows, starts, strict=False) if start < budget]


def _block(rows: list[list[int]], after: Position) -> Block:
    """Return a block of rows that are computed already."""
    return Block(lambda: rows, after)
