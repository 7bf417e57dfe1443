"""The facts that are traced: a prompt, its subject and the answer; their files, and their tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from easyedit_lifelong.data.reading_notes import ReadingNotes
from easyedit_lifelong.data.record_fields import RecordFields
from easyedit_lifelong.data.record_streams import iterate_records
from easyedit_lifelong.data.subjects import find_subject
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.methods.shared.subject_positions import token_of_span
from easyedit_lifelong.models.encoding import encode_pair

_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "prompt": ("prompt",),
        "subject": ("subject",),
        "ground_truth": ("attribute", "ground_truth"),
        "case_id": ("known_id", "case_id"),
    }
)


@dataclass(frozen=True)
class KnownFact:
    """A fact to trace.

    Attributes:
        fact_id: identifier of the fact, unique in its file.
        prompt: the text that the model continues with the answer.
        subject: the words of the prompt that name the entity that the fact is about.
        answer: the true answer.
        where: file and record, for messages.
    """

    fact_id: int | str
    prompt: str
    subject: str
    answer: str
    where: str = "the fact"


@dataclass(frozen=True)
class EncodedFact:
    """A fact as token ids.

    Attributes:
        fact: the fact.
        prompt: token ids of the prompt, special tokens included.
        answer: token ids of the answer.
        subject: the subject's tokens in the prompt: index of the first, and of the one after the last.
    """

    fact: KnownFact
    prompt: list[int]
    answer: list[int]
    subject: tuple[int, int]

    @property
    def subject_ids(self) -> list[int]:
        """Token ids of the subject."""
        return self.prompt[slice(*self.subject)]


def read_known_facts(path: Path) -> list[KnownFact]:
    """Read facts from a JSON, JSON Lines, CSV, TSV or parquet file.

    A record has ``prompt``, ``subject``, and ``attribute`` (ROME's ``known_1000.json``) or ``ground_truth`` (edit
    requests). ``known_id`` or ``case_id`` identifies it; without them, its index does.

    Raises:
        DataError: the file can't be read, or a record can't be used; the message names record and field.
    """
    notes = ReadingNotes(path)
    facts: dict[int | str, KnownFact] = {}
    for index, record in enumerate(iterate_records(path, notes)):
        fields = RecordFields(record, f"{path}, record {index}", _NAMES, notes)
        name, fact_id = fields.find("case_id")
        if isinstance(fact_id, str):
            fact_id = fields.check_text(name, fact_id)
        fact = KnownFact(
            fact_id if isinstance(fact_id, (int, str)) else index,
            prompt=fields.required_text("prompt"),
            subject=fields.required_text("subject"),
            answer=fields.required_text("ground_truth"),
            where=fields.where,
        )
        if fact.fact_id in facts:
            raise DataError(f"{fact.where}: has the identifier {fact.fact_id!r} of another record. Give it its own.")
        facts[fact.fact_id] = fact
    notes.log()
    if not facts:
        raise DataError(f"{path}: holds no records")
    return list(facts.values())


def encode_known_fact(tokenizer: Any, fact: KnownFact) -> EncodedFact:
    """Encode a fact, and find the tokens of its subject.

    Raises:
        DataError: the prompt does not contain the subject, or has no tokens.
    """
    prompt, subject = fact.prompt.rstrip(), fact.subject.strip()
    span = find_subject(prompt, subject) if subject else None
    if span is None:
        raise DataError(
            f"{fact.where}, field 'subject': {fact.subject!r} isn't in the prompt {fact.prompt!r}. Spell it as the "
            "prompt does, or leave the record out."
        )
    try:
        pair = encode_pair(tokenizer, prompt, fact.answer.strip())
    except DataError as error:
        raise DataError(f"{fact.where}: {error}") from error
    first = token_of_span(tokenizer, prompt, span, "subject_first")
    last = token_of_span(tokenizer, prompt, span, "subject_last")
    return EncodedFact(fact, pair.prompt, pair.target, (first, last + 1))
