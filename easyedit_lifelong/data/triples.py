"""Triples of subject, relation and object: requests are made of them, and they are made of requests, by templates."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from easyedit_lifelong.atomic import write_text_atomically
from easyedit_lifelong.data.reading import ReadResult, read_each
from easyedit_lifelong.data.record_fields import FieldNames, RecordFields
from easyedit_lifelong.data.record_streams import iterate_records
from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.errors import DataError, did_you_mean

LOG = logging.getLogger(__name__)

SUBJECT = "{subject}"
"""The place of the subject in a template; ``{}`` means the same."""

_COLUMNS = ("subject", "relation", "object", "old_object", "case_id")
_NAMES: FieldNames = {
    **{name: (name,) for name in _COLUMNS},
    "name": ("name",),
    "templates": ("templates",),
    "samples": ("samples",),
}


@dataclass(frozen=True)
class Triple:
    """A fact: the object is what a relation of the subject is, or shall be.

    Attributes:
        subject: the subject.
        relation: the name of the relation.
        object: the object.
        old_object: the object before the edit, if it is known.
    """

    subject: str
    relation: str
    object: str
    old_object: str | None = None


@dataclass(frozen=True)
class Relation:
    """How a relation is asked.

    Attributes:
        prompts: templates; the first gives the prompt of an edit, the others its paraphrases.
        edit: whether facts of the relation are edited. Facts of the others are known: they must not change.
    """

    prompts: tuple[str, ...]
    edit: bool = True

    def ask(self, subject: str) -> list[str]:
        """Return the prompts about a subject."""
        return [prompt.replace(SUBJECT, subject) for prompt in self.prompts]


@dataclass(frozen=True)
class TripleFormat:
    """Reads triples as requests.

    The prompts of an edit are those of its relation. The known facts about its subject are its relation specificity
    probes.

    Attributes:
        relations: the relations, by name; empty for those that the data have. Of a file with ``samples``, only these
            are read.
        names: the file's names of the columns.
    """

    relations: Mapping[str, Relation]
    names: FieldNames = field(default_factory=lambda: _NAMES)

    @classmethod
    def of(cls, file: Path, relations: Any, columns: Any = None) -> TripleFormat:
        """Return the format that a YAML file describes.

        Args:
            file: the YAML file, for messages.
            relations: by name, a list of templates; or ``{"prompts": [...], "edit": false}``. A relation without
                templates has them in the data.
            columns: the file's names of ``subject``, ``relation``, ``object``, ``old_object`` and ``case_id``.

        Raises:
            DataError: a value is invalid; the message names its key.
        """
        if not isinstance(relations, Mapping) or not relations:
            raise DataError(f"{file}, relations: must map the names of relations to templates")
        names = dict(_NAMES)
        if not isinstance(columns, (Mapping, type(None))):
            raise DataError(f"{file}, columns: must map {', '.join(_COLUMNS)} to the file's columns")
        for name, column in (columns or {}).items():
            if name not in _COLUMNS or not isinstance(column, str):
                hint = did_you_mean(str(name), _COLUMNS)
                raise DataError(f"{file}, columns.{name}: must map {', '.join(_COLUMNS)} to the file's columns.{hint}")
            names[name] = (column,)
        return cls({str(name): _relation(file, str(name), value) for name, value in relations.items()}, names)

    def read(self, path: Path) -> Iterator[ReadResult]:
        """Read a file of triples: one in each record, or a relation with its ``samples`` in each record.

        At the file's end, a warning lists the relations of this format that no triple has.

        Raises:
            DataError: the file can't be read.
        """
        known = self._known_facts(path)
        number, found = 0, set[str]()

        def requests(fields: RecordFields, index: int) -> list[EditRequest]:
            nonlocal number
            made = []
            for triple, relation in self._triples(fields):
                found.add(triple.relation)
                if relation.edit:
                    made.append(_request(triple, relation, fields, number, known.get(triple.subject, ())))
                number += 1
            return made

        yield from read_each(path, requests, self.names)
        unused = [name for name in self.relations if name not in found]
        if unused:
            LOG.warning("%s: no usable triple has the relation %s", path, ", ".join(map(repr, unused)))

    def _known_facts(self, path: Path) -> dict[str, list[Probe]]:
        """Return the facts of a file that aren't edited, by subject."""
        known: dict[str, list[Probe]] = {}
        if all(relation.edit for relation in self.relations.values()):
            return known
        for index, record in enumerate(iterate_records(path)):
            try:
                triples = self._triples(RecordFields(record, f"{path}, record {index}", self.names))
            except DataError:
                continue  # reported when the edits are read
            for triple, relation in triples:
                if not relation.edit:
                    known.setdefault(triple.subject, []).append(Probe(relation.ask(triple.subject)[0], triple.object))
        return known

    def _triples(self, fields: RecordFields) -> list[tuple[Triple, Relation]]:
        """Return the triples of a record, with their relations."""
        if fields.find("samples")[1] is None:
            relation = self._relation_of(fields, "relation")
            return [(_triple(fields, fields.required_text("relation")), relation)]
        name = fields.required_text("name")
        if self.relations and name not in self.relations:
            return []  # a format file selects relations
        relation = self._relation_of(fields, "name")
        source, samples = fields.find("samples")
        if not isinstance(samples, list) or not samples or not all(isinstance(sample, Mapping) for sample in samples):
            raise fields.error(source, "must be a list of {subject, object}")
        rows = [
            RecordFields(sample, f"{fields.where}, {source}[{number}]", fields.names, fields.notes)
            for number, sample in enumerate(samples)
        ]
        return [(_triple(row, name), relation) for row in rows]

    def _relation_of(self, fields: RecordFields, field: str) -> Relation:
        """Return the relation that a field of a record names, with the record's templates if the format has none."""
        name = fields.required_text(field)
        relation = self.relations.get(name) if self.relations else Relation(())
        if relation is None:
            raise fields.error(fields.find(field)[0], f"{name!r} has no templates.{did_you_mean(name, self.relations)}")
        prompts = relation.prompts or tuple(map(_normalised, fields.texts("templates")))
        if not prompts or any(SUBJECT not in prompt for prompt in prompts):
            raise fields.error("templates", "must be texts that contain {} or {subject}")
        return Relation(prompts, relation.edit)


def read_relations(path: Path) -> Iterator[ReadResult]:
    """Read a file of relations with their templates and samples, as Hernandez et al. (2023) publish them.

    Each sample is an edit to its own object. A format file with ``relations`` says which relations are edited.

    Raises:
        DataError: the file can't be read.
    """
    return TripleFormat({}).read(path)


def triples_of(requests: Iterable[EditRequest], relations: Mapping[str, Relation]) -> list[Triple]:
    """Return the triples of requests: of each edit, and of each relation specificity probe about its subject.

    Args:
        requests: the requests.
        relations: the relations, whose prompts tell which one a request is about.

    Raises:
        DataError: a request has no subject, or its prompt is none of any relation.
    """
    triples: dict[Triple, None] = {}
    for request in requests:
        relation = _relation_asked(relations, request.prompt, request.subject)
        if relation is None or request.subject is None:
            raise DataError(f"{request.where}: no relation has a template for {request.prompt!r} with its subject")
        triples[Triple(request.subject, relation, request.target_new, request.ground_truth)] = None
        for probe in request.relation_specificity:
            other = _relation_asked(relations, probe.prompt, request.subject)
            if other is not None:
                triples[Triple(request.subject, other, probe.answer)] = None
    return list(triples)


def write_triples(path: Path, triples: Sequence[Triple]) -> None:
    """Write triples to a file: CSV, TSV or a JSON list, by its suffix.

    Raises:
        DataError: the file can't be written.
    """
    columns = ["subject", "relation", "object"]
    columns += ["old_object"] if any(triple.old_object for triple in triples) else []
    rows = [[getattr(triple, column) or "" for column in columns] for triple in triples]
    separator = {".csv": ",", ".tsv": "\t"}.get(path.suffix.lower())
    if separator is None:
        records = [{name: value for name, value in zip(columns, row, strict=True) if value} for row in rows]
        text = json.dumps(records, ensure_ascii=False, indent=1) + "\n"
    else:
        buffer = io.StringIO()
        csv.writer(buffer, delimiter=separator, lineterminator="\n").writerows([columns, *rows])
        text = buffer.getvalue()
    try:
        write_text_atomically(path, text, newline="")
    except OSError as error:
        raise DataError(f"{path}: can't be written: {error.strerror}") from error


def _relation(file: Path, name: str, value: Any) -> Relation:
    """Return a relation of a YAML file.

    Raises:
        DataError: a template or a key is invalid.
    """
    where = f"{file}, relations.{name}"
    settings = value if isinstance(value, Mapping) else {"prompts": value}
    unknown = next((key for key in settings if key not in ("prompts", "edit")), None)
    if unknown is not None:
        raise DataError(f"{where}: unknown key {unknown!r}.{did_you_mean(str(unknown), ('prompts', 'edit'))}")
    prompts, edit = settings.get("prompts"), settings.get("edit", True)
    prompts = [] if prompts is None else [prompts] if isinstance(prompts, str) else prompts
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
        raise DataError(f"{where}: must be a list of templates")
    if not isinstance(edit, bool):
        raise DataError(f"{where}.edit: must be true or false, not {edit!r}")
    normalised = tuple(map(_normalised, prompts))
    for prompt in normalised:
        if SUBJECT not in prompt:
            raise DataError(f"{where}: {prompt!r} must contain {{subject}}")
    return Relation(normalised, edit)


def _normalised(template: str) -> str:
    """Return a template with ``{subject}`` as the place of the subject."""
    return template.replace("{}", SUBJECT).rstrip()


def _triple(fields: RecordFields, relation: str) -> Triple:
    """Return the triple of a record's fields."""
    return Triple(
        fields.required_text("subject"),
        relation,
        fields.required_text("object").strip(),
        fields.optional_text("old_object"),
    )


def _request(
    triple: Triple, relation: Relation, fields: RecordFields, number: int, known: Iterable[Probe]
) -> EditRequest:
    """Return the request of a triple."""
    prompt, *paraphrases = relation.ask(triple.subject)
    return EditRequest(
        fields.case_id(number),
        prompt,
        triple.object,
        subject=triple.subject,
        ground_truth=triple.old_object,
        rephrase_prompts=tuple(paraphrases),
        relation_specificity=tuple(known),
        source=fields.where,
    )


def _relation_asked(relations: Mapping[str, Relation], prompt: str, subject: str | None) -> str | None:
    """Return the name of the relation that a prompt about a subject asks for; None if it is none of these."""
    asked = (name for name, relation in relations.items() if subject is not None and prompt in relation.ask(subject))
    return next(asked, None)
