"""Read UniEdit (Chen et al., 2025): facts of 25 domains, each with a generality and a locality question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from easyedit_lifelong.data.json_files import holds_json_object, iterate_json_object
from easyedit_lifelong.data.probes import Probe
from easyedit_lifelong.data.reading import ReadResult, read_each
from easyedit_lifelong.data.reading_notes import ReadingNotes
from easyedit_lifelong.data.record_fields import FieldNames, RecordFields, is_absent, kind_of_value
from easyedit_lifelong.data.record_streams import iterate_records
from easyedit_lifelong.data.request import EditRequest

YES_NO = " The answer is (Yes/No):"
"""What the authors' code puts after a question about two paths, whose answer is Yes or No."""

_NAMES: FieldNames = {name: (name,) for name in ("case_id", "edit", "generality", "locality")}
_EDIT: FieldNames = {"prompt": ("prompt",), "target_new": ("target",), "subject": ("subject",)}
_QUESTION: FieldNames = {"prompt": ("prompt",), "answer": ("target",), "loc_type": ("loc_type",)}

_EDITED_FACT, _REVERSED_FACT = ["h_e", "r_e", "t_e", "f"], ["t_e", "r_e", "h_e", "b"]
"""The edited fact in the paths of a question: asked for its tail, or for its head."""


def read_uniedit(path: Path) -> Iterator[ReadResult]:
    """Read a file of UniEdit: one domain, an object of samples by their ids. The id is the case_id.

    A generality question about the edited fact alone, with the edit's target, is a paraphrase. The others are
    portability sets: ``object_alias`` (the same with another name of the target), ``relation_reversal``, ``multi_hop``
    and ``same_entity``, whose questions are answered by Yes or No. Locality questions are sets by the part of the edit
    that they are about. The facts of which a question is composed, and the entities' descriptions and aliases, aren't
    read.

    Raises:
        DataError: the file can't be read.
    """
    return read_each(path, _uniedit_request, _NAMES, _samples)


def _samples(path: Path, notes: ReadingNotes) -> Iterator[Any]:
    """Yield the samples of a file, with their ids; of a list, the samples as they are."""
    if path.suffix.lower() != ".json" or not holds_json_object(path):
        yield from iterate_records(path, notes)
        return
    for sample_id, sample in iterate_json_object(path, notes):
        yield {"case_id": sample_id, **sample} if isinstance(sample, Mapping) else sample


def _uniedit_request(fields: RecordFields, index: int) -> list[EditRequest]:
    """Return the request of a sample."""
    edit = _object(fields, "edit", fields.find("edit")[1], _EDIT)
    target, paraphrases = edit.required_text("target_new").strip(), []
    portability: dict[str, list[Probe]] = {}
    for question in _questions(fields, "generality"):
        kind = _kind_of(question.record)
        if (probe := _probe(question)) is None:
            continue
        if kind == "paraphrase" and probe.answer == target:
            paraphrases.append(probe.prompt)
        else:
            portability.setdefault("object_alias" if kind == "paraphrase" else kind, []).append(probe)
    locality: dict[str, list[Probe]] = {}
    for question in _questions(fields, "locality"):
        about = question.optional_text("loc_type") or "none"
        if (probe := _probe(question)) is not None:
            name = "neighborhood" if about == "none" else about.strip().replace(" ", "_")
            locality.setdefault(name, []).append(probe)
    return [
        EditRequest(
            fields.case_id(index),
            edit.required_text("prompt"),
            target,
            subject=edit.optional_text("subject"),
            rephrase_prompts=tuple(paraphrases),
            locality=MappingProxyType({name: tuple(probes) for name, probes in locality.items()}),
            portability=MappingProxyType({name: tuple(probes) for name, probes in portability.items()}),
            source=fields.where,
        )
    ]


def _questions(fields: RecordFields, field: str) -> Iterator[RecordFields]:
    """Yield the generality or locality questions of a sample: an object of them, by number."""
    name, questions = fields.find(field)
    if questions is None:
        return
    if not isinstance(questions, Mapping):
        raise fields.error(name, f"must be an object of questions, not {kind_of_value(questions)}")
    for key, question in questions.items():
        if not is_absent(question):  # a table has a value for every number
            yield _object(fields, f"{name}.{key}", question, _QUESTION)


def _object(fields: RecordFields, name: str, value: Any, names: FieldNames) -> RecordFields:
    """Return the fields of an object in a sample."""
    if not isinstance(value, Mapping):
        raise fields.error(name, f"must be an object, not {kind_of_value(value)}")
    return RecordFields(value, f"{fields.where}, {name}", names, fields.notes)


def _kind_of(question: Mapping[str, Any]) -> str:
    """Return what a generality question asks for: ``paraphrase``, or the name of its portability set."""
    if question.get("path_type") == "double":
        return "same_entity"
    paths = question.get("paths")
    hops = [hop[:4] for hop in paths if isinstance(hop, list)] if isinstance(paths, list) else []
    if len(hops) > 1:
        return "multi_hop"
    if hops == [_REVERSED_FACT]:
        return "relation_reversal"
    return "paraphrase" if hops == [_EDITED_FACT] else "one_hop"


def _probe(question: RecordFields) -> Probe | None:
    """Return the probe of a question; None if its prompt or answer is empty, which is noted."""
    texts = {field: question.find(field) for field in ("prompt", "answer")}
    for name, value in texts.values():
        if value is None:
            question.note_dropped(name)
            return None
    prompt, answer = (question.check_text(name, value) for name, value in texts.values())
    if question.record.get("path_type") == "double":
        prompt = f"{prompt.rstrip()}{YES_NO}"
    return Probe(prompt, answer.strip())
