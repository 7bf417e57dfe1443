"""The position of the subject in a prompt: the token at which a fact is looked up."""

from __future__ import annotations

import itertools
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.subjects import Span, find_subject
from easyedit_lifelong.errors import DataError


def subject_span(request: EditRequest, fact_token: str = "subject_last") -> Span:
    """Return the characters of a request's prompt that are its subject.

    If the subject is in the prompt more than once, the last time counts: there the model has read all of them. Whole
    words come before parts of words.

    Raises:
        DataError: the request names no subject, or it is not in the prompt.
    """
    if fact_token == "last":
        return 0, len(request.prompt)
    subject = request.subject.strip() if request.subject else ""
    if not subject:
        raise DataError(
            f"{request.where}, field 'subject': is missing; the edit is kept at its subject's token. "
            "Name it as the prompt spells it."
        )
    found = find_subject(request.prompt, subject)
    if found is None:
        raise DataError(
            f"{request.where}, field 'subject': {subject!r} isn't in the prompt {request.prompt!r}. "
            "Spell it as the prompt does, or leave the record out."
        )
    return found


def subject_position(tokenizer: Any, prompt: str, subject: str, fact_token: str = "subject_last") -> int:
    """Return the index of a subject's token among a prompt's tokens.

    Args:
        tokenizer: the model's.
        prompt: the text; special tokens that the tokenizer adds count.
        subject: as the text spells it.
        fact_token: which token; see :class:`~easyedit_lifelong.methods.locate_edit.config.LocateEditHyperParams`.

    Raises:
        DataError: the subject is not in the text.
    """
    span = find_subject(prompt, subject) if fact_token != "last" else (0, len(prompt))
    if span is None:
        raise DataError(f"subject {subject!r} isn't in the prompt {prompt!r}")
    return token_of_span(tokenizer, prompt, span, fact_token)


def token_of_span(tokenizer: Any, text: str, span: Span, fact_token: str) -> int:
    """Return the index of the token at which the fact of some characters is written.

    A token that holds the subject's end and what follows it counts as the subject's last. Counting the tokens
    of the text up to the subject, as MEMIT does, would miss it.
    """
    ends = _token_ends(tokenizer, text)
    if fact_token == "last":
        return len(ends) - 1
    if fact_token == "subject_first":
        return next(i for i, end in enumerate(ends) if end > span[0])
    last = next(i for i, end in enumerate(ends) if end >= span[1])
    return min(last + 1, len(ends) - 1) if fact_token == "subject_first_after_last" else last


def _token_ends(tokenizer: Any, text: str) -> list[int]:
    """Return how many characters of the text have been read after each of its tokens."""
    if getattr(tokenizer, "is_fast", False):
        offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        ends, read = [], 0
        for (_, end), (later, later_end) in itertools.pairwise([*offsets, (0, 0)]):
            # Special tokens have no characters. A character of several tokens is complete with its last,
            # and byte-level tokens may hold the end of one character and the beginning of the next.
            read = max(read, min(end, later) if later_end > later else end)
            ends.append(read)
        ends[-1] = max(ends[-1], len(text.rstrip()))
        return ends
    ids = list(tokenizer(text)["input_ids"])
    decoded = [tokenizer.decode(ids[: n + 1], skip_special_tokens=True) for n in range(len(ids))]
    skipped = len(text) - len(text.lstrip()) if not decoded[-1].startswith(" ") else 0
    ends = [len(part.rstrip("\N{REPLACEMENT CHARACTER}")) + skipped for part in decoded]
    ends[-1] = max(ends[-1], len(text))
    return ends
