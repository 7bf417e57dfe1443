"""Read RippleEdits (Cohen et al., 2024): edits of Wikidata facts, with tests of what follows from them.

A file has the prompt of an edit as one sentence that ends with the target ("The name of the mother of X is Y.").
Subject and target are read from it, by the wording that the dataset has for the edit's relation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from easyedit_lifelong.data.probes import Probe
from easyedit_lifelong.data.reading import ReadResult, read_each
from easyedit_lifelong.data.record_fields import FieldNames, RecordFields, encoding_problem, is_absent, kind_of_value
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.ripple_relations import RELATIONS

PORTABILITY_SETS = ("Logical_Generalization", "Compositionality_I", "Compositionality_II", "Subject_Aliasing")
LOCALITY_SETS = ("Forgetfulness",)
"""The criteria of the dataset, which become sets of probes. The sixth one is relation specificity."""

_SPECIFICITY = ("Relation_Specificity", "Relation_Specifity")
"""The name in the files and the one in the dataset's description."""

_NAMES: FieldNames = {
    "edit": ("edit",),
    "relation_specificity": _SPECIFICITY,
    **{name: (name,) for name in (*PORTABILITY_SETS, *LOCALITY_SETS)},
}
_EDIT: FieldNames = {name: (name,) for name in ("prompt", "relation", "subject_id", "target_id", "original_fact")}
_ENTITY_ID = re.compile(r"Q\d+")


def read_ripple_edits(path: Path) -> Iterator[ReadResult]:
    """Read a file of RippleEdits (``popular.json``, ``random.json``, ``recent.json``).

    Every query of a test is a probe. Of its answers, the first counts, by its first name. Conditions
    (``condition_queries``), the way in which a test combines its queries (``test_condition``) and other names of
    answers aren't read. An answer without a name, which the files give by its Wikidata id, leaves its probe out.

    Raises:
        DataError: the file can't be read.
    """
    return read_each(path, _ripple_request, _NAMES)


def _ripple_request(fields: RecordFields, index: int) -> list[EditRequest]:
    """Return the request of a record."""
    name, value = fields.find("edit")
    if not isinstance(value, Mapping):
        raise fields.error(name, f"must be an object with prompt and relation, not {kind_of_value(value)}")
    edit = RecordFields(value, f"{fields.where}, {name}", _EDIT, fields.notes)
    sentence, relation = edit.required_text("prompt").strip(), edit.required_text("relation")
    if relation not in RELATIONS:
        raise edit.error("relation", f"{relation!r} is no relation of RippleEdits, so that the prompt can't be split")
    subject, target = _subject_and_target(edit, fields.record, sentence, relation)
    if _is_id_of(target, value.get("target_id")):
        raise edit.error("prompt", f"has no name of the target, only its id {target}")
    portability = {name: _probes(fields, name) for name in PORTABILITY_SETS}
    locality = {name: _probes(fields, name) for name in LOCALITY_SETS}
    return [
        EditRequest(
            index,
            RELATIONS[relation].replace("{}", subject),
            target,
            subject=subject,
            ground_truth=_original_target(value, relation, subject),
            locality=MappingProxyType({name: probes for name, probes in locality.items() if probes}),
            portability=MappingProxyType({name: probes for name, probes in portability.items() if probes}),
            relation_specificity=_probes(fields, fields.find("relation_specificity")[0]),
            source=fields.where,
        )
    ]


def _subject_and_target(edit: RecordFields, record: Mapping[str, Any], sentence: str, relation: str) -> tuple[str, str]:
    """Return the subject and the target of an edit's sentence.

    If the sentence can be split in several ways, those count in which the subject is that of the original fact, and of
    the tests about the same subject.

    Raises:
        DataError: the sentence has another wording than its relation, or can still be split in several ways.
    """
    splits = _splits(sentence, relation)
    for prompt, other_relation in _prompts_about_subject(edit, record):
        if len(splits) > 1:
            named = [split for split in splits if prompt == RELATIONS[other_relation].replace("{}", split[0])]
            splits = named or splits
    original = _sentence_of(edit.record.get("original_fact"))
    if len(splits) > 1 and original is not None:
        subjects = {subject for subject, _ in _splits(original, relation)}
        splits = [split for split in splits if split[0] in subjects] or splits
    wording = RELATIONS[relation].replace("{}", "SUBJECT")
    if not splits:
        raise edit.error("prompt", f"must be '{wording} TARGET.', the wording of the relation {relation}")
    if len(splits) > 1:
        subjects_found = ", ".join(repr(subject) for subject, _ in splits)
        raise edit.error("prompt", f"can be split as '{wording} TARGET.' with several subjects: {subjects_found}")
    return splits[0]


def _splits(sentence: str, relation: str) -> list[tuple[str, str]]:
    """Return all pairs of subject and target with which a relation's wording gives a sentence."""
    before, after = RELATIONS[relation].split("{}")
    if not sentence.startswith(before) or not sentence.endswith("."):
        return []
    rest = sentence[len(before) : -1]
    ends = [match.start() for match in re.finditer(f"(?={re.escape(after)} )", rest)]
    pairs = [(rest[:end], rest[end + len(after) + 1 :]) for end in ends]
    return [(subject, target.strip()) for subject, target in pairs if subject.strip() and target.strip()]


def _prompts_about_subject(edit: RecordFields, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the prompts of tests in which a relation of the edit's subject is asked by its name, with the relation."""
    subject_id = edit.record.get("subject_id")
    for name in _SPECIFICITY:
        tests = record.get(name)
        for test in tests if isinstance(tests, list) else ():
            queries = test.get("test_queries") if isinstance(test, Mapping) else None
            for query in queries if isinstance(queries, list) else ():
                if not isinstance(query, Mapping) or query.get("subject_id") != subject_id or query.get("phrase"):
                    continue
                prompt, relation = query.get("prompt"), query.get("relation")
                if isinstance(prompt, str) and isinstance(relation, str) and relation in RELATIONS:
                    yield prompt, relation


def _original_target(edit: Mapping[str, Any], relation: str, subject: str) -> str | None:
    """Return the target before the edit; None if the record doesn't name it."""
    fact = edit.get("original_fact")
    sentence, beginning = _sentence_of(fact), RELATIONS[relation].replace("{}", subject) + " "
    if sentence is None or not isinstance(fact, Mapping) or not sentence.startswith(beginning):
        return None
    target = sentence[len(beginning) :].removesuffix(".").strip()
    return None if not target or _is_id_of(target, fact.get("target_id")) else target


def _sentence_of(fact: Any) -> str | None:
    """Return the sentence of a fact; None if it has none that can be used."""
    prompt = fact.get("prompt") if isinstance(fact, Mapping) else None
    if not isinstance(prompt, str) or encoding_problem(prompt):
        return None
    return prompt.strip()


def _probes(fields: RecordFields, name: str) -> tuple[Probe, ...]:
    """Return the probes of a criterion, each once."""
    tests, probes = fields.record.get(name), dict[Probe, None]()
    if is_absent(tests):
        return ()
    for place, test in _objects(fields, name, tests):
        for query_place, query in _objects(fields, f"{place}.test_queries", test.get("test_queries")):
            prompt, answer = query.get("prompt"), _answer(fields, f"{query_place}.answers", query)
            if is_absent(prompt) or answer is None:
                fields.note_dropped(f"{query_place}.{'prompt' if is_absent(prompt) else 'answers'}")
                continue
            probes[Probe(fields.check_text(f"{query_place}.prompt", prompt), answer)] = None
    return tuple(probes)


def _objects(fields: RecordFields, name: str, value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the objects of a list, each with its place in the record."""
    if not isinstance(value, list):
        raise fields.error(name, f"must be a list of objects, not {kind_of_value(value)}")
    for number, item in enumerate(value):
        if not isinstance(item, Mapping):
            raise fields.error(f"{name}[{number}]", f"must be an object, not {kind_of_value(item)}")
        yield f"{name}[{number}]", item


def _answer(fields: RecordFields, name: str, query: Mapping[str, Any]) -> str | None:
    """Return the first name of the first answer of a query that has a name; None if there is none."""
    answers = query.get("answers")
    if is_absent(answers):
        return None
    ids = [query.get("target_ids"), query.get("second_hop_target_ids")]
    for place, answer in _objects(fields, name, answers):
        aliases = answer.get("aliases")
        for text in (answer.get("value"), *(aliases if isinstance(aliases, list) else ())):
            if not is_absent(text) and not any(_is_id_of(text, of_query) for of_query in ids):
                return fields.check_text(f"{place}.value", text).strip()
    return None


def _is_id_of(text: Any, ids: Any) -> bool:
    """Return whether a text is a Wikidata id, and one of these: an id, or a list of them."""
    is_id = isinstance(text, str) and _ENTITY_ID.fullmatch(text) is not None
    return is_id and text in (ids if isinstance(ids, list) else [ids])
