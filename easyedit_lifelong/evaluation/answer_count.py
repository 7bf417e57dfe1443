"""How many of a model's answers are computed, for displays: scoring thousands of answers takes minutes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass

Listener = Callable[[int, int], None]
"""Receives how many answers of a request for answers are computed, and how many it asks for."""

_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextlib.contextmanager
def counted_by(listener: Listener | None) -> Iterator[None]:
    """Tell a listener, within a context, how many answers scorers of this thread have computed.

    Args:
        listener: receives the numbers after each batch of answers; None for nobody.
    """
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


@dataclass
class AnswerCount:
    """Counts the answers of one request for answers, and tells the listener.

    Args:
        total: how many answers are asked for.
        done: how many are computed.
    """

    total: int
    done: int = 0

    def add(self, answers: int) -> None:
        """Count further answers."""
        self.done += answers
        listener = _LISTENER.get()
        if listener is not None:
            listener(self.done, self.total)
