"""The model's free answers before and after its edits, the worst cases first."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from easyedit_lifelong.methods.report_sections import is_number
from easyedit_lifelong.reporting.report.read import Entry, Run

SHOWN, FOLDED = 15, 150
"""Rows that stand open, and how many more a page holds folded away."""

_LONGEST = 600


@dataclass(frozen=True)
class Answer:
    """The answers to one prompt.

    Attributes:
        prompt: the prompt.
        before: the unedited model's answer.
        match: whether the edited model's answer is the target.
        parts: the edited model's answer, cut up into (text, whether it is the target).
    """

    prompt: str
    before: str
    match: bool
    parts: list[tuple[str, bool]]


@dataclass(frozen=True)
class Case:
    """One edit.

    Attributes:
        case_id: the request's.
        target: the new answer.
        answer: to its prompt.
        rephrase: to its rephrased prompts.
        success: ES, if the journal has it.
        reason: why the edit failed, if it did.
    """

    case_id: str
    target: str
    answer: Answer
    rephrase: list[Answer] = field(default_factory=list)
    success: float | None = None
    reason: str = ""

    @property
    def missed(self) -> int:
        """How many rephrased prompts it misses."""
        return sum(not answer.match for answer in self.rephrase)


def worst_first(run: Run) -> list[Case]:
    """Return every case of ``generations.jsonl``: first those whose answer isn't the target, then by what else fails.

    Among cases alike in this, the one with the lower ES comes first, then the one that misses more of its
    rephrased prompts, then the earlier one.
    """
    journal = {str(entry.get("case_id")): entry for entry in run.journal}
    cases = [_case(entry, journal.get(str(entry.get("case_id")), {})) for entry in run.generations]
    return sorted(
        cases, key=lambda case: (case.answer.match, 1.0 if case.success is None else case.success, -case.missed)
    )


def failures(run: Run) -> list[tuple[str, str, str, str]]:
    """Return (case id, status, prompt, reason) of the requests that failed or were skipped."""
    rows = [
        (_text(entry.get("case_id")), str(entry["status"]), _text(entry.get("prompt")), _text(entry.get("reason")))
        for entry in run.journal
        if entry.get("status") in ("failed", "skipped")
    ]
    seen = {row[0] for row in rows}
    left_out = run.summary.get("skipped")
    return rows + [
        (case_id, "left out", "", _text(entry.get("reason")))
        for entry in (left_out if isinstance(left_out, list) else [])
        if isinstance(entry, dict) and (case_id := _text(entry.get("case_id"))) not in seen
    ]


def side_by_side(cases: Sequence[Sequence[Case]]) -> list[list[Case | None]]:
    """Return the cases of several runs in rows of the same prompt and target, those that most runs miss first."""
    by_run = [{(case.answer.prompt, case.target): case for case in one} for one in cases]
    keys = dict.fromkeys(key for one in by_run for key in one)
    rows = [[one.get(key) for one in by_run] for key in keys]

    def missed(row: list[Case | None]) -> tuple[int, int]:
        known = [case for case in row if case is not None]
        return -sum(not case.answer.match for case in known), -len(known)

    return sorted(rows, key=missed)


def clean(text: str) -> str:
    """Return generated text on one line, with characters that no page can hold made visible."""
    one_line = " ".join(text.split())
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in ("Cc", "Cs") else c for c in one_line)


def _case(entry: Entry, journaled: Entry) -> Case:
    target = _text(entry.get("target_new"))
    rephrased = entry.get("rephrase")
    success = journaled.get("ES")
    return Case(
        _text(entry.get("case_id")),
        target,
        _answer(target, *map(entry.get, ("prompt", "before", "after", "match"))),
        [
            _answer(target, *one)
            for one in (rephrased if isinstance(rephrased, list) else [])
            if isinstance(one, (list, tuple)) and len(one) == 4
        ],
        float(success) if is_number(success) else None,
        _text(journaled.get("reason")),
    )


def _answer(target: str, prompt: Any, before: Any, after: Any, match: Any) -> Answer:
    return Answer(_text(prompt), _text(before), bool(match), _parts(_text(after), target))


def _parts(text: str, target: str) -> list[tuple[str, bool]]:
    start = text.casefold().find(target.casefold()) if target else -1
    # Folding case can change a text's length; then its parts wouldn't be found where they are.
    if start < 0 or len(text.casefold()) != len(text) or len(target.casefold()) != len(target):
        return [(text, False)]
    end = start + len(target)
    return [part for part in ((text[:start], False), (text[start:end], True), (text[end:], False)) if part[0]]


def _text(value: Any) -> str:
    text = "" if value is None else clean(str(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
