"""Encode requests: the prompt in every context as token ids, and the index of the lookup token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.subjects import Span
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.methods.locate_edit.config import LocateEditHyperParams
from easyedit_lifelong.methods.locate_edit.templates import Templates
from easyedit_lifelong.methods.shared.subject_positions import subject_span, token_of_span
from easyedit_lifelong.models.encoding import encode_pair, encode_text

_PLAIN, _SUBJECT, _PROMPT = "{}", "{subject}", "{prompt}"


@dataclass(frozen=True)
class Row:
    """One text of a fact, as token ids.

    Attributes:
        prompt: the tokens up to the target.
        target: the tokens of the target; empty if the text has none.
        lookup: index of the lookup token in ``prompt``.
        weight: weight of this row's key in the fact's key k. As in MEMIT, k is the mean over each group of templates,
            then over groups.
    """

    prompt: list[int]
    target: list[int]
    lookup: int
    weight: float = 0.0


@dataclass(frozen=True)
class Fact:
    """A request with its contexts, as token ids.

    Attributes:
        request: the request.
        contexts: the prompt in each context template.
        mentions: the prompt in each mention template. The lookup token is in the mention, before the prompt.
        plain: the prompt without a context.
        essence: ``{subject} is a``. The loss penalises changes of its next-token prediction (essence drift in MEMIT).
            None if the request has no subject.
    """

    request: EditRequest
    contexts: list[Row]
    mentions: list[Row]
    plain: Row
    essence: Row | None

    @property
    def rows(self) -> list[Row]:
        """The rows that the loss of the target vector is computed on."""
        return [*self.contexts, *self.mentions, *([] if self.essence is None else [self.essence])]


def encode_fact(
    tokenizer: Any,
    request: EditRequest,
    templates: Templates,
    hparams: LocateEditHyperParams,
    context_limit: int | None,
    reserved_tokens: int = 0,
) -> Fact:
    """Encode a request.

    Args:
        tokenizer: the tokenizer of the model.
        request: the request.
        templates: the context templates.
        hparams: ``fact_token``, ``mention_templates`` and ``eos`` are used.
        context_limit: largest number of tokens of a row; None: no limit.
        reserved_tokens: tokens of a row that the templates given here leave out, but that others will need.

    Raises:
        DataError: the request has no subject, its prompt does not contain its subject, a row is too long, or the
            tokenizer has no end-of-text token.
    """
    encoder = _RowEncoder(
        tokenizer,
        request,
        subject_span(request, hparams.fact_token),
        hparams.fact_token,
        context_limit,
        reserved_tokens,
        hparams.eos,
    )
    contexts = []
    for group in templates:
        weight = 1 / (len(templates) * len(group))
        contexts += [encoder.encode_context(template, weight) for template in group]
    return Fact(
        request,
        contexts=contexts,
        mentions=[encoder.encode_mention(template) for template in hparams.mention_templates],
        plain=encoder.encode_context(_PLAIN),
        essence=_encode_essence(tokenizer, request, hparams.fact_token),
    )


@dataclass(frozen=True)
class _RowEncoder:
    """Encodes the prompt of a request in templates, with the target after it.

    Attributes:
        tokenizer: the tokenizer of the model.
        request: the request.
        subject_span: the characters of the prompt that are the subject.
        fact_token: the hyperparameter.
        context_limit: largest number of tokens of a row; None: no limit.
        reserved_tokens: tokens that every row needs in addition.
        eos: whether the target ends with the end-of-text token.
    """

    tokenizer: Any
    request: EditRequest
    subject_span: Span
    fact_token: str
    context_limit: int | None
    reserved_tokens: int
    eos: bool

    def encode_context(self, template: str, weight: float = 0.0) -> Row:
        """Encode the prompt in a context template. In chat form, the context is a part of the user's words."""
        text = self._framed(template.replace(_PLAIN, self.request.question))
        return self._encode(text, template.index(_PLAIN) + self.subject_span[0], weight)

    def encode_mention(self, template: str) -> Row:
        """Encode the prompt in a mention template."""
        start, end = self.subject_span
        text = template.replace(_SUBJECT, self.request.prompt[start:end]).replace(_PROMPT, self.request.question)
        return self._encode(self._framed(text), len(self.request.frame[0]) + template.index(_SUBJECT))

    def _framed(self, text: str) -> str:
        """Return the prompt with another text in place of the user's words, which are all of it outside of chats."""
        head, tail = self.request.frame
        return f"{head}{text}{tail}"

    def _encode(self, text: str, subject_start: int, weight: float = 0.0) -> Row:
        """Encode a text whose subject starts at a character, and the target after it."""
        request = self.request
        try:
            pair = encode_pair(self.tokenizer, text, request.target_new, request.joiner, eos=self.eos)
        except DataError as error:
            raise DataError(f"{request.where}: {error}") from error
        subject_length = self.subject_span[1] - self.subject_span[0]
        lookup = token_of_span(self.tokenizer, text, (subject_start, subject_start + subject_length), self.fact_token)
        length = len(pair.tokens) + self.reserved_tokens
        if self.context_limit is not None and length > self.context_limit:
            raise DataError(
                f"{request.where}, field 'prompt': with a context and the target it has {length} tokens, but "
                f"the model's context is {self.context_limit} tokens. Shorten it or leave the record out."
            )
        return Row(pair.prompt, pair.target, lookup, weight)


def _encode_essence(tokenizer: Any, request: EditRequest, fact_token: str) -> Row | None:
    """Encode ``{subject} is a``; None if the request has no subject."""
    if not request.subject or not request.subject.strip():
        return None
    subject = request.subject.strip()
    text = f"{subject} is a"
    span = (0, len(text)) if fact_token == "last" else (0, len(subject))
    return Row(encode_text(tokenizer, text), [], token_of_span(tokenizer, text, span, fact_token))
