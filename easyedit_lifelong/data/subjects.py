"""Where a subject stands in a text."""

from __future__ import annotations

import re

Span = tuple[int, int]


def find_subject(text: str, subject: str) -> Span | None:
    """Return where a subject stands in a text, the last time if there are several; None if it doesn't."""
    found = [match.span() for match in re.finditer(re.escape(subject), text)]
    whole = [span for span in found if _is_whole(text, span)]
    return (whole or found)[-1] if found else None


def _is_whole(text: str, span: Span) -> bool:
    before, after = text[: span[0]][-1:], text[span[1] :][:1]
    return not (before.isalnum() and text[span[0]].isalnum()) and not (after.isalnum() and text[span[1] - 1].isalnum())
