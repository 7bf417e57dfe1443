"""A request as tokens: its prompt in every context, and the position of its subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError, EditError
from easyedit_lifelong.methods.locate_edit.config import LocateEditHyperParams
from easyedit_lifelong.methods.locate_edit.templates import Templates
from easyedit_lifelong.methods.shared.subject_positions import subject_span, token_of_span
from easyedit_lifelong.models.encoding import EncodedPair, encode_pair

_PLAIN, _SUBJECT, _PROMPT = "{}", "{subject}", "{prompt}"


@dataclass(frozen=True)
class Row:
    """A text that the fact is looked up in.

    Attributes:
        prompt: its tokens.
        target: the tokens of the answer that follows; empty for none.
        lookup: index of the token at which the fact is looked up.
        weight: the row's share of the fact's key (MEMIT: mean within a group of templates, then over groups).
    """

    prompt: list[int]
    target: list[int]
    lookup: int
    weight: float = 0.0


@dataclass(frozen=True)
class Fact:
    """A request as tokens.

    Attributes:
        request: the request.
        contexts: its prompt after every context template.
        mentions: its prompt after texts that mention the subject; the fact is looked up at that mention.
        plain: its prompt alone.
        essence: ``{subject} is a``; the prediction at its subject should stay (MEMIT's essence drift).
    """

    request: EditRequest
    contexts: list[Row]
    mentions: list[Row]
    plain: Row
    essence: Row | None

    @property
    def rows(self) -> list[Row]:
        """The rows that a target vector is optimised on."""
        return [*self.contexts, *self.mentions, *([] if self.essence is None else [self.essence])]


def prepare(
    tokenizer: Any,
    request: EditRequest,
    templates: Templates,
    hparams: LocateEditHyperParams,
    context_limit: int | None,
) -> Fact:
    """Encode a request.

    Args:
        tokenizer: the model's.
        request: the request.
        templates: the context templates.
        hparams: name the token at which the fact is looked up, and further contexts.
        context_limit: number of tokens that the model can read, if known.

    Raises:
        DataError: it has no subject, or the subject is not in the prompt, or it is too long for the model.
    """
    span = subject_span(request, hparams.fact_token)

    def row(text: str, start: int, end: int, weight: float) -> Row:
        pair = _encoded(tokenizer, request, text)
        lookup = token_of_span(tokenizer, text, (start, end), hparams.fact_token)
        if context_limit is not None and len(pair.tokens) > context_limit:
            raise DataError(
                f"{request.where}, field 'prompt': with a context and the target it has {len(pair.tokens)} tokens, "
                f"the model's context is {context_limit}. Shorten it or leave the record out."
            )
        return Row(pair.prompt, pair.target, lookup, weight)

    def after(template: str, weight: float) -> Row:
        before = template.index(_PLAIN)
        return row(template.replace(_PLAIN, request.prompt), before + span[0], before + span[1], weight)

    def mentioning(template: str) -> Row:
        subject = request.prompt[span[0] : span[1]]
        before = template.index(_SUBJECT)
        text = template.replace(_SUBJECT, subject).replace(_PROMPT, request.prompt)
        return row(text, before, before + len(subject), 0.0)

    contexts = [after(template, 1 / (len(templates) * len(group))) for group in templates for template in group]
    mentions = [mentioning(template) for template in hparams.mention_templates]
    return Fact(request, contexts, mentions, after(_PLAIN, 0.0), _essence(tokenizer, request, hparams.fact_token))


def _encoded(tokenizer: Any, request: EditRequest, text: str) -> EncodedPair:
    try:
        return encode_pair(tokenizer, text, request.target_new)
    except DataError as error:
        raise DataError(f"{request.where}: {error}") from error


def _essence(tokenizer: Any, request: EditRequest, fact_token: str) -> Row | None:
    if not request.subject or not request.subject.strip():
        return None
    subject = request.subject.strip()
    text = f"{subject} is a"
    span = (0, len(text)) if fact_token == "last" else (0, len(subject))
    return Row(list(tokenizer(text)["input_ids"]), [], token_of_span(tokenizer, text, span, fact_token))


def check_batch(facts: Sequence[Fact]) -> None:
    """Check that no two facts of a batch have the same prompt and different targets.

    Raises:
        EditError: two have; one update cannot give one key two values.
    """
    seen: dict[tuple[int, ...], EditRequest] = {}
    for fact in facts:
        request = fact.request
        other = seen.setdefault(tuple(fact.plain.prompt), request)
        if other.target_new != request.target_new:
            raise EditError(
                f"{request.where}, field 'prompt': {other.where} of the same batch has the same prompt and another "
                "target. Put them in different batches, or leave one out."
            )
