"""Find prompts that name the subject of another edit, whose answers that edit may rightly change."""

from __future__ import annotations

import re
from collections.abc import Iterable

from easyedit_lifelong.data.request import EditRequest

_WORD = re.compile(r"\w+")

_Words = tuple[str, ...]


class EditedSubjects:
    """The subjects of edits.

    Args:
        requests: the requests of the edits. Those without a subject are ignored.
    """

    def __init__(self, requests: Iterable[EditRequest]) -> None:
        self._cases: dict[_Words, set[int | str]] = {}
        for request in requests:
            if request.subject and (words := _words(request.subject)):
                self._cases.setdefault(words, set()).add(request.case_id)
        self._lengths = sorted({len(words) for words in self._cases})

    def named_by(self, prompt: str, request: EditRequest) -> bool:
        """Return whether a prompt names the subject of an edit other than ``request``, in whole words of any case."""
        words, own = _words(prompt), {request.case_id}
        return any(
            self._cases.get(words[begin : begin + length], own) != own
            for length in self._lengths
            for begin in range(len(words) - length + 1)
        )


def _words(text: str) -> _Words:
    """Return the words of a text, in one case."""
    return tuple(_WORD.findall(text.casefold()))
