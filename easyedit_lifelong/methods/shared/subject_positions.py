"""Find the subject in a prompt: its characters, and the lookup token, at which a method reads the fact."""

from __future__ import annotations

import itertools
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.subjects import Span, find_subject
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.models.encoding import encode_text, repeated_beginnings


def subject_span(request: EditRequest, fact_token: str = "subject_last") -> Span:
    """Return the span of characters of a request's subject in its prompt; with ``fact_token: last``, the full prompt.

    If the subject occurs more than once, the last occurrence counts, because there the model has read all of them.
    An occurrence as whole words is preferred to one inside a word.

    Args:
        request: the request.
        fact_token: the choice of the lookup token; see :func:`subject_position`.

    Raises:
        DataError: the request has no subject, or its prompt does not hold the subject.
    """
    begin, end = request.question_span or (0, len(request.prompt))  # not in the words of a chat template
    if fact_token == "last":
        return begin, end
    subject = request.subject.strip() if request.subject else ""
    if not subject:
        raise DataError(
            f"{request.where}, field 'subject': is missing; the method looks the fact up at its subject's token. "
            "Name it as the prompt spells it."
        )
    span = find_subject(request.prompt[begin:end], subject)
    if span is None:
        raise DataError(
            f"{request.where}, field 'subject': {subject!r} isn't in the prompt {request.question!r}. "
            "Spell it as the prompt does, or leave the record out."
        )
    return begin + span[0], begin + span[1]


def subject_position(tokenizer: Any, prompt: str, subject: str, fact_token: str = "subject_last") -> int:
    """Return the index of the lookup token among a prompt's tokens, special tokens included.

    Args:
        tokenizer: the model's.
        prompt: the prompt.
        subject: the subject, as the prompt spells it.
        fact_token: the choice of the lookup token; see
            :class:`~easyedit_lifelong.methods.locate_edit.config.LocateEditHyperParams`.

    Raises:
        DataError: the subject is not in the prompt.
    """
    span = find_subject(prompt, subject) if fact_token != "last" else (0, len(prompt))
    if span is None:
        raise DataError(f"subject {subject!r} isn't in the prompt {prompt!r}")
    return token_of_span(tokenizer, prompt, span, fact_token)


def token_of_span(tokenizer: Any, text: str, span: Span, fact_token: str) -> int:
    """Return the index of the lookup token for a subject at a span of characters.

    A token that holds both the end of the subject and text after it counts as the subject's last token. MEMIT's code
    counts the tokens of the text before the subject instead, and finds another token in this case.

    Args:
        tokenizer: the model's.
        text: the text.
        span: the subject's characters in the text.
        fact_token: the choice of the lookup token; see :func:`subject_position`.
    """
    ends, (subject_begin, subject_end) = _token_ends(tokenizer, text), span
    last_token = len(ends) - 1
    if fact_token == "last":
        return last_token
    if fact_token == "subject_first":
        return next(token for token, end in enumerate(ends) if end > subject_begin)
    subject_last = next(token for token, end in enumerate(ends) if end >= subject_end)
    return min(subject_last + 1, last_token) if fact_token == "subject_first_after_last" else subject_last


def _token_ends(tokenizer: Any, text: str) -> list[int]:
    """Return, for each token of a text, how many characters of the text the tokens up to and including it cover."""
    if getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(text, return_offsets_mapping=True)
        offsets = encoded["offset_mapping"][repeated_beginnings(tokenizer, encoded["input_ids"]) :]
        ends, covered = [], 0
        for (_, end), (next_begin, next_end) in itertools.pairwise([*offsets, (0, 0)]):
            # A character that several tokens share counts from the last of them on. A byte-level token can hold the end
            # of one character and the beginning of the next.
            next_has_characters = next_end > next_begin  # special tokens have none
            covered = max(covered, min(end, next_begin) if next_has_characters else end)
            ends.append(covered)
        ends[-1] = max(ends[-1], len(text.rstrip()))
        return ends
    ids = encode_text(tokenizer, text)
    prefixes = [tokenizer.decode(ids[: n + 1], skip_special_tokens=True) for n in range(len(ids))]
    # Some tokenizers drop the leading spaces of a text when they decode it.
    dropped = len(text) - len(text.lstrip()) if not prefixes[-1].startswith(" ") else 0
    # A prefix that ends within a character is decoded with a replacement character at its end.
    ends = [len(prefix.rstrip("\N{REPLACEMENT CHARACTER}")) + dropped for prefix in prefixes]
    ends[-1] = max(ends[-1], len(text))
    return ends
