"""Generate answers that join the running ones when they arrive, and leave when they end (continuous batching).

A prefill reads the prompts that wait, in one pass. Their keys and values then join those of the running answers. A
decoding pass reads one more token of all of these. In every pass, each row has the edits of its
version.
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
from easyedit_lifelong.models.linear import FewTokenLinears
from easyedit_lifelong.models.row_cache import RowCache, prefill
from easyedit_lifelong.models.windows import Generation
from easyedit_lifelong.serving.generation import Continuation, Row

_MAX_PREFILL_TOKENS = 2048
"""The largest number of tokens of a prefill of several prompts, padding included."""

_MAX_PREFILLS = 2
"""How many prefills may follow each other while answers run. A burst takes two: its first request, then the others."""


@dataclass
class _Answer:
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
        base: the model that runs the steps, in evaluation mode. The models of all versions share its weights.
        model_of: returns the model of a version, to which edits of this package are attached; or ``base``.
        tokenizer: the tokenizer.
        max_rows: how many answers can be generated at the same time. Others wait for these to end.
    """

    def __init__(self, base: Any, model_of: Callable[[int], Any], tokenizer: Any, max_rows: int) -> None:
        self._base, self._model_of, self._tokenizer, self._max_rows = base, model_of, tokenizer, max_rows
        self._waiting: deque[_Answer] = deque()
        self._running: list[_Answer] = []
        self._cache = RowCache()
        self._linears = FewTokenLinears.for_generation(base)
        self._edits = contextlib.ExitStack()
        self._attached = False
        self._prefills = 0  # since the last decoding pass

    def has_room(self, rows: Sequence[Row]) -> bool:
        """Return whether these answers fit the batch, beside the present ones."""
        return len(self._waiting) + len(self._running) + len(rows) <= self._max_rows

    def models(self) -> list[Any]:
        """Return the model of each answer that has not ended. Their edits must not change."""
        return [answer.model for answer in (*self._waiting, *self._running)]

    def add(self, row: Row, version: int) -> None:
        """Add an answer. Its prompt is read in the next step in which there is room.

        Raises:
            RunError: the version can't be loaded.
        """
        self.detach_edits()  # the model of an earlier version is a copy of base
        model = self._model_of(version)
        self._waiting.append(_Answer(Continuation(row, model, self._tokenizer), model))

    @torch.no_grad()
    def step(self) -> int:
        """Run one pass: a prefill if prompts wait and there is room for them, else a decoding pass.

        Returns:
            The number of answers that got a token.
        """
        may_prefill = self._prefills < _MAX_PREFILLS or not self._running
        answers = self._next_answers() if may_prefill else []
        if answers:
            self._prefills += 1
            self._prefill(answers)
            return len(answers)
        self._prefills = 0
        running = len(self._running)
        if running:
            self._decode()
        return running

    def close(self) -> None:
        """Forget all answers, and remove all edits from ``base``."""
        self.detach_edits()
        self._waiting.clear()
        self._running.clear()
        self._cache.keep_rows([])

    def _next_answers(self) -> list[_Answer]:
        """Remove from those that wait the answers whose prompts the next pass reads.

        One pass reads several as long as no more than half of the pass is padding.
        """
        answers: list[_Answer] = []
        width = tokens = 0
        while self._waiting and len(self._running) + len(answers) < self._max_rows:
            row = self._waiting[0].continuation.row
            if row.cancelled:
                row.finish_reason = "cancelled"
                self._waiting.popleft()
                continue
            length = len(row.prompt)
            width, tokens = max(width, length), tokens + length
            padded = width * (len(answers) + 1)
            if answers and (padded > 2 * tokens or padded > _MAX_PREFILL_TOKENS):
                break
            answers.append(self._waiting.popleft())
        return answers

    def _prefill(self, answers: Sequence[_Answer]) -> None:
        """Read the prompts of answers, and choose their first tokens."""
        self.detach_edits()
        prompts = [answer.continuation.row.prompt for answer in answers]
        ids, mask = pad_rows(prompts, self._tokenizer.pad_token_id or 0, "left", input_device(self._base))
        for number, answer in enumerate(answers):
            answer.generation = Generation(mask[number : number + 1].bool(), ids[number : number + 1])
        with self._edits_of(answers), self._linears.active():
            logits, cache = prefill(self._base, ids, mask)
        first = len(self._running)
        self._running += answers
        self._cache.add_rows(cache, [len(prompt) for prompt in prompts])
        self._add_tokens(first, logits[:, -1])

    def _decode(self) -> None:
        """Read the latest token of each running answer, and choose the next ones."""
        if not self._attached:  # until the set of running answers changes
            self._edits.enter_context(self._edits_of(self._running))
            self._attached = True
        tokens = torch.tensor([answer.token for answer in self._running], device=input_device(self._base))
        with self._linears.active():
            logits = self._base(**self._cache.next_pass(tokens)).logits[:, -1]
        self._add_tokens(0, logits)

    def _add_tokens(self, first: int, logits: Tensor) -> None:
        """Choose the next tokens of the running answers, and remove the answers that end.

        Args:
            first: the number of the first of these answers; those before it get no token.
            logits: shape ``(answers, vocabulary)``.
        """
        for answer, row_logits, best in zip(self._running[first:], logits, logits.argmax(dim=-1).tolist(), strict=True):
            answer.token = answer.continuation.choose(row_logits, best)
            answer.continuation.add(answer.token)
        kept = [number for number, answer in enumerate(self._running) if answer.continuation.row.finish_reason is None]
        if len(kept) < len(self._running):
            self.detach_edits()
            self._cache.keep_rows(kept)
            self._running = [self._running[number] for number in kept]

    def _edits_of(self, answers: Sequence[_Answer]) -> contextlib.AbstractContextManager[None]:
        """Return a context in which each row of a pass has the edits of its answer's version."""
        generations = [answer.generation for answer in answers if answer.generation is not None]
        return edits_of_texts(self._base, [answer.model for answer in answers], generations)

    def detach_edits(self) -> None:
        """Remove the edits of the running answers from ``base`` until the next step."""
        self._edits.close()
        self._attached = False
