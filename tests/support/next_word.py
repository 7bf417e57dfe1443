"""The next word that a tiny model generates."""

from __future__ import annotations

from typing import Any

from tests.support.tiny_models import build_tokenizer


def next_word(model: Any, prompt: str, **options: Any) -> str:
    """Return the word that a model generates greedily after a prompt, with further options of ``generate``."""
    tokenizer = build_tokenizer()
    inputs = tokenizer(prompt, return_tensors="pt")
    answer = model.generate(**inputs, max_new_tokens=1, do_sample=False, **options)
    return tokenizer.decode(answer[0, -1:])
