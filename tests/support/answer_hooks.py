"""Do something in the middle of an answer, on the thread that generates it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from easyedit_lifelong.serving.generation import Row, Sampling
from tests.support.tiny_models import build_tokenizer

TOKENIZER = build_tokenizer()


def row(prompt: str, **settings: Any) -> Row:
    """Return an answer to a prompt, greedy and of at most 40 tokens by default."""
    return Row(TOKENIZER(prompt)["input_ids"], Sampling(**{"max_tokens": 40, **settings}))


def at_token(answer: Row, count: int, action: Callable[[], object]) -> None:
    """Call a function once, as soon as an answer has this number of tokens."""

    def act(_: str) -> None:
        if len(answer.tokens) >= count:
            answer.on_text = None
            action()

    answer.on_text = act
