"""The texts of a request: those that its value is trained on, and those that its keys are taken from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from easyedit_lifelong.data.request import EditRequest
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
    span = question_span(request)
    texts = []
    for template in (PROMPT, *hparams.context_templates):
        text, subject_end = fill_and_locate(tokenizer, template, request.question, span, request.frame)
        texts.append(TrainingText(encode(request, text), subject_end))
    if hparams.kl_factor:
        text, subject_end = fill_and_locate(tokenizer, _ESSENCE, request.question, span)
        texts.append(TrainingText(EncodedPair(encode_text(tokenizer, text), []), subject_end))
    key_rows = key_texts(tokenizer, request.question, span, hparams.key_templates, request.frame)
    return RequestTexts(request, texts, key_rows)
