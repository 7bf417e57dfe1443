"""The request type of this package, and its validation."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from easyedit_lifelong.errors import DataError, did_you_mean

NO_ANSWER = "<|endoftext|>"
"""EasyEdit's default for ``ground_truth``; it means that there is none."""

RELATION_SPECIFICITY = "relation_specificity"
"""KnowEdit's name for the locality set with other questions about the edited subject."""


@dataclass(frozen=True)
class Probe:
    """A prompt that an edited model is evaluated on, and the expected answer."""

    prompt: str
    answer: str


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
    source: str = field(default="", compare=False, repr=False)

    @property
    def where(self) -> str:
        """Source and case_id of this request, for messages."""
        return f"{self.source} (case {self.case_id})" if self.source else f"case {self.case_id}"

    @classmethod
    def from_dict(cls, record: Any, where: str, case_id: int | str | None = None) -> EditRequest:
        """Make a request of a record with EasyEdit's request fields.

        ``prompt`` and ``target_new`` are required. Optional fields are:

        - ``case_id``, ``subject``;
        - ``ground_truth``: text, or a list whose first entry is used;
        - ``rephrase_prompt``: text or a list of texts;
        - ``locality`` and ``portability``: ``{name: {"prompt": …, "ground_truth": …}}``, or, as in KnowEdit's files,
          ``{name: [{"prompt": …, "ground_truth": …}, …]}``;
        - ``locality_prompt`` and ``locality_ground_truth``, as in EasyEdit's datasets, and the same for portability;
        - relation specificity: KnowEdit's locality set ``Relation_Specificity``, or ``relation_specificity_prompt`` and
          ``relation_specificity_ground_truth``.

        Args:
            record: the record.
            where: name of the record in messages, e.g. ``"facts.json, record 3"``.
            case_id: the case_id of a record that has none.

        Raises:
            DataError: a field is missing or has an invalid value.
        """
        if not isinstance(record, Mapping):
            raise DataError(f"{where}: must be an object with the fields of a request, not {_kind(record)}")
        reader = _RecordReader(record, where)
        subject = None if record.get("subject") is None else reader.required_text("subject")
        prompt = reader.required_text("prompt")
        locality = reader.probes("locality")
        in_locality = [name for name in locality if _is_relation_specificity(name)]
        specificity = tuple(probe for name in in_locality for probe in locality.pop(name))
        flat = reader.flat_probe(RELATION_SPECIFICITY)
        return cls(
            case_id=reader.case_id(case_id),
            prompt=prompt,
            target_new=reader.required_text("target_new").strip(),
            subject=subject,
            ground_truth=reader.ground_truth(),
            rephrase_prompts=reader.texts("rephrase_prompt"),
            locality=reader.with_flat_probe("locality", locality, "neighborhood"),
            portability=reader.with_flat_probe("portability", reader.probes("portability"), "one_hop"),
            relation_specificity=specificity or flat,
            source=where,
        )


def as_requests(records: Iterable[Any]) -> list[EditRequest]:
    """Validate a list of requests in the form in which EasyEdit passes them to an apply function.

    Raises:
        DataError: a request is invalid; the message names the request and the field.
    """
    return [
        record if isinstance(record, EditRequest) else EditRequest.from_dict(record, f"request {i}", case_id=i)
        for i, record in enumerate(records)
    ]


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


class _RecordReader:
    """Reads and validates the fields of a record. Its errors name the record and the field."""

    def __init__(self, record: Mapping[str, Any], where: str) -> None:
        self.record, self.where = record, where

    def error(self, name: str, problem: str) -> DataError:
        return DataError(f"{self.where}, field {name!r}: {problem}")

    def required_text(self, name: str) -> str:
        value = self.record.get(name)
        if value is None:
            raise self.error(name, f"is missing.{did_you_mean(name, set(self.record) - {name})}")
        return self.check_text(name, value)

    def check_text(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self.error(name, f"must be text, not {_kind(value)}")
        if not value.strip():
            raise self.error(name, "is empty. Give it text or remove the record.")
        return self.check_encodable(name, value)

    def check_encodable(self, name: str, value: str) -> str:
        problem = encoding_problem(value)
        if problem:
            raise self.error(name, problem)
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.record.get(name)
        values = value if isinstance(value, list) else [] if value is None else [value]
        return tuple(self.check_text(name, item) for item in values)

    def case_id(self, default: int | str | None) -> int | str:
        value = self.record.get("case_id", default)
        if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
            raise self.error("case_id", f"must be a whole number or text, not {_kind(value)}")
        return self.check_encodable("case_id", value) if isinstance(value, str) else value

    def ground_truth(self) -> str | None:
        value = self.record.get("ground_truth")
        value = next(iter(value), None) if isinstance(value, list) else value
        return None if value is None or value == NO_ANSWER else self.check_text("ground_truth", value).strip()

    def flat_probe(self, kind: str) -> tuple[Probe, ...]:
        if self.record.get(f"{kind}_prompt") is None:
            return ()
        return (Probe(self.required_text(f"{kind}_prompt"), self.required_text(f"{kind}_ground_truth").strip()),)

    def with_flat_probe(
        self, kind: str, sets: dict[str, tuple[Probe, ...]], name: str
    ) -> Mapping[str, tuple[Probe, ...]]:
        """Add the flat fields' probe to probe sets as the set ``name``, unless a set of that name exists."""
        flat = self.flat_probe(kind)
        return MappingProxyType({**sets, name: sets.get(name, flat)} if flat else sets)

    def probes(self, kind: str) -> dict[str, tuple[Probe, ...]]:
        sets = self.record.get(kind)
        if sets is None:
            return {}
        if not isinstance(sets, Mapping):
            raise self.error(kind, f"must map names to prompts and answers, not {_kind(sets)}")
        names = [self.check_encodable(kind, str(name)) for name in sets]
        return {
            name: self.probe_set(f"{kind}.{name}", probes) for name, probes in zip(names, sets.values(), strict=True)
        }

    def probe_set(self, name: str, probes: Any) -> tuple[Probe, ...]:
        if isinstance(probes, list):  # as in KnowEdit's files: a list of objects
            lists = [self.prompts_and_answers(f"{name}[{index}]", probe) for index, probe in enumerate(probes)]
            return tuple(itertools.chain.from_iterable(lists))
        return self.prompts_and_answers(name, probes)

    def prompts_and_answers(self, name: str, probes: Any) -> tuple[Probe, ...]:
        if not isinstance(probes, Mapping) or not {"prompt", "ground_truth"} <= set(probes):
            raise self.error(name, "needs 'prompt' and 'ground_truth'")
        prompts, answers = probes["prompt"], probes["ground_truth"]
        # With a single prompt, a list of answers holds aliases of one answer.
        has_many = isinstance(prompts, list)
        prompts = prompts if has_many else [prompts]
        answers = answers if isinstance(answers, list) and (has_many or len(answers) == 1) else [answers]
        if len(prompts) != len(answers):
            raise self.error(name, f"has {len(prompts)} prompts and {len(answers)} answers")
        return tuple(
            Probe(
                self.check_text(f"{name}.prompt", prompt), self.check_text(f"{name}.ground_truth", _first_alias(answer))
            )
            for prompt, answer in zip(prompts, answers, strict=True)
        )


def _first_alias(answer: Any) -> Any:
    """Return the first alias of an answer. KnowEdit's files nest lists: several answers, each with aliases."""
    while isinstance(answer, list) and answer:
        answer = answer[0]
    return answer


def encoding_problem(text: str) -> str | None:
    """Return the problem of a text with an unpaired surrogate, which tokenizers and files refuse; None without one."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = f"\\u{ord(text[error.start]):04x}"
        position = f"{code}, at position {error.start}"
        return f"holds an incomplete character ({position}), an unpaired surrogate. Correct the text."
    return None


def _is_relation_specificity(name: str) -> bool:
    """Whether a locality set is relation specificity; capitals, spaces and underscores in its name don't matter."""
    return "".join(name.replace("_", " ").split()).casefold() == RELATION_SPECIFICITY.replace("_", "")


def _kind(value: Any) -> str:
    """Return the JSON type of a value, for messages."""
    names = {dict: "an object", list: "a list", str: "text", int: "a number", float: "a number", bool: "true/false"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)
