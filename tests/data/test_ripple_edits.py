"""RippleEdits: subjects and targets from sentences, and what becomes a probe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.data.readers import read_requests
from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.data.ripple_edits import read_ripple_edits
from easyedit_lifelong.data.ripple_relations import RELATIONS
from tests.support.published_records import PUBLISHED
from tests.support.record_files import refusal, write_records

RECORD = PUBLISHED["ripple-edits"]


def read(folder: Path, *records: dict[str, Any]) -> list[EditRequest]:
    return read_requests(write_records(folder, list(records)), read_ripple_edits)


def with_edit(**changes: Any) -> dict[str, Any]:
    return {**RECORD, "edit": {**RECORD["edit"], **changes}}


def with_tests(name: str, *queries: Any) -> dict[str, Any]:
    return {**RECORD, name: [{"test_queries": [query], "test_condition": "OR"} for query in queries]}


def test_a_record_becomes_a_request(tmp_path: Path) -> None:
    (request,) = read(tmp_path, RECORD)
    assert (request.case_id, request.prompt) == (0, "The name of the head of government of Norhaven is")
    assert (request.target_new, request.subject, request.ground_truth) == ("Bo Lund", "Norhaven", "Eli Falk")
    assert request.relation_specificity == (Probe("The name of the currency in Norhaven is", "Norcrown"),)
    assert request.portability == {
        "Subject_Aliasing": (Probe("The name of the head of government of Port Nor is", "Bo Lund"),),
        "Compositionality_I": (Probe("The name of the spouse of the head of government of Norhaven is", "Ada Lund"),),
    }
    assert request.locality == {
        "Forgetfulness": (
            Probe("The name of the head of government of Norhaven, which is not Bo Lund, is", "Ida Berg"),
        )
    }
    assert request.rephrase_prompts == request.aliases == ()


@pytest.mark.parametrize("relation", RELATIONS)
def test_every_relation_is_split(tmp_path: Path, relation: str) -> None:
    sentence = RELATIONS[relation].replace("{}", "Nor Inc. (town)") + " Bo Lund Jr.."
    (request,) = read(tmp_path, with_edit(prompt=sentence, relation=relation, original_fact=None))
    assert (request.subject, request.target_new, request.ground_truth) == ("Nor Inc. (town)", "Bo Lund Jr.", None)
    assert f"{request.prompt} {request.target_new}." == sentence


@pytest.mark.parametrize(
    ("changes", "subject", "target"),
    [
        ({}, None, None),
        ({"original_fact": {"prompt": "The name of the author of What is Home is Eli Falk."}}, None, None),
        ({"original_fact": {"prompt": "The name of the author of What is Eli Falk."}}, "What", "Home is Bo is"),
        ({"original_fact": {"prompt": "The name of the author of Elsewhere is Eli Falk."}}, None, None),
        ({"original_fact": "?"}, None, None),
    ],
)
def test_a_sentence_with_several_splits_needs_the_original_fact(
    tmp_path: Path, changes: dict[str, Any], subject: str | None, target: str | None
) -> None:
    ambiguous = {"prompt": "The name of the author of What is Home is Bo is.", "relation": "AUTHOR"}
    record = {**with_edit(**ambiguous, **{"original_fact": None, **changes}), "Relation_Specificity": []}
    if subject is None:
        assert refusal(write_records(tmp_path, [record]), read_ripple_edits) == (
            ", record 0, edit, field 'prompt': can be split as 'The name of the author of SUBJECT is TARGET.' with "
            "several subjects: 'What', 'What is Home'"
        )
    else:
        (request,) = read(tmp_path, record)
        assert (request.subject, request.target_new) == (subject, target)


def test_a_sentence_with_several_splits_is_split_by_the_tests_about_its_subject(tmp_path: Path) -> None:
    ambiguous = {"prompt": "The name of the author of What is Home is Bo.", "relation": "AUTHOR", "original_fact": None}
    query = RECORD["Relation_Specificity"][0]["test_queries"][0]
    other = {**query, "subject_id": "Q99", "prompt": "The name of the currency in What is"}
    own = {**query, "prompt": "The name of the currency in What is Home is"}
    tests = with_tests("Relation_Specificity", other, own)["Relation_Specificity"]
    (request,) = read(tmp_path, {**with_edit(**ambiguous), "Relation_Specificity": tests})
    assert (request.subject, request.target_new) == ("What is Home", "Bo")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"relation": "SHOE_SIZE"}, "field 'relation': 'SHOE_SIZE' is no relation of RippleEdits"),
        ({"relation": "MOTHER"}, "field 'prompt': must be 'The name of the mother of SUBJECT is TARGET.'"),
        ({"prompt": "The name of the head of government of Norhaven is Bo"}, "field 'prompt': must be"),
        ({"prompt": "The name of the head of government of  is Bo."}, "field 'prompt': must be"),
        ({"prompt": "The name of the head of government of Norhaven is ."}, "field 'prompt': must be"),
        (
            {"prompt": "The name of the head of government of Norhaven is Q1."},
            "field 'prompt': has no name of the target, only its id Q1",
        ),
    ],
)
def test_an_edit_without_subject_or_target_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_records(tmp_path, [with_edit(**changes), RECORD])
    assert refusal(path, read_ripple_edits).startswith(f", record 0, edit, {message}")
    assert [request.case_id for request in read_requests(path, read_ripple_edits, skip_unusable=True)] == [1]


def test_answers_are_named_by_their_first_name_that_is_no_id(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    query = RECORD["Forgetfulness"][0]["test_queries"][0]
    answers: list[list[dict[str, Any]]] = [
        [{"value": "Q4", "aliases": ["Ida Berg"]}],
        [{"value": "", "aliases": []}, {"value": "Bo", "aliases": []}],
        [{"value": "Q7", "aliases": []}],  # another id: a name
        [{"value": "Q4", "aliases": ["Q4"]}],
        [],
    ]
    queries = [{**query, "answers": of_query, "prompt": f"p{n}"} for n, of_query in enumerate(answers)]
    (request,) = read(tmp_path, with_tests("Forgetfulness", *queries, queries[0]))
    assert request.locality["Forgetfulness"] == (Probe("p0", "Ida Berg"), Probe("p1", "Bo"), Probe("p2", "Q7"))
    (message,) = caplog.messages
    assert "left out (2): record 0, field 'Forgetfulness[3].test_queries[0].answers'" in message


def test_the_name_of_the_description_is_read_too(tmp_path: Path) -> None:
    record = {("Relation_Specifity" if name == "Relation_Specificity" else name): RECORD[name] for name in RECORD}
    (request,) = read(tmp_path, record)
    assert [probe.answer for probe in request.relation_specificity] == ["Norcrown"]


def test_an_original_target_without_a_name_is_no_ground_truth(tmp_path: Path) -> None:
    original = {**RECORD["edit"]["original_fact"], "prompt": "The name of the head of government of Norhaven is Q2."}
    (request,) = read(tmp_path, with_edit(original_fact=original))
    assert request.ground_truth is None
