"""Tell subjects apart by their words, where activations don't: names that end alike have nearly the same key.

The key of a subject is an activation at its last token, in an early layer. So "Coulman Island" is found where "Odbert
Island" was edited. The words in front of the token tell them apart. They are compared from the end of the subject on,
word by word, without regard to case, spaces and punctuation. (Where a script has no case, it may have no spaces between
words either: there, the text names the subject if it ends with the subject's characters.)

- All words of the subject are there: the text names the subject. A key then matches in a wider radius.
- Before that, the text has another word in its place: the text names something else if that word is a name or a
  number, that is, if it begins with an upper-case letter (and is not the text's first word) or with a digit. Any other
  word ("of", "former") may stand before a shorter name of the subject, so it decides nothing. Nor does an inflected
  form of the subject's last word.
- The text ends before: it may have a shorter name of the subject, so the words decide nothing.

A subject may have other names: aliases, and its name without the words in brackets at the end of "Mercury (planet)".
Each has its own key, whose name is compared with the text.

Where the words decide nothing, a key matches only in the inner part of its radius (:data:`UNDECIDED_RADIUS`).
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.data.subjects import is_abbreviation, is_function_word
from easyedit_lifelong.models.windows import Window

_TOKENS_PER_WORD = 8
"""Tokens of a text that are read for each word of a subject, and for one more; more than words nearly always have."""


UNDECIDED_RADIUS = 0.3
"""The part of a key's radius in which a key matches although the words don't tell."""


class Naming(Enum):
    """Whether a text, at its end, names a subject: it does, it names something else, or its words don't tell."""

    SUBJECT = "subject"
    OTHER = "other"
    UNDECIDED = "undecided"


def words_of(text: str) -> list[str]:
    """Return the words of a text, without spaces and punctuation; case is kept, and so are vowel signs and accents."""
    text = unicodedata.normalize("NFC", text)
    return "".join(char if char.isalnum() or unicodedata.category(char)[0] == "M" else " " for char in text).split()


def naming(text: Sequence[str], subject: Sequence[str]) -> Naming:
    """Return whether a text names a subject at its end.

    Args:
        text: the words of the text up to a token.
        subject: the words of the subject.
    """
    for place, word in enumerate(reversed(subject), start=1):
        if place > len(text):
            return Naming.UNDECIDED
        found = text[-place]
        if found.casefold() == word.casefold() and (len(subject) > 1 or not _is_other_function_word(found, word)):
            continue
        if place == 1 and _is_caseless(word):
            named = "".join(text).casefold().endswith("".join(subject).casefold())
            return Naming.SUBJECT if named else Naming.UNDECIDED
        if place == 1 and _is_form_of(found.casefold(), word.casefold()):
            return Naming.UNDECIDED
        is_name = found[0].isdigit() or (found[0].isupper() and place < len(text))
        return Naming.OTHER if is_name else Naming.UNDECIDED
    return Naming.SUBJECT


def _is_other_function_word(found: str, word: str) -> bool:
    """Return whether one of two words is an abbreviation and the other a function word: the name "US", and "us"."""
    return is_function_word(found) if is_abbreviation(word) else is_abbreviation(found) and is_function_word(word)


def _is_caseless(word: str) -> bool:
    """Return whether a word is in a script without case. Such a script may have no spaces between words."""
    return word.isalpha() and word.upper() == word.lower()


def _is_form_of(found: str, word: str) -> bool:
    """Return whether one of two words begins with the other: an inflected form, or a word whose end is to come."""
    return found.startswith(word) or word.startswith(found)


class NamedSubjects:
    """Compares the words of matching tokens with the subjects of the keys.

    Args:
        tokenizer: the model's.
        subjects_of_key: returns the names of subjects that a key answers for; none if they are not known.
        radius: the least radius of a key where the words name its subject.
    """

    def __init__(self, tokenizer: Any, subjects_of_key: Callable[[int], Sequence[str]], radius: float) -> None:
        self.radius, self._tokenizer, self._subjects_of_key = radius, tokenizer, subjects_of_key

    def checked(self, named: Tensor, own: Tensor, window: Window, row: int, columns: Tensor) -> Tensor:
        """Return the distances of tokens to keys that count, given what the words of the text say.

        Args:
            named: distance of every token to every key in units of the radius that a key has where the words name its
                subject; infinite outside of it. Shape ``(tokens, keys)``.
            own: the same in units of the key's own radius.
            window: the current pass.
            row: the row of the tokens.
            columns: their columns in this pass, ``(tokens,)``.

        Returns:
            Same shape: an entry of ``named`` where the words name the subject, infinity where they name something else,
            an entry of ``own``, if it is small, where the words decide nothing, and any entry of ``own`` where no words
            are known.
        """
        checked = torch.full_like(named, torch.inf)
        for token, column in enumerate(columns.tolist()):
            keys = named[token].isfinite().nonzero().flatten().tolist()
            subjects = {key: [words_of(subject) for subject in self._subjects_of_key(key)] for key in keys}
            longest = max((len(words) for of_key in subjects.values() for words in of_key), default=0)
            ids = window.tokens_up_to(row, column, _TOKENS_PER_WORD * (longest + 1)) if keys else []
            text = words_of(self._tokenizer.decode(ids)) if ids else None
            for key, of_key in subjects.items():
                checked[token, key] = _checked(text, of_key, float(named[token, key]), float(own[token, key]))
        return checked


def _checked(text: Sequence[str] | None, subjects: Sequence[Sequence[str]], named: float, own: float) -> float:
    """Return the distance of one token to one key that counts; see :meth:`NamedSubjects.checked`.

    Args:
        text: the words of the text up to the token; None if they are not known.
        subjects: the words of each subject of the key.
        named: the distance in units of the radius where the words name a subject.
        own: the distance in units of the key's own radius.
    """
    if not subjects or text is None:
        return own
    found = {naming(text, subject) for subject in subjects}
    if Naming.SUBJECT in found:
        return named
    return own if Naming.UNDECIDED in found and own <= UNDECIDED_RADIUS else math.inf
