"""Training examples: a prompt and its target as token ids."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.models.encoding import encode_pair


@dataclass(frozen=True)
class Example:
    """A prompt and its target.

    Attributes:
        where: the edit's name in messages.
        prompt: token ids of the prompt.
        target: token ids of the target.
    """

    where: str
    prompt: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        """The token ids that the model reads: the prompt, followed by the target."""
        return self.prompt + self.target


@dataclass(frozen=True)
class RequestExample:
    """A request and its training example."""

    request: EditRequest
    example: Example


def encode_request(tokenizer: Any, request: EditRequest, eos: bool, context_limit: int | None) -> RequestExample:
    """Encode a request.

    Args:
        tokenizer: the tokenizer of the model.
        request: the request.
        eos: end the target with the end-of-text token.
        context_limit: largest number of tokens of an example; None: no limit.

    Raises:
        DataError: prompt or target have no tokens, or are too long, or the tokenizer has no end-of-text token.
    """
    example = _encode(tokenizer, request.where, request, eos)
    length = len(example.tokens)
    if context_limit is not None and length > context_limit:
        raise DataError(
            f"{request.where}, field 'prompt': with the target it has {length} tokens, but the model's context is "
            f"{context_limit} tokens. Shorten it or leave the record out."
        )
    return RequestExample(request, example)


def encode_record(tokenizer: Any, record: EditRecord, eos: bool) -> Example:
    """Encode the record of an earlier edit, as :func:`encode_request` encoded its request."""
    return _encode(tokenizer, f"case {record.case_id}", record, eos)


def latest_examples(examples: Iterable[Example]) -> list[Example]:
    """Return the examples without those whose prompt a later one has: the later edit replaced the answer."""
    by_prompt: dict[tuple[int, ...], Example] = {}
    for example in examples:
        by_prompt.pop(example.prompt, None)
        by_prompt[example.prompt] = example
    return list(by_prompt.values())


def _encode(tokenizer: Any, where: str, edit: EditRequest | EditRecord, eos: bool) -> Example:
    """Encode the prompt and the target of an edit."""
    try:
        pair = encode_pair(tokenizer, edit.prompt, edit.target_new, edit.joiner, eos=eos)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    return Example(where, tuple(pair.prompt), tuple(pair.target))
