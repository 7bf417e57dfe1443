"""Training examples: a prompt and its target as token ids."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.methods.shared import encoded_requests
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.models.encoding import EncodedPair, encode_pair


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

    @classmethod
    def of(cls, where: str, pair: EncodedPair) -> Example:
        """Return an encoded prompt and target as the example of an edit with this name in messages."""
        return cls(where, tuple(pair.prompt), tuple(pair.target))

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
    encode = functools.partial(encode_pair, tokenizer, eos=eos)
    pair = encoded_requests.encode_request(encode, request, context_limit)
    return RequestExample(request, Example.of(request.where, pair))


def encode_record(tokenizer: Any, record: EditRecord, eos: bool) -> Example:
    """Encode the record of an earlier edit, as :func:`encode_request` encoded its request.

    Raises:
        DataError: prompt or target have no tokens with this tokenizer.
    """
    where = f"case {record.case_id}"
    try:
        pair = encode_pair(tokenizer, record.prompt, record.target_new, record.joiner, eos=eos)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    return Example.of(where, pair)


def latest_examples(examples: Iterable[Example]) -> list[Example]:
    """Return the examples without those whose prompt a later one has: the later edit replaced the answer."""
    by_prompt: dict[tuple[int, ...], Example] = {}
    for example in examples:
        by_prompt.pop(example.prompt, None)
        by_prompt[example.prompt] = example
    return list(by_prompt.values())
