"""Free answers to edited prompts as tables print them: an edit is trained up to its target's end, and no further."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console

from easyedit_lifelong.evaluation.answer_matching import starts_with_whole_answer
from easyedit_lifelong.reporting.console_tables import answer_table

_CONTINUES = "…"
CONTINUES_NOTE = f"{_CONTINUES} means that the model writes more after the target"
"""What the end of a text that was cut means."""
NO_TEXT = "(no text)"
"""What stands for an answer that ends before it begins."""


def answer_text(text: str, target: str) -> str:
    """Return a generated text up to the end of the target that it begins with, and an ellipsis if it continues.

    What follows depends on text that no edit has trained, and often repeats the target ("Best Best Best").

    Args:
        text: the generated text.
        target: the target. A text that does not begin with all of it, as whole words, is returned unchanged, but
            :data:`NO_TEXT` for a blank one.
    """
    if not text.strip():
        return NO_TEXT
    if not starts_with_whole_answer(text, target):
        return text
    end = _end(text, target)
    return f"{text[:end]} {_CONTINUES}" if continues(text, target) else text[:end]


def continues(text: str, target: str) -> bool:
    """Return whether a generated text begins with all of a target, as whole words, and has other text after it."""
    return starts_with_whole_answer(text, target) and bool(text[_end(text, target) :].strip())


def _end(text: str, target: str) -> int:
    """Return the position of the target's end in a text that begins with it."""
    return len(text) - len(text.lstrip()) + len(target.strip())


def edited_answers_table(console: Console, rows: Iterable[tuple[str, str, str | None, str, str]], title: str) -> None:
    """Print prompts, their expected answers, and the model's free answers before and after edits, cut at targets.

    Args:
        console: the console.
        rows: for each prompt: the prompt, what the second column has, the target, the answer before and after. Answers
            are not cut where the target is None.
        title: the title, without its colon.
    """
    shown, is_cut = [], False
    for prompt, edited_to, target, *texts in rows:
        if target is not None:
            is_cut = is_cut or any(continues(text, target) for text in texts)
            texts = [answer_text(text, target) for text in texts]
        shown.append((prompt, edited_to, *texts))
    if is_cut:
        title += f"; {CONTINUES_NOTE}"
    answer_table(console, shown, ("prompt", "edited to", "before", "after"), f"{title}:")
