"""The texts of a request: those that its value is trained on, and those that its keys are taken from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.subjects import Span, other_names
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.shared.subject_keys.key_texts import (
    PROMPT,
    fill_and_locate,
    key_texts,
    question_span,
)
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
class OtherName:
    """Another name of a request's subject, with the texts that have it in place of the subject.

    Attributes:
        name: the name.
        key_rows: see :class:`RequestTexts`.
        context_rows: token ids of the prompt and of each context up to the name's last token.
    """

    name: str
    key_rows: list[list[int]]
    context_rows: list[list[int]]


@dataclass(frozen=True)
class RequestTexts:
    """A request with its encoded texts.

    Attributes:
        request: the request.
        texts: the texts that its value is trained on; the first is its own prompt.
        key_rows: token ids, one row for each of its key vectors. A row ends at the subject's last token, where the key
            vector is taken.
        other_names: the other names of its subject.
    """

    request: EditRequest
    texts: list[TrainingText]
    key_rows: list[list[int]]
    other_names: list[OtherName]

    @property
    def context_rows(self) -> list[list[int]]:
        """Token ids of the prompt and of each context up to the subject's last token."""
        return [text.pair.prompt[: text.subject_end + 1] for text in self.texts if text.pair.target]


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
    span = question_span(request)
    texts = []
    for template in (PROMPT, *hparams.context_templates):
        text, subject_end = fill_and_locate(tokenizer, template, request.question, span, request.frame)
        texts.append(TrainingText(encode(request, text), subject_end))
    if hparams.kl_factor:
        text, subject_end = fill_and_locate(tokenizer, _ESSENCE, request.question, span)
        texts.append(TrainingText(EncodedPair(encode_text(tokenizer, text), []), subject_end))
    key_rows = key_texts(tokenizer, request.question, span, hparams.key_templates, request.frame)
    names = other_names(request.subject or "", request.aliases)
    others = [_other_name(tokenizer, request, span, name, hparams) for name in names]
    return RequestTexts(request, texts, key_rows, others)


def _other_name(tokenizer: Any, request: EditRequest, span: Span, name: str, hparams: GraceHyperParams) -> OtherName:
    """Return another name of a request's subject, with its texts.

    Args:
        tokenizer: the model's.
        request: the request.
        span: the subject's characters in the request's question.
        name: the name.
        hparams: GRACE's hyperparameters.
    """
    begin, end = span
    question = f"{request.question[:begin]}{name}{request.question[end:]}"
    key_rows, context_rows = (
        key_texts(tokenizer, question, (begin, begin + len(name)), templates, request.frame)
        for templates in (hparams.key_templates, hparams.context_templates)
    )
    return OtherName(name, key_rows, context_rows)
