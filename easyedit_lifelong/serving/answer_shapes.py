"""The JSON of answers, whole and streamed, as OpenAI's API has it for completions and for chats."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from easyedit_lifelong.serving.generation import Row
from easyedit_lifelong.serving.text_stream import INCOMPLETE


class AnswerShape(ABC):
    """Makes the JSON of the answers to one request. Call :meth:`begin` first.

    Args:
        decode: returns the text of tokens.
        model: the model that was asked for.
        with_logprobs: whether log probabilities were asked for.

    Attributes:
        prefix: how the ids of answers begin.
    """

    prefix: str
    _object: str
    _chunk_object: str

    def __init__(self, decode: Callable[[list[int]], str], model: str, *, with_logprobs: bool) -> None:
        self._decode, self._model, self._with_logprobs = decode, model, with_logprobs

    def begin(self, answer_id: str, created: int, prompts: Sequence[list[int]], rows: Sequence[Row]) -> None:
        """Set what all parts of the answer share.

        Args:
            answer_id: the id of the answer.
            created: the time, in seconds since 1970.
            prompts: the prompts' tokens.
            rows: the answers, which are read when they are finished.
        """
        self._shared: dict[str, Any] = {"id": answer_id, "created": created, "model": self._model}
        self._prompts, self._rows = prompts, rows

    def whole(self) -> dict[str, Any]:
        """Return the finished answer."""
        choices = [self._choice(index, row) for index, row in enumerate(self._rows)]
        return {**self._shared, "object": self._object, "choices": choices, "usage": self._usage()}

    def first_chunks(self) -> Iterator[dict[str, Any]]:
        """Yield the chunks before the first text."""
        return iter(())

    def chunk(self, index: int, text: str) -> dict[str, Any]:
        """Return a chunk with a piece of text of one answer."""
        return self._as_chunk([{"index": index, **self._delta(text), "logprobs": None, "finish_reason": None}])

    def last_chunk(self, index: int) -> dict[str, Any]:
        """Return the last chunk of one answer, with its log probabilities."""
        row = self._rows[index]
        ending = {"logprobs": self._logprobs(row), "finish_reason": row.finish_reason}
        return self._as_chunk([{"index": index, **self._delta(""), **ending}])

    def usage_chunk(self) -> dict[str, Any]:
        """Return the chunk with the numbers of tokens."""
        return {**self._as_chunk([]), "usage": self._usage()}

    def _as_chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._shared, "object": self._chunk_object, "choices": choices}

    def _usage(self) -> dict[str, int]:
        """Return the numbers of tokens."""
        prompt, generated = sum(map(len, self._prompts)), sum(len(row.tokens) for row in self._rows)
        return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}

    @abstractmethod
    def _choice(self, index: int, row: Row) -> dict[str, Any]:
        """Return a finished answer."""

    @abstractmethod
    def _delta(self, text: str) -> dict[str, Any]:
        """Return the part of a chunk that has the text."""

    @abstractmethod
    def _logprobs(self, row: Row) -> dict[str, Any] | None:
        """Return the log probabilities of a finished answer; None if they were not asked for."""


class CompletionShape(AnswerShape):
    """The shape of ``/v1/completions``."""

    prefix, _object, _chunk_object = "cmpl", "text_completion", "text_completion"

    def _choice(self, index: int, row: Row) -> dict[str, Any]:
        return {
            "index": index,
            "text": row.text,
            "logprobs": self._logprobs(row),
            "finish_reason": row.finish_reason,
        }

    def _delta(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _logprobs(self, row: Row) -> dict[str, Any] | None:
        if not self._with_logprobs:
            return None
        tokens = [self._decode([entry.token]) for entry in row.logprobs]
        offsets = [0, *itertools.accumulate(map(len, tokens))][:-1]
        return {
            "tokens": tokens,
            "token_logprobs": [entry.logprob for entry in row.logprobs],
            "top_logprobs": [
                {self._decode([token]): logprob for token, logprob in (*entry.top, (entry.token, entry.logprob))}
                for entry in row.logprobs
            ],
            "text_offset": offsets,
        }


class ChatShape(AnswerShape):
    """The shape of ``/v1/chat/completions``."""

    prefix, _object, _chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def first_chunks(self) -> Iterator[dict[str, Any]]:
        """Yield a chunk for each answer that names the role."""
        for index in range(len(self._rows)):
            delta = {"role": "assistant", "content": ""}
            yield self._as_chunk([{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}])

    def _choice(self, index: int, row: Row) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": row.text},
            "logprobs": self._logprobs(row),
            "finish_reason": row.finish_reason,
        }

    def _delta(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}}

    def _logprobs(self, row: Row) -> dict[str, Any] | None:
        if not self._with_logprobs:
            return None
        content = [
            {
                **self._token(entry.token, entry.logprob),
                "top_logprobs": [self._token(token, logprob) for token, logprob in entry.top],
            }
            for entry in row.logprobs
        ]
        return {"content": content}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        """Return a token with its log probability."""
        text = self._decode([token])
        is_whole = INCOMPLETE not in text
        return {"token": text, "logprob": logprob, "bytes": list(text.encode()) if is_whole else None}
