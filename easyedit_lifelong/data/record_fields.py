"""Read the fields of one record of a dataset file, with messages that name the file, the record and the field."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from easyedit_lifelong.data.probes import Probe
from easyedit_lifelong.data.reading_notes import ReadingNotes
from easyedit_lifelong.errors import DataError, did_you_mean
from easyedit_lifelong.plurals import counted

NO_ANSWER = "<|endoftext|>"
"""EasyEdit's default for ``ground_truth``; it means that there is none."""

FieldNames = Mapping[str, tuple[str, ...]]
"""The names that a format has for each request field. A field that isn't a key of the mapping isn't read."""

_SETS = {"locality": "neighborhood", "portability": "one_hop"}
"""The kinds of probe sets, and the name of a set that has none in the file."""

_KINDS = (*_SETS, "relation_specificity")
_FLAT = tuple(f"{kind}_{part}" for kind in _KINDS for part in ("prompt", "ground_truth"))
_FIELDS = (
    "case_id",
    "prompt",
    "target_new",
    "subject",
    "aliases",
    "ground_truth",
    "rephrase_prompt",
    *_SETS,
    *_FLAT,
    "joiner",
    "context_turns",
)

REQUEST_FIELDS: FieldNames = MappingProxyType({name: (name,) for name in _FIELDS})
"""EasyEdit's request fields, each under its own name."""

_PROMPT_NAMES, _ANSWER_NAMES = ("prompt", "loc"), ("ground_truth", "answer", "loc_ans")
"""The names of a probe's prompt and answer in lists and sets of probes."""


class RecordFields:
    """The fields of one record. Its errors name the record and the field.

    A value that other tools write for a missing one (null, NaN, an empty text) is an absent value. A probe without
    prompt or answer is left out, and noted.

    Args:
        record: the record.
        where: name of the record in messages, e.g. ``"facts.json, record 3"``.
        names: the format's names of the request fields.
        notes: receives what the user should know, but that doesn't make the record unusable.

    Raises:
        DataError: the record isn't an object.
    """

    def __init__(
        self, record: Any, where: str, names: FieldNames = REQUEST_FIELDS, notes: ReadingNotes | None = None
    ) -> None:
        if not isinstance(record, Mapping):
            raise DataError(f"{where}: must be an object with the fields of a request, not {kind_of_value(record)}")
        self.record, self.where, self.names = record, where, names
        self.notes = ReadingNotes(where) if notes is None else notes

    def note_misspelt_names(self) -> None:
        """Note unknown fields of the record whose names resemble those of known fields."""
        self.notes.check_names(self.record, itertools.chain.from_iterable(self.names.values()))

    def error(self, name: str, problem: str) -> DataError:
        """Return an error that names the record and a field of it."""
        return DataError(f"{self.where}, field {name!r}: {problem}")

    def find(self, field: str) -> tuple[str, Any]:
        """Return the name that a request field has in this record, and its value (None if it is absent)."""
        names = self.names.get(field, ())
        for name in names:
            if not is_absent(self.record.get(name)):
                return name, self.record[name]
        present = next((name for name in names if name in self.record), None)
        return present or next(iter(names), field), None

    def required_text(self, field: str) -> str:
        """Return the text of a field that every record must have."""
        name, value = self.find(field)
        if value is not None:
            return self.check_text(name, value)
        if isinstance(self.record.get(name), str):
            raise self.error(name, "is empty. Give it text or remove the record.")
        raise self.error(name, f"is missing.{did_you_mean(name, set(self.record) - {name})}")

    def optional_text(self, field: str) -> str | None:
        """Return the text of a field, or None if it is absent."""
        name, value = self.find(field)
        return None if value is None else self.check_text(name, value)

    def label(self, field: str) -> str:
        """Return the label of a field that every record must have: a text, or a number as text."""
        value = self.find(field)[1]
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return str(value) if is_number else self.required_text(field)

    def check_text(self, name: str, value: Any) -> str:
        """Return a value that must be text."""
        if not isinstance(value, str):
            raise self.error(name, f"must be text, not {kind_of_value(value)}")
        if not value.strip():
            raise self.error(name, "is empty. Give it text or remove the record.")
        return self._check_encodable(name, value)

    def texts(self, field: str) -> tuple[str, ...]:
        """Return the texts of a field: one, or a list. If the format has several names for it, all of them count."""
        found: list[str] = []
        for name in self.names.get(field, ()):
            value = self.record.get(name)
            if is_absent(value):
                continue
            for item in value if isinstance(value, list) else [value]:
                if is_absent(item):
                    self.note_dropped(name)
                else:
                    found.append(self.check_text(name, item))
        return tuple(found)

    def case_id(self, default: int | str | None) -> int | str:
        """Return the record's case_id, or the default if it has none."""
        name, value = self.find("case_id")
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise self.error(name, f"must be a whole number or text, not {kind_of_value(value)}")
        return self._check_encodable(name, value) if isinstance(value, str) else value

    def ground_truth(self) -> str | None:
        """Return the true answer: a text, or the first of a list; None if the record has none."""
        name, value = self.find("ground_truth")
        value = next(iter(value), None) if isinstance(value, list) else value
        return None if is_absent(value) or value == NO_ANSWER else self.check_text(name, value).strip()

    def joiner(self) -> str | None:
        """Return what stands between prompt and answer; an empty text is a value. None if the texts decide."""
        value = next((self.record[name] for name in self.names.get("joiner", ()) if name in self.record), None)
        if value == "auto" or (is_absent(value) and not isinstance(value, str)):
            return None
        if not isinstance(value, str):
            raise self.error("joiner", f"must be text, not {kind_of_value(value)}")
        return self._check_encodable("joiner", value)

    def context_turns(self) -> tuple[tuple[str, str], ...]:
        """Return the earlier turns of a chat, each a role and a content; none if the field is absent."""
        name, value = self.find("context_turns")
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self.error(name, f"must be a list of turns, not {kind_of_value(value)}")
        turns = []
        for number, turn in enumerate(value):
            if not isinstance(turn, Mapping) or set(turn) != {"role", "content"}:
                raise self.error(f"{name}[{number}]", "must be an object with 'role' and 'content'")
            role, content = (self.check_text(f"{name}[{number}].{key}", turn[key]) for key in ("role", "content"))
            turns.append((role, content))
        return tuple(turns)

    def flat_probe(self, kind: str) -> tuple[Probe, ...]:
        """Return the probe of the fields ``<kind>_prompt`` and ``<kind>_ground_truth``; none if one is absent."""
        (prompt_name, prompt), (answer_name, answer) = self.find(f"{kind}_prompt"), self.find(f"{kind}_ground_truth")
        if prompt is None and answer is None:
            return ()
        for name in (prompt_name, answer_name):
            if name not in self.record:
                raise self.error(
                    name, f"is missing.{did_you_mean(name, set(self.record) - {prompt_name, answer_name})}"
                )
        if prompt is None or answer is None:
            self.note_dropped(prompt_name if prompt is None else answer_name)
            return ()
        return (Probe(self.check_text(prompt_name, prompt), self.check_text(answer_name, answer).strip()),)

    def probe_sets(self, kind: str) -> dict[str, tuple[Probe, ...]]:
        """Return sets of probes by name: from an object of sets, or a list that is one set; and the flat fields' probe.

        The flat fields are a set called ``neighborhood`` (locality) or ``one_hop`` (portability), unless the record has
        a set of this name.
        """
        name, value = self.find(kind)
        if isinstance(value, list):
            value = {_SETS[kind]: value}
        elif value is not None and not isinstance(value, Mapping):
            raise self.error(name, f"must map names to prompts and answers, not {kind_of_value(value)}")
        sets = {
            self._check_encodable(name, str(set_name)): self._probe_set(f"{name}.{set_name}", probes)
            for set_name, probes in (value or {}).items()
            if not is_absent(probes)
        }
        flat = self.flat_probe(kind)
        return {**sets, _SETS[kind]: sets.get(_SETS[kind], flat)} if flat else sets

    def note_dropped(self, name: str) -> None:
        """Note that a probe is left out, since this field of it is empty."""
        self.notes.dropped.append(f"{self.where}, field {name!r}")

    def _probe_set(self, name: str, probes: Any) -> tuple[Probe, ...]:
        if isinstance(probes, list):  # as in KnowEdit's files: a list of objects
            lists = [self._probes(f"{name}[{index}]", probe) for index, probe in enumerate(probes)]
            return tuple(itertools.chain.from_iterable(lists))
        return tuple(self._probes(name, probes))

    def _probes(self, name: str, probes: Any) -> Iterator[Probe]:
        """Yield the probes of an object with a prompt and an answer, or with lists of both."""
        if is_absent(probes):
            self.note_dropped(name)
            return
        prompt_name, answer_name = _key_of(probes, _PROMPT_NAMES), _key_of(probes, _ANSWER_NAMES)
        if prompt_name is None or answer_name is None:
            raise self.error(name, "needs 'prompt' and 'ground_truth'")
        prompts, answers = probes[prompt_name], probes[answer_name]
        if prompts is None and answers is None:  # a table has a value for every field of every set
            return
        # With a single prompt, a list of answers holds aliases of one answer.
        has_many = isinstance(prompts, list)
        prompts = prompts if has_many else [prompts]
        answers = answers if isinstance(answers, list) and (has_many or len(answers) == 1) else [answers]
        if len(prompts) != len(answers):
            raise self.error(name, f"has {counted(len(prompts), 'prompt')} and {counted(len(answers), 'answer')}")
        for prompt, aliases in zip(prompts, answers, strict=True):
            answer = _first_alias(aliases)
            if is_absent(prompt) or is_absent(answer):
                self.note_dropped(f"{name}.{prompt_name if is_absent(prompt) else answer_name}")
                continue
            yield Probe(
                self.check_text(f"{name}.{prompt_name}", prompt), self.check_text(f"{name}.{answer_name}", answer)
            )

    def _check_encodable(self, name: str, value: str) -> str:
        problem = encoding_problem(value)
        if problem:
            raise self.error(name, problem)
        return value


def is_absent(value: Any) -> bool:
    """Whether a value is one that tools write for a missing one: null, NaN, or a text without a character."""
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    )


def encoding_problem(text: str) -> str | None:
    """Return the problem of a text with an unpaired surrogate, which tokenizers and files refuse; None without one."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = f"\\u{ord(text[error.start]):04x}"
        position = f"{code}, at position {error.start}"
        return f"holds an incomplete character ({position}), an unpaired surrogate. Correct the text."
    return None


def kind_of_value(value: Any) -> str:
    """Return the JSON type of a value, for messages."""
    names = {dict: "an object", list: "a list", str: "text", int: "a number", float: "a number", bool: "true/false"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def _key_of(probes: Any, names: Sequence[str]) -> str | None:
    """Return the first of these names under which an object has a value, else the first that it has at all."""
    present = [name for name in names if isinstance(probes, Mapping) and name in probes]
    return next((name for name in present if probes[name] is not None), next(iter(present), None))


def _first_alias(answer: Any) -> Any:
    """Return the first alias of an answer that isn't absent; None if there is none.

    KnowEdit's files nest lists: several answers, each with aliases.
    """
    if not isinstance(answer, list):
        return answer
    return next((alias for alias in map(_first_alias, answer) if not is_absent(alias)), None)
