"""Generate answers that join the running ones when they arrive, and leave when they end (continuous batching).

Prompts that arrive together are read in one pass. Their keys and values then join those of the running answers, and
each step reads one more token of all of them. In every pass, each row has the edits of its own version.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.models.devices import input_device
from easyedit_lifelong.models.edits_by_row import edits_of_texts
from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.model_modes import evaluating
from easyedit_lifelong.models.row_cache import RowCache, read_prompts
from easyedit_lifelong.models.windows import Generation
from easyedit_lifelong.serving.generation import Continuation, Row

_MOST_TOKENS = 2048
"""The largest number of tokens of a pass that reads several prompts, padding included."""


@dataclass
class _Text:
    """A prompt and the answer that continues it.

    Attributes:
        continuation: chooses the tokens of the answer.
        model: the model of its version.
        generation: what the edits decided about the prompt; None until the prompt is read.
        token: the latest token, which no pass has read.
    """

    continuation: Continuation
    model: Any
    generation: Generation | None = None
    token: int = -1


class ContinuousBatch:
    """The answers that are generated now.

    Args:
        base: the model that runs the steps. The models of all versions share its weights.
        model_of: returns the model of a version, to which edits of this package are attached; or ``base``.
        tokenizer: the tokenizer.
        max_rows: how many answers can be generated at the same time. Others wait for these to end.
    """

    def __init__(self, base: Any, model_of: Callable[[int], Any], tokenizer: Any, max_rows: int) -> None:
        self._base, self._model_of, self._tokenizer, self._max_rows = base, model_of, tokenizer, max_rows
        self._waiting: deque[_Text] = deque()
        self._running: list[_Text] = []
        self._cache = RowCache()
        self._edits = contextlib.ExitStack()
        self._attached = False

    def has_room(self, rows: Sequence[Row]) -> bool:
        """Return whether these answers can be generated together with the present ones."""
        return len(self._waiting) + len(self._running) + len(rows) <= self._max_rows

    def add(self, row: Row, version: int) -> None:
        """Add an answer. Its prompt is read in the next step in which there is room.

        Raises:
            RunError: the version can't be loaded.
        """
        model = self._model_of(version)
        self._waiting.append(_Text(Continuation(row, model, self._tokenizer), model))

    @torch.no_grad()
    def step(self) -> int:
        """Read prompts that wait, if there is room for them; else one token of each running answer.

        Returns:
            The number of answers that got a token.
        """
        with evaluating(self._base):
            texts = self._next_texts()
            if texts:
                self._read_prompts(texts)
                return len(texts)
            running = len(self._running)
            if running:
                self._continue_texts()
            return running

    def close(self) -> None:
        """Forget all answers, and remove all edits from ``base``."""
        self._detach_edits()
        self._waiting.clear()
        self._running.clear()
        self._cache.keep_rows([])

    def _next_texts(self) -> list[_Text]:
        """Remove from those that wait the texts whose prompts the next pass reads.

        They are read together as long as no more than half of the pass is padding.
        """
        texts: list[_Text] = []
        width = tokens = 0
        while self._waiting and len(self._running) + len(texts) < self._max_rows:
            length = len(self._waiting[0].continuation.row.prompt)
            width, tokens = max(width, length), tokens + length
            padded = width * (len(texts) + 1)
            if texts and (padded > 2 * tokens or padded > _MOST_TOKENS):
                break
            texts.append(self._waiting.popleft())
        return texts

    def _read_prompts(self, texts: Sequence[_Text]) -> None:
        """Read the prompts of texts, and choose their first tokens."""
        self._detach_edits()
        prompts = [text.continuation.row.prompt for text in texts]
        ids, mask = pad_rows(prompts, self._tokenizer.pad_token_id or 0, "left", input_device(self._base))
        for number, text in enumerate(texts):
            text.generation = Generation(mask[number : number + 1].bool(), ids[number : number + 1])
        with self._edits_of(texts):
            logits, cache = read_prompts(self._base, ids, mask)
        first = len(self._running)
        self._running += texts
        self._cache.add_rows(cache, [len(prompt) for prompt in prompts])
        self._add_tokens(first, logits)

    def _continue_texts(self) -> None:
        """Read the latest token of each running text, and choose the next ones."""
        if not self._attached:  # until the set of running texts changes
            self._edits.enter_context(self._edits_of(self._running))
            self._attached = True
        tokens = torch.tensor([text.token for text in self._running], device=input_device(self._base))
        self._add_tokens(0, self._base(**self._cache.next_pass(tokens)).logits[:, -1])

    def _add_tokens(self, first: int, logits: Tensor) -> None:
        """Choose the next tokens of the running texts, and remove the texts that end.

        Args:
            first: the number of the first of these texts; those before it get no token.
            logits: shape ``(texts, vocabulary)``.
        """
        for text, row_logits, best in zip(self._running[first:], logits, logits.argmax(dim=-1).tolist(), strict=True):
            text.token = text.continuation.choose(row_logits, best)
            text.continuation.add(text.token)
        kept = [number for number, text in enumerate(self._running) if text.continuation.row.finish_reason is None]
        if len(kept) < len(self._running):
            self._detach_edits()
            self._cache.keep_rows(kept)
            self._running = [self._running[number] for number in kept]

    def _edits_of(self, texts: Sequence[_Text]) -> contextlib.AbstractContextManager[None]:
        """Return a context in which each row of a pass has the edits of its text's version."""
        generations = [text.generation for text in texts if text.generation is not None]
        return edits_of_texts(self._base, [text.model for text in texts], generations)

    def _detach_edits(self) -> None:
        """Remove the edits of the running texts from ``base``."""
        self._edits.close()
        self._attached = False
