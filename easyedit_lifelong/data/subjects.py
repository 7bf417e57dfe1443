"""Find a subject in a text."""

from __future__ import annotations

import re

Span = tuple[int, int]
"""Start and end of a part of a text, in characters."""


def find_subject(text: str, subject: str) -> Span | None:
    """Return the span of a subject in a text, or None if the text doesn't contain it.

    If the subject occurs more than once, the span is that of the last occurrence that consists of whole words; if none
    does, of the last occurrence.
    """
    spans = [match.span() for match in re.finditer(re.escape(subject), text)]
    of_whole_words = [span for span in spans if _is_whole_words(text, span)]
    return (of_whole_words or spans)[-1] if spans else None


def _is_whole_words(text: str, span: Span) -> bool:
    """Whether a span neither begins nor ends within a word."""
    before, after = text[: span[0]][-1:], text[span[1] :][:1]
    return not (before.isalnum() and text[span[0]].isalnum()) and not (after.isalnum() and text[span[1] - 1].isalnum())
