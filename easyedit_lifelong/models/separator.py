"""Decide what separates a prompt from its answer."""

from __future__ import annotations

import re
import unicodedata

_OPENING = frozenset("([{<\u00ab\u2039\u201c\u2018\u201e\u201a\u00bf\u00a1/@#$\u20ac\u00a3\u00a5")
"""Characters after which an answer follows without a space."""

_CLOSING = frozenset(")]}>\u00bb\u203a.,;:!?%\u2026\u2019\u201d")
"""Characters that follow a word without a space."""

_WITHOUT_SPACES = (
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "IDEOGRAPHIC",
    "FULLWIDTH",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
    "TIBETAN",
)
"""The first words of the Unicode names of characters of scripts that do not separate words by spaces."""


def separator(prompt: str, answer: str, joiner: str | None = None) -> str:
    """Return what separates an answer from its prompt when both are read as one text.

    Without a joiner, this is a space or nothing. There is no space if the prompt ends, or the answer begins, with
    whitespace; after an opening quote or bracket, or after a hyphen; before closing punctuation or an ending such as
    ``'s``; between digits (``The year was 20`` → ``24``); and beside a character of a script that does not separate
    words by spaces, such as Chinese or Thai.

    Args:
        prompt: the text before the answer.
        answer: the answer.
        joiner: the text that the caller wants between them; None to decide by the texts.
    """
    if joiner is not None:
        return joiner
    if not prompt or not answer:
        return ""
    before, after = prompt[-1], answer[0]
    if before.isspace() or after.isspace():
        return ""
    if before in _OPENING or _opens_quotation(prompt) or _continues_word(answer):
        return ""
    if (before.isdigit() and after.isdigit()) or re.search(r"\w-$", prompt):
        return ""
    return "" if _has_no_spaces(before) or _has_no_spaces(after) else " "


def _opens_quotation(prompt: str) -> bool:
    """Return whether a prompt ends with a straight quotation mark that opens a quotation."""
    mark = prompt[-1]
    if mark not in "\"'":
        return False
    follows_space = len(prompt) == 1 or prompt[-2].isspace() or prompt[-2] in _OPENING
    return follows_space and (mark == "'" or prompt.count(mark) % 2 == 1)


def _continues_word(answer: str) -> bool:
    """Return whether an answer begins with punctuation, or with an ending, that belongs to the word before it."""
    if re.match(r"'(s|t|d|m|re|ve|ll)\b", answer):
        return True
    return answer[0] in _CLOSING and not re.match(r"[.,]\d", answer)


def _has_no_spaces(character: str) -> bool:
    """Return whether a character belongs to a script that does not separate words by spaces."""
    return unicodedata.name(character, "").startswith(_WITHOUT_SPACES)
