"""The text of an answer while it is generated: new text as soon as it is final, cut at a stop text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

INCOMPLETE = "\ufffd"
"""What a tokenizer decodes an incomplete character to."""


class TextStream:
    """Decodes the tokens of one answer. The concatenated results of :meth:`push` and :meth:`finish` are its text.

    Args:
        decode: returns the text of tokens.
        stops: texts that end the answer. The answer does not contain them.

    Attributes:
        stopped: whether a stop text was found. Further tokens must not be pushed then.
    """

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode, self._stops = decode, [stop for stop in stops if stop]
        self._tokens: list[int] = []
        self._text = ""
        self._emitted = 0
        self.stopped = False

    def push(self, token: int) -> str:
        """Add a token; return the text that has become final."""
        self._tokens.append(token)
        self._text = self._decode(self._tokens)
        ends = [index for stop in self._stops if (index := self._text.find(stop)) >= 0]
        if ends:
            self.stopped, self._text = True, self._text[: min(ends)]
            return self._emit(len(self._text))
        complete = self._text.rstrip(INCOMPLETE)
        return self._emit(len(complete) - self._held_back(complete))

    def finish(self) -> str:
        """Return the rest of the text, after the last token."""
        return self._emit(len(self._text))

    def _held_back(self, text: str) -> int:
        """Return how many characters at the end of a text may be the beginning of a stop text."""
        lengths = [
            length
            for stop in self._stops
            for length in range(1, min(len(stop), len(text) + 1))
            if text.endswith(stop[:length])
        ]
        return max(lengths, default=0)

    def _emit(self, end: int) -> str:
        """Return the text up to an index that has not been returned before."""
        new = self._text[self._emitted : end]
        self._emitted = max(self._emitted, end)
        return new
