"""The one request type that everything in this package takes, validated on the way in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from easyedit_lifelong.errors import DataError, did_you_mean

NO_ANSWER = "<|endoftext|>"
"""EasyEdit's default ground truth; it means that none was given."""

RELATION_SPECIFICITY = "relation_specificity"
"""The locality set that asks something else about the edited subject, as KnowEdit calls it."""


@dataclass(frozen=True)
class Probe:
    """A question about the edited model, and its answer."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class EditRequest:
    """One fact to edit, and what to ask about it.

    Attributes:
        case_id: unique in a run.
        prompt: the text that the answer follows.
        target_new: the answer that the model shall give.
        subject: what the fact is about, as it stands in the prompt.
        ground_truth: the answer that is true, or was before.
        rephrase_prompts: other wordings of the prompt (generality).
        locality: facts that must not change, by name of the probe set (locality).
        portability: what follows from the edit, by name of the probe set (portability).
        relation_specificity: other facts about the same subject, which must not change either.
        source: file and record that it was read from, for messages.
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
    source: str = field(default="", compare=False, repr=False)

    @property
    def where(self) -> str:
        """Where this request comes from, for messages."""
        return f"{self.source} (case {self.case_id})" if self.source else f"case {self.case_id}"

    @classmethod
    def from_dict(cls, record: Any, where: str, case_id: int | str | None = None) -> EditRequest:
        """Validate a record in EasyEdit's request fields.

        Besides ``prompt`` and ``target_new``, these are read when present: ``case_id``, ``subject``,
        ``ground_truth`` (text, or a list of which the first counts), ``rephrase_prompt`` (text or
        list), ``locality`` and ``portability`` (``{name: {"prompt": …, "ground_truth": …}}``, or as
        KnowEdit's files have them, ``{name: [{"prompt": …, "ground_truth": …}, …]}``), and the flat
        ``locality_prompt``/``locality_ground_truth`` of EasyEdit's datasets. KnowEdit's locality set
        ``Relation_Specificity``, or the flat ``relation_specificity_prompt`` and
        ``relation_specificity_ground_truth``, become the field of that name.

        Args:
            record: the record.
            where: what to call it in messages, e.g. ``"facts.json, record 3"``.
            case_id: the id if the record has none.

        Raises:
            DataError: a field is missing or can't be used.
        """
        if not isinstance(record, Mapping):
            raise DataError(f"{where}: must be an object with the fields of a request, not {_kind(record)}")
        reader = _Reader(record, where)
        subject = None if record.get("subject") is None else reader.text("subject")
        prompt = reader.text("prompt")
        locality = reader.probes("locality")
        specific = tuple(probe for name in list(locality) if _is_specificity(name) for probe in locality.pop(name))
        flat = reader.flat_probe(RELATION_SPECIFICITY)
        return cls(
            case_id=reader.case_id(case_id),
            prompt=prompt,
            target_new=reader.text("target_new").strip(),
            subject=subject,
            ground_truth=reader.answer(),
            rephrase_prompts=reader.texts("rephrase_prompt"),
            locality=reader.with_flat_probe("locality", locality, "neighborhood"),
            portability=reader.with_flat_probe("portability", reader.probes("portability"), "one_hop"),
            relation_specificity=specific or flat,
            source=where,
        )


def as_requests(records: Iterable[Any]) -> list[EditRequest]:
    """Validate a list of requests as EasyEdit passes them to an apply function.

    Raises:
        DataError: a request can't be used; the message says which, and which field.
    """
    return [
        record if isinstance(record, EditRequest) else EditRequest.from_dict(record, f"request {i}", case_id=i)
        for i, record in enumerate(records)
    ]


def check_unique(requests: Iterable[EditRequest]) -> None:
    """Check that no two requests have the same case_id.

    Raises:
        DataError: two have.
    """
    seen: dict[Any, EditRequest] = {}
    for request in requests:
        if request.case_id in seen:
            raise DataError(
                f"{request.where}, field 'case_id': {request.case_id!r} is used before, by "
                f"{seen[request.case_id].source or 'another request'}. Give every record its own."
            )
        seen[request.case_id] = request


class _Reader:
    """Reads a record's fields; its errors name the record's place and the field."""

    def __init__(self, record: Mapping[str, Any], where: str) -> None:
        self.record, self.where = record, where

    def fail(self, name: str, problem: str) -> DataError:
        return DataError(f"{self.where}, field {name!r}: {problem}")

    def text(self, name: str) -> str:
        value = self.record.get(name)
        if value is None:
            raise self.fail(name, f"is missing.{did_you_mean(name, set(self.record) - {name})}")
        return self.checked(name, value)

    def checked(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self.fail(name, f"must be text, not {_kind(value)}")
        if not value.strip():
            raise self.fail(name, "is empty. Give it text or remove the record.")
        return self.encodable(name, value)

    def encodable(self, name: str, value: str) -> str:
        problem = half_character(value)
        if problem:
            raise self.fail(name, problem)
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.record.get(name)
        values = value if isinstance(value, list) else [] if value is None else [value]
        return tuple(self.checked(name, item) for item in values)

    def case_id(self, default: int | str | None) -> int | str:
        value = self.record.get("case_id", default)
        if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
            raise self.fail("case_id", f"must be a whole number or text, not {_kind(value)}")
        return self.encodable("case_id", value) if isinstance(value, str) else value

    def answer(self) -> str | None:
        value = self.record.get("ground_truth")
        value = next(iter(value), None) if isinstance(value, list) else value
        return None if value is None or value == NO_ANSWER else self.checked("ground_truth", value).strip()

    def flat_probe(self, kind: str) -> tuple[Probe, ...]:
        if self.record.get(f"{kind}_prompt") is None:
            return ()
        return (Probe(self.text(f"{kind}_prompt"), self.text(f"{kind}_ground_truth").strip()),)

    def with_flat_probe(
        self, kind: str, sets: dict[str, tuple[Probe, ...]], name: str
    ) -> Mapping[str, tuple[Probe, ...]]:
        """Return probe sets; the flat fields' probe is the set ``name``, unless there is a set of that name."""
        flat = self.flat_probe(kind)
        return MappingProxyType({**sets, name: sets.get(name, flat)} if flat else sets)

    def probes(self, kind: str) -> dict[str, tuple[Probe, ...]]:
        sets = self.record.get(kind)
        if sets is None:
            return {}
        if not isinstance(sets, Mapping):
            raise self.fail(kind, f"must map names to prompts and answers, not {_kind(sets)}")
        names = [self.encodable(kind, str(name)) for name in sets]
        return {
            name: self.probe_set(f"{kind}.{name}", probes) for name, probes in zip(names, sets.values(), strict=True)
        }

    def probe_set(self, name: str, probes: Any) -> tuple[Probe, ...]:
        if isinstance(probes, list):  # as in KnowEdit's files: prompt and answer, one by one
            each = [self.prompts_and_answers(f"{name}[{index}]", probe) for index, probe in enumerate(probes)]
            return tuple(probe for one in each for probe in one)
        return self.prompts_and_answers(name, probes)

    def prompts_and_answers(self, name: str, probes: Any) -> tuple[Probe, ...]:
        if not isinstance(probes, Mapping) or not {"prompt", "ground_truth"} <= set(probes):
            raise self.fail(name, "needs 'prompt' and 'ground_truth'")
        prompts, answers = probes["prompt"], probes["ground_truth"]
        several = isinstance(prompts, list)  # else a list of answers holds one prompt's aliases
        prompts = prompts if several else [prompts]
        answers = answers if isinstance(answers, list) and (several or len(answers) == 1) else [answers]
        if len(prompts) != len(answers):
            raise self.fail(name, f"has {len(prompts)} prompts and {len(answers)} answers")
        return tuple(
            Probe(self.checked(f"{name}.prompt", prompt), self.checked(f"{name}.ground_truth", _first(answer)))
            for prompt, answer in zip(prompts, answers, strict=True)
        )


def _first(answer: Any) -> Any:
    """Return the first of an answer's aliases; KnowEdit's files have lists of several answers' aliases, too."""
    while isinstance(answer, list) and answer:
        answer = answer[0]
    return answer


def half_character(text: str) -> str | None:
    """Say where a text holds half a character, which neither a tokenizer nor a file takes; None if it doesn't."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"holds half a character (\\u{ord(text[error.start]):04x}, at position {error.start}). Mend the text."
    return None


def _is_specificity(name: str) -> bool:
    """Whether a locality set is relation specificity, whatever its capitals, spaces and underscores."""
    return "".join(name.replace("_", " ").split()).casefold() == RELATION_SPECIFICITY.replace("_", "")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", int: "a number", float: "a number", bool: "true/false"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)
