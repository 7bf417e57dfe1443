"""The request type of this package, and its validation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from easyedit_lifelong.data.probes import Probe
from easyedit_lifelong.data.reading_notes import ReadingNotes
from easyedit_lifelong.data.record_fields import NO_ANSWER, RecordFields, encoding_problem
from easyedit_lifelong.data.subjects import Span
from easyedit_lifelong.errors import DataError

__all__ = ["NO_ANSWER", "EditRequest", "Probe", "as_requests", "check_unique", "encoding_problem", "set_key"]

RELATION_SPECIFICITY = "relation_specificity"
"""KnowEdit's name for the locality set with other questions about the edited subject."""


@dataclass(frozen=True)
class EditRequest:
    """One fact to edit, and the probes that evaluate the edit.

    Attributes:
        case_id: identifier of the request, unique in a run.
        prompt: the text that the model continues with the answer.
        target_new: the answer that the edited model should give.
        subject: the words of the prompt that name the entity that the fact is about.
        ground_truth: the true answer, or the answer before the edit.
        rephrase_prompts: paraphrases of the prompt (generality).
        locality: sets of probes whose answers must not change, by name of the set (locality).
        portability: sets of probes whose answers follow from the edit, by name of the set (portability).
        relation_specificity: probes about other facts of the same subject, whose answers must not change either.
        joiner: what stands between the prompt, or a paraphrase, and its answer; None: the texts decide.
        context_turns: earlier turns of the chat, each a role and a content, if the prompts are asked in a chat.
        question_span: the characters of the prompt that are the user's words, if the prompt is in chat form.
        aliases: other names of the subject.
        source: file and record that the request was read from, for messages.
    """

    case_id: int | str
    prompt: str
    target_new: str
    subject: str | None = None
    ground_truth: str | None = None
    rephrase_prompts: tuple[str, ...] = ()
    locality: Mapping[str, tuple[Probe, ...]] = field(default_factory=lambda: MappingProxyType({}))
    portability: Mapping[str, tuple[Probe, ...]] = field(default_factory=lambda: MappingProxyType({}))
    relation_specificity: tuple[Probe, ...] = ()
    joiner: str | None = None
    context_turns: tuple[tuple[str, str], ...] = ()
    question_span: Span | None = None
    aliases: tuple[str, ...] = ()
    source: str = field(default="", compare=False, repr=False)

    @property
    def where(self) -> str:
        """Source and case_id of this request, for messages."""
        return f"{self.source} (case {self.case_id})" if self.source else f"case {self.case_id}"

    @property
    def frame(self) -> tuple[str, str]:
        """The texts of the prompt before and after the user's words; empty if the prompt is not in chat form."""
        if self.question_span is None:
            return "", ""
        begin, end = self.question_span
        return self.prompt[:begin], self.prompt[end:]

    @property
    def question(self) -> str:
        """The user's words in a prompt in chat form; any other prompt."""
        return self.prompt if self.question_span is None else self.prompt[slice(*self.question_span)]

    @classmethod
    def from_dict(
        cls, record: Any, where: str, case_id: int | str | None = None, notes: ReadingNotes | None = None
    ) -> EditRequest:
        """Make a request of a record with EasyEdit's request fields.

        ``prompt`` and ``target_new`` are required. Optional fields are:

        - ``case_id``, ``subject``;
        - ``aliases``: another name of the subject, or a list of such names;
        - ``ground_truth``: text, or a list whose first entry is used;
        - ``rephrase_prompt``: text or a list of texts;
        - ``locality`` and ``portability``: ``{name: {"prompt": …, "ground_truth": …}}``, or, as in KnowEdit's files,
          ``{name: [{"prompt": …, "ground_truth": …}, …]}``, or such a list without a name;
        - ``locality_prompt`` and ``locality_ground_truth``, as in EasyEdit's datasets, and the same for portability;
        - relation specificity: KnowEdit's locality set ``Relation_Specificity``, or ``relation_specificity_prompt`` and
          ``relation_specificity_ground_truth``;
        - ``joiner``: what stands between the prompt and its answer, such as ``" "`` or ``""``; by default (``auto``),
          the texts decide;
        - ``context_turns``: earlier turns of a chat, ``[{"role": …, "content": …}, …]``.

        An optional field that is null, NaN or empty is absent. Of a probe, a prompt without an answer, or an answer
        without a prompt, is left out.

        Args:
            record: the record.
            where: name of the record in messages, e.g. ``"facts.json, record 3"``.
            case_id: the case_id of a record that has none.
            notes: receives what was left out. Without it, a warning is logged.

        Raises:
            DataError: a field is missing or has an invalid value.
        """
        fields = RecordFields(record, where, notes=notes)
        request = cls.from_fields(fields, case_id)
        fields.note_misspelt_names()
        if notes is None:
            fields.notes.log()
        return request

    @classmethod
    def from_fields(cls, fields: RecordFields, case_id: int | str | None = None) -> EditRequest:
        """Make a request of the fields of a record, by the names that its format has for them.

        Args:
            fields: the fields of the record.
            case_id: the case_id of a record that has none.

        Raises:
            DataError: a field is missing or has an invalid value.
        """
        prompt = fields.required_text("prompt")
        locality = fields.probe_sets("locality")
        in_locality = [name for name in locality if set_key(name) == set_key(RELATION_SPECIFICITY)]
        specificity = tuple(probe for name in in_locality for probe in locality.pop(name))
        flat = fields.flat_probe(RELATION_SPECIFICITY)
        subject, aliases = fields.optional_text("subject"), map(str.strip, fields.texts("aliases"))
        return cls(
            case_id=fields.case_id(case_id),
            prompt=prompt,
            target_new=fields.required_text("target_new").strip(),
            subject=subject,
            ground_truth=fields.ground_truth(),
            rephrase_prompts=fields.texts("rephrase_prompt"),
            locality=MappingProxyType(locality),
            portability=MappingProxyType(fields.probe_sets("portability")),
            relation_specificity=specificity or flat,
            joiner=fields.joiner(),
            context_turns=fields.context_turns(),
            aliases=tuple(dict.fromkeys(alias for alias in aliases if subject is None or alias != subject.strip())),
            source=fields.where,
        )


def as_requests(records: Iterable[Any]) -> list[EditRequest]:
    """Validate a list of requests in the form in which EasyEdit passes them to an apply function.

    Raises:
        DataError: a request is invalid; the message names the request and the field.
    """
    notes = ReadingNotes("requests")
    requests = [
        record if isinstance(record, EditRequest) else EditRequest.from_dict(record, f"request {i}", i, notes)
        for i, record in enumerate(records)
    ]
    notes.log()
    return requests


def check_unique(requests: Iterable[EditRequest]) -> None:
    """Check that no two requests have the same case_id.

    Raises:
        DataError: two requests have the same.
    """
    seen: dict[Any, EditRequest] = {}
    for request in requests:
        if request.case_id in seen:
            raise DataError(
                f"{request.where}, field 'case_id': {request.case_id!r} is used before, by "
                f"{seen[request.case_id].source or 'another request'}. Give every record its own case_id."
            )
        seen[request.case_id] = request


def set_key(name: str) -> str:
    """Return the name of a set of probes as it is compared: without capitals, spaces and underscores."""
    return "".join(name.replace("_", " ").split()).casefold()
