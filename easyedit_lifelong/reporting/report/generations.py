"""The generated answers before and after the edits, sorted so that failures come first."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from easyedit_lifelong.methods.report_sections import is_number
from easyedit_lifelong.reporting.report.run_entries import Entry
from easyedit_lifelong.reporting.report.run_files import RunFiles

MAX_SHOWN, MAX_FOLDED = 15, 150
"""Number of rows that a page shows, and of further rows that it shows on request."""

_LONGEST = 600


@dataclass(frozen=True)
class Answer:
    """The generated answers to one prompt.

    Attributes:
        prompt: the prompt.
        before: the unedited model's answer.
        match: whether the edited model's answer matches the target.
        parts: the edited model's answer in parts: (text, whether this part is the target).
    """

    prompt: str
    before: str
    match: bool
    parts: list[tuple[str, bool]]


@dataclass(frozen=True)
class Case:
    """One edit with its answers.

    Attributes:
        case_id: the case id of the request.
        target: the target.
        answer: the answers to its prompt.
        rephrase: the answers to its paraphrases.
        success: its ES, if the journal has it.
        reason: the reason if the edit failed, else empty.
    """

    case_id: str
    target: str
    answer: Answer
    rephrase: list[Answer] = field(default_factory=list)
    success: float | None = None
    reason: str = ""

    @property
    def missed(self) -> int:
        """Number of paraphrases whose answer doesn't match the target."""
        return sum(not answer.match for answer in self.rephrase)


def worst_first(run: RunFiles) -> list[Case]:
    """Return all cases of ``generations.jsonl``, sorted so that failures come first.

    The order is: cases whose answer doesn't match the target, then by ascending ES, then by the number of paraphrases
    that don't match, then by the time of the edit.
    """
    journal = {str(entry.get("case_id")): entry for entry in run.journal}
    cases = [_case(entry, journal.get(str(entry.get("case_id")), {})) for entry in run.generations]
    return sorted(
        cases, key=lambda case: (case.answer.match, 1.0 if case.success is None else case.success, -case.missed)
    )


def failures(run: RunFiles) -> list[tuple[str, str, str, str]]:
    """Return (case id, status, prompt, reason) of the requests that failed or were skipped."""
    rows = [
        (_text(entry.get("case_id")), str(entry["status"]), _text(entry.get("prompt")), _text(entry.get("reason")))
        for entry in run.journal
        if entry.get("status") in ("failed", "skipped")
    ]
    listed_ids = {row[0] for row in rows}
    left_out = run.summary.get("skipped")
    return rows + [
        (case_id, "left out", "", _text(entry.get("reason")))
        for entry in (left_out if isinstance(left_out, list) else [])
        if isinstance(entry, dict) and (case_id := _text(entry.get("case_id"))) not in listed_ids
    ]


def side_by_side(cases: Sequence[Sequence[Case]]) -> list[list[Case | None]]:
    """Return the cases of several runs in rows with the same prompt and target; rows that most runs fail come first."""
    by_run = [{(case.answer.prompt, case.target): case for case in cases_of_run} for cases_of_run in cases]
    keys = dict.fromkeys(key for cases_of_run in by_run for key in cases_of_run)
    rows = [[cases_of_run.get(key) for cases_of_run in by_run] for key in keys]

    def failures_first(row: list[Case | None]) -> tuple[int, int]:
        present = [case for case in row if case is not None]
        return -sum(not case.answer.match for case in present), -len(present)

    return sorted(rows, key=failures_first)


def printable(text: str) -> str:
    """Return generated text on one line; control characters and lone surrogates become replacement characters."""
    one_line = " ".join(text.split())
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in ("Cc", "Cs") else c for c in one_line)


def _case(entry: Entry, journal_entry: Entry) -> Case:
    """Return the case of a line of ``generations.jsonl`` and of the same request's line of the journal."""
    target = _text(entry.get("target_new"))
    rephrased = entry.get("rephrase")
    success = journal_entry.get("ES")
    return Case(
        _text(entry.get("case_id")),
        target,
        _answer(target, *map(entry.get, ("prompt", "before", "after", "match"))),
        [
            _answer(target, *fields)
            for fields in (rephrased if isinstance(rephrased, list) else [])
            if isinstance(fields, (list, tuple)) and len(fields) == 4
        ],
        float(success) if is_number(success) else None,
        _text(journal_entry.get("reason")),
    )


def _answer(target: str, prompt: Any, before: Any, after: Any, match: Any) -> Answer:
    return Answer(_text(prompt), _text(before), bool(match), _split_at_target(_text(after), target))


def _split_at_target(text: str, target: str) -> list[tuple[str, bool]]:
    """Return an answer in parts, each with whether it is the target."""
    start = text.casefold().find(target.casefold()) if target else -1
    # If case folding changes a text's length, positions in the folded text aren't positions in the text.
    if start < 0 or len(text.casefold()) != len(text) or len(target.casefold()) != len(target):
        return [(text, False)]
    end = start + len(target)
    return [part for part in ((text[:start], False), (text[start:end], True), (text[end:], False)) if part[0]]


def _text(value: Any) -> str:
    """Return a value as clean text of limited length."""
    text = "" if value is None else printable(str(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
