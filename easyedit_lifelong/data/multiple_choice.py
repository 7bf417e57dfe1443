"""Read multiple-choice questions, in the fields that lm-evaluation-harness's tasks have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.data.json_files import label_as_text, name_records, read_json_file
from easyedit_lifelong.data.record_fields import encoding_problem
from easyedit_lifelong.errors import DataError, did_you_mean
from easyedit_lifelong.paths import expanded_path


@dataclass(frozen=True)
class MultipleChoiceItem:
    """A question with several choices, one of which is right.

    Attributes:
        question: the question.
        choices: the choices.
        answer: the index of the right choice, counted from 0.
        subject: the subject that the question belongs to; None if it has none.
    """

    question: str
    choices: tuple[str, ...]
    answer: int
    subject: str | None = None

    @property
    def prompt(self) -> str:
        """The text that a model reads before a choice."""
        return f"Question: {self.question}\nAnswer:"

    def to_dict(self) -> dict[str, Any]:
        """Return the item as a record of a file."""
        record = {"question": self.question, "choices": list(self.choices), "answer": self.answer}
        return record if self.subject is None else {**record, "subject": self.subject}


def read_multiple_choice(path: Path | str) -> list[MultipleChoiceItem]:
    """Read multiple-choice questions from a JSON list or from JSON Lines (``.jsonl``).

    Raises:
        DataError: the file can't be read, or a record is invalid.
    """
    records = read_json_file(expanded_path(path, DataError), "no such file of multiple-choice questions")
    if not isinstance(records, list):
        raise DataError(f"{path}: must hold a list of questions (or one question per line, in a .jsonl file)")
    return as_items(records, str(path))


def as_items(records: Iterable[Any], name: str = "capability") -> list[MultipleChoiceItem]:
    """Return records as multiple-choice questions.

    Args:
        records: :class:`MultipleChoiceItem` objects, or mappings with ``question``, ``choices`` (a list of texts or
            numbers), ``answer`` (the index of the right choice, counted from 0, or its text) and optionally
            ``subject``.
        name: what messages call the records: the file, for example.

    Raises:
        DataError: there are no records, or one is invalid; the message names record and field.
    """
    items = [
        record if isinstance(record, MultipleChoiceItem) else _item(where, record)
        for where, record in name_records(name, list(records))
    ]
    if not items:
        raise DataError(f"{name}: holds no questions")
    return items


def _item(where: str, record: Any) -> MultipleChoiceItem:
    """Validate a record and return it as a question."""
    if not isinstance(record, Mapping):
        raise DataError(f"{where}: must be an object with the fields question, choices and answer")
    question = record.get("question")
    if not isinstance(question, str) or not question.strip():
        hint = "" if "question" in record else did_you_mean("question", record)
        raise DataError(f"{where}, field 'question': is missing, empty or not text.{hint}")
    choices = _choices(where, record.get("choices"))
    subject = record.get("subject")
    if subject is not None and not (isinstance(subject, str) and subject.strip()):
        raise DataError(f"{where}, field 'subject': is empty or not text. Give it text or leave it out.")
    for field, texts in (("question", [question]), ("choices", choices), ("subject", [subject or ""])):
        for problem in filter(None, map(encoding_problem, texts)):
            raise DataError(f"{where}, field {field!r}: {problem}")
    return MultipleChoiceItem(question, choices, _answer(where, record.get("answer"), choices), subject)


def _choices(where: str, value: Any) -> tuple[str, ...]:
    """Return the choices of a record as texts."""
    choices = [label_as_text(choice) for choice in value] if isinstance(value, (list, tuple)) else []
    if len(choices) < 2 or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise DataError(f"{where}, field 'choices': must be a list of two or more texts")
    if len(set(choices)) < len(choices):
        raise DataError(f"{where}, field 'choices': the same choice occurs twice")
    return tuple(choices)


def _answer(where: str, value: Any, choices: tuple[str, ...]) -> int:
    """Return the index of the right choice."""
    if isinstance(value, str) and value in choices:
        return choices.index(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices):
        return value
    raise DataError(
        f"{where}, field 'answer': {value!r} is neither one of the choices nor the index of one "
        f"(0 to {len(choices) - 1})"
    )
