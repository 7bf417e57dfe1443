"""A request as texts: those that its target has to follow, and those that give its subject's key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.subjects import Span
from easyedit_lifelong.methods.grace.config import PROMPT, SUBJECT, GraceHyperParams
from easyedit_lifelong.methods.shared.subject_positions import subject_span, token_of_span
from easyedit_lifelong.models.encoding import EncodedPair

_ESSENCE = "{subject} is a"


@dataclass(frozen=True)
class TrainingText:
    """A text that a value is trained on.

    Attributes:
        pair: the text and the answer that has to follow; an empty one if the model's output is to stay.
        subject: index of the subject's last token.
    """

    pair: EncodedPair
    subject: int


@dataclass(frozen=True)
class Case:
    """A request with the texts that it needs.

    Attributes:
        request: the request.
        texts: what its value is trained on, its own prompt first.
        keys: for each of its key vectors, the tokens up to the subject's last, at which the vector is taken.
    """

    request: EditRequest
    texts: list[TrainingText]
    keys: list[list[int]]


def prepare_case(
    tokenizer: Any, request: EditRequest, hparams: GraceHyperParams, encode: Callable[[EditRequest, str], EncodedPair]
) -> Case:
    """Put a request into its contexts.

    Args:
        tokenizer: the model's.
        request: the request.
        hparams: GRACE's hyperparameters.
        encode: returns the checked tokens of a request with another text in its prompt's place.

    Raises:
        DataError: it has no subject, or that isn't in the prompt, or a text is too long.
    """
    span = subject_span(request)
    texts = []
    for template in (PROMPT, *hparams.context_templates):
        text, subject = _placed(tokenizer, template, request.prompt, span)
        texts.append(TrainingText(encode(request, text), subject))
    if hparams.kl_factor:
        text, subject = _placed(tokenizer, _ESSENCE, request.prompt, span)
        texts.append(TrainingText(EncodedPair(list(tokenizer(text)["input_ids"]), []), subject))
    return Case(request, texts, key_texts(tokenizer, request.prompt, span, hparams.key_templates))


def filled(template: str, prompt: str, span: Span) -> tuple[str, Span]:
    """Return a template's text, and where the subject stands in it.

    Args:
        template: with ``{subject}`` or ``{prompt}``.
        prompt: the request's prompt.
        span: where the subject stands in that.
    """
    if PROMPT in template:
        before = template.index(PROMPT)
        return template.replace(PROMPT, prompt), (before + span[0], before + span[1])
    before = template.index(SUBJECT)
    return template.replace(SUBJECT, prompt[span[0] : span[1]]), (before, before + span[1] - span[0])


def key_texts(tokenizer: Any, prompt: str, span: Span, templates: Sequence[str]) -> list[list[int]]:
    """Return for each of a subject's key vectors the tokens up to the subject's last, at which it is taken.

    Args:
        tokenizer: the model's.
        prompt: a prompt.
        span: where its subject stands.
        templates: further texts, with ``{subject}`` or ``{prompt}``.
    """
    rows = []
    for template in (PROMPT, *templates):
        text, subject = _placed(tokenizer, template, prompt, span)
        rows.append(list(tokenizer(text)["input_ids"])[: subject + 1])
    return rows


def _placed(tokenizer: Any, template: str, prompt: str, span: Span) -> tuple[str, int]:
    """Return a template's text, and the index of its subject's last token."""
    text, where = filled(template, prompt, span)
    return text, token_of_span(tokenizer, text, where, "subject_last")
