"""Free answers to edited prompts as tables print them: an edit is trained up to its target's end, and no further."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console

from easyedit_lifelong.evaluation.answer_matching import starts_with_whole_answer
from easyedit_lifelong.reporting.console_tables import answer_table

_CONTINUES = "…"


def answer_text(text: str, target: str) -> str:
    """Return a generated text up to the end of the target that it begins with, and an ellipsis if it continues.

    What follows depends on text that no edit has trained, and often repeats the target ("Best Best Best").

    Args:
        text: the generated text.
        target: the target. A text that does not begin with all of it, as whole words, is returned unchanged.
    """
    if not starts_with_whole_answer(text, target):
        return text
    end = len(text) - len(text.lstrip()) + len(target.strip())
    return f"{text[:end]} {_CONTINUES}" if text[end:].strip() else text[:end]


def edited_answers_table(console: Console, rows: Iterable[Sequence[str]], title: str) -> None:
    """Print prompts, their expected answers, and the model's free answers before and after edits.

    Args:
        console: the console.
        rows: for each prompt: the prompt, what the second column has, the answer before and after.
        title: the title, without its colon.
    """
    shown = [tuple(row) for row in rows]
    if any(cell.endswith(f" {_CONTINUES}") for *_, before, after in shown for cell in (before, after)):
        title += f"; {_CONTINUES}: the model writes more after the target"
    answer_table(console, shown, ("prompt", "edited to", "before", "after"), f"{title}:")
