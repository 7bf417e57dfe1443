"""The texts of a request: those that its value is trained on, and those that its keys are taken from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.subjects import Span
from easyedit_lifelong.methods.grace.config import PROMPT, SUBJECT, GraceHyperParams
from easyedit_lifelong.methods.shared.subject_positions import subject_span, token_of_span
from easyedit_lifelong.models.encoding import EncodedPair, encode_text

_ESSENCE = "{subject} is a"
"""Text whose next-token distribution has to stay as it is: what the subject is (MEMIT's essence prompt)."""


@dataclass(frozen=True)
class TrainingText:
    """A text that a value is trained on.

    Attributes:
        pair: the text and the target that has to follow it. An empty target means that the model's next-token
            distribution has to stay as it is.
        subject_end: index of the subject's last token.
    """

    pair: EncodedPair
    subject_end: int


@dataclass(frozen=True)
class RequestTexts:
    """A request with its encoded texts.

    Attributes:
        request: the request.
        texts: the texts that its value is trained on; the first is its own prompt.
        key_rows: token ids, one row for each of its key vectors. A row ends at the subject's last token, where the key
            vector is taken.
    """

    request: EditRequest
    texts: list[TrainingText]
    key_rows: list[list[int]]


def encode_request_texts(
    tokenizer: Any, request: EditRequest, hparams: GraceHyperParams, encode: Callable[[EditRequest, str], EncodedPair]
) -> RequestTexts:
    """Encode a request's prompt and templates.

    Args:
        tokenizer: the model's.
        request: the request.
        hparams: GRACE's hyperparameters.
        encode: ``encode(request, text)`` returns the checked token ids of the request with ``text`` for its prompt.

    Raises:
        DataError: the request has no subject, its prompt does not hold the subject, or a text is too long.
    """
    offset = len(request.frame[0])
    begin, end = subject_span(request)
    span = begin - offset, end - offset
    texts = []
    for template in (PROMPT, *hparams.context_templates):
        text, subject_end = _fill_and_locate(tokenizer, template, request.question, span, request.frame)
        texts.append(TrainingText(encode(request, text), subject_end))
    if hparams.kl_factor:
        text, subject_end = _fill_and_locate(tokenizer, _ESSENCE, request.question, span)
        texts.append(TrainingText(EncodedPair(encode_text(tokenizer, text), []), subject_end))
    key_rows = key_texts(tokenizer, request.question, span, hparams.key_templates, request.frame)
    return RequestTexts(request, texts, key_rows)


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
        text, subject_end = _fill_and_locate(tokenizer, template, prompt, span, frame)
        rows.append(encode_text(tokenizer, text)[: subject_end + 1])
    return rows


def _fill_and_locate(
    tokenizer: Any, template: str, prompt: str, span: Span, frame: tuple[str, str] = ("", "")
) -> tuple[str, int]:
    """Return a filled template in its frame, and the index of its subject's last token."""
    filled, (begin, end) = fill_template(template, prompt, span)
    head, tail = frame
    text = f"{head}{filled}{tail}"
    return text, token_of_span(tokenizer, text, (len(head) + begin, len(head) + end), "subject_last")
