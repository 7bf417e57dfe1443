"""Find a subject in a text, list its names, and recognise one that names nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable

_WORDS = """
a an the this that these those
i you he she it we they me him her us them my your his its our their
who whom whose what which when where why how
about after as at before by during for from in into like of off on onto out over since than through to under until
up with without
and but if nor or so while
am are be been being can could did do does had has have is may might must not shall should was were will would
"""
_FUNCTION_WORDS = frozenset(_WORDS.split())
"""Articles, pronouns, interrogatives, prepositions, conjunctions and auxiliaries."""

_DISAMBIGUATOR = re.compile(r"\s+\([^()]*\)$|\s*\uff08[^\uff08\uff09]*\uff09$")
"""Words in brackets at a subject's end, such as "(planet)" of "Mercury (planet)"; also in full-width brackets."""

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


def is_function_word(subject: str) -> bool:
    """Whether a subject is a single English function word, such as "In": it occurs in texts about anything.

    An abbreviation, such as "US", is none.
    """
    word = subject.strip()
    return word.casefold() in _FUNCTION_WORDS and not is_abbreviation(word)


def is_abbreviation(word: str) -> bool:
    """Whether a word has several letters, all of them upper-case, such as "US"."""
    return len(word) > 1 and word.isupper()


def without_disambiguator(subject: str) -> str:
    """Return a subject without the words in brackets at its end, which most texts leave out: "Mercury (planet)".

    A subject is returned as it is if nothing would be left, or only a function word, as of "It (novel)".
    """
    subject = subject.strip()
    name = _DISAMBIGUATOR.sub("", subject)
    return name if any(map(str.isalnum, name)) and not is_function_word(name) else subject


def other_names(subject: str, aliases: Iterable[str] = ()) -> list[str]:
    """Return the names of a subject besides itself, each once: without a disambiguator, then its aliases, likewise.

    Args:
        subject: the subject.
        aliases: its other names.
    """
    names = dict.fromkeys(form for name in (subject, *aliases) for form in (name.strip(), without_disambiguator(name)))
    return [name for name in names if name != subject.strip()]


def _is_whole_words(text: str, span: Span) -> bool:
    """Whether a span neither begins nor ends within a word."""
    before, after = text[: span[0]][-1:], text[span[1] :][:1]
    return not (before.isalnum() and text[span[0]].isalnum()) and not (after.isalnum() and text[span[1] - 1].isalnum())
