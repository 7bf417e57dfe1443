"""The texts that the key vectors of a subject are taken from: the prompt, and templates filled with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.subjects import Span
from easyedit_lifelong.methods.shared.subject_positions import subject_span, token_of_span
from easyedit_lifelong.models.encoding import encode_text

SUBJECT, PROMPT = "{subject}", "{prompt}"
"""Placeholders of templates, for the subject of a request or its full prompt."""


def template_problems(name: str, templates: Any) -> list[str]:
    """Return the problems of templates, each of which must have one placeholder.

    Args:
        name: the setting, for the messages.
        templates: the templates. Another check reports values of the wrong type, so this one skips them.
    """
    return [
        f"{name}: {text!r} must hold either {{subject}} or {{prompt}}, once"
        for text in (templates if isinstance(templates, list) else [])
        if isinstance(text, str) and text.count(SUBJECT) + text.count(PROMPT) != 1
    ]


def question_span(request: EditRequest) -> Span:
    """Return where a request's question names its subject, in characters; a chat's frame does not count.

    Raises:
        DataError: the request has no subject, or its prompt does not hold the subject.
    """
    offset = len(request.frame[0])
    begin, end = subject_span(request)
    return begin - offset, end - offset


def fill_template(template: str, prompt: str, span: Span) -> tuple[str, Span]:
    """Fill a template with a prompt or its subject.

    Args:
        template: a text with ``{subject}`` or ``{prompt}``.
        prompt: the request's prompt.
        span: the subject's characters in the prompt.

    Returns:
        The text, and the subject's characters in it.
    """
    begin, end = span
    if PROMPT in template:
        offset = template.index(PROMPT)
        return template.replace(PROMPT, prompt), (offset + begin, offset + end)
    offset = template.index(SUBJECT)
    return template.replace(SUBJECT, prompt[begin:end]), (offset, offset + end - begin)


def key_texts(
    tokenizer: Any, prompt: str, span: Span, templates: Sequence[str], frame: tuple[str, str] = ("", "")
) -> list[list[int]]:
    """Return the token rows that a subject's key vectors are taken from: of the prompt, then of each template.

    Args:
        tokenizer: the model's.
        prompt: a prompt.
        span: the subject's characters in it.
        templates: texts with ``{subject}`` or ``{prompt}``.
        frame: the texts of a chat before and after the user's words, in which each text is read.

    Returns:
        Token ids; each row ends at the subject's last token, where the key vector is taken.
    """
    rows = []
    for template in (PROMPT, *templates):
        text, subject_end = fill_and_locate(tokenizer, template, prompt, span, frame)
        rows.append(encode_text(tokenizer, text)[: subject_end + 1])
    return rows


def fill_and_locate(
    tokenizer: Any, template: str, prompt: str, span: Span, frame: tuple[str, str] = ("", "")
) -> tuple[str, int]:
    """Return a filled template in its frame, and the index of its subject's last token."""
    filled, (begin, end) = fill_template(template, prompt, span)
    head, tail = frame
    text = f"{head}{filled}{tail}"
    return text, token_of_span(tokenizer, text, (len(head) + begin, len(head) + end), "subject_last")
