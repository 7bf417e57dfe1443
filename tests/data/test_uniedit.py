"""UniEdit: an object of samples, and the sets that its questions become."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.data.guess_format import guess_format
from easyedit_lifelong.data.readers import read_requests
from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.data.uniedit import read_uniedit
from easyedit_lifelong.errors import DataError
from tests.support.published_records import PUBLISHED
from tests.support.record_files import refusal, write_records

SAMPLE = PUBLISHED["uniedit"]


def write(folder: Path, samples: Any) -> Path:
    path = folder / "art.json"
    path.write_text(json.dumps(samples), encoding="utf-8")
    return path


def read_sample(folder: Path, **changes: Any) -> EditRequest:
    (request,) = read_requests(write(folder, {"17": {**SAMPLE, **changes}}), read_uniedit)
    return request


def question(kind: str, **changes: Any) -> dict[str, Any]:
    return {"0": {**SAMPLE[kind]["0"], **changes}}


def test_an_object_of_samples_becomes_requests_with_their_ids(tmp_path: Path) -> None:
    path = write(tmp_path, {"17": SAMPLE, "4": {**SAMPLE, "generality": {}, "locality": {}}})
    assert guess_format(path) == "uniedit"
    first, second = read_requests(path, read_uniedit)
    assert (first.case_id, second.case_id) == ("17", "4")
    assert (first.prompt, first.target_new, first.subject) == ("The mayor of Norhaven is", "Bo Lund", "Norhaven")
    assert first.rephrase_prompts == ("Norhaven has a mayor whose name is",)
    assert first.locality == {"head_of_edit": (Probe("The harbour of Norhaven was built in", "1911"),)}
    assert dict(first.portability) == dict(second.portability) == dict(second.locality) == {}
    assert first.aliases == (), "the aliases of the head entity are an answer of the dataset's own criterion"


@pytest.mark.parametrize(
    ("changes", "name", "prompt"),
    [
        ({"target": "Bo L. Lund"}, "object_alias", "Q"),
        ({"paths": [["t_e", "r_e", "h_e", "b", "m"]]}, "relation_reversal", "Q"),
        ({"paths": [["h_e", "r_e", "t_e", "f", "s"], ["t_e", "r_0", "e_0", "f", "s"]]}, "multi_hop", "Q"),
        ({"path_type": "double", "paths": None}, "same_entity", "Q The answer is (Yes/No):"),
        ({"paths": None}, "one_hop", "Q"),
    ],
)
def test_generality_questions_are_sets_by_what_they_ask(
    tmp_path: Path, changes: dict[str, Any], name: str, prompt: str
) -> None:
    request = read_sample(tmp_path, generality=question("generality", prompt="Q", **changes))
    assert request.rephrase_prompts == ()
    assert request.portability == {name: (Probe(prompt, changes.get("target", "Bo Lund")),)}


@pytest.mark.parametrize(
    ("changes", "name", "prompt"),
    [
        ({"loc_type": "none"}, "neighborhood", "Q"),
        ({"loc_type": None}, "neighborhood", "Q"),
        ({"loc_type": "tail of edit"}, "tail_of_edit", "Q"),
        ({"loc_type": "property of edit", "path_type": "double"}, "property_of_edit", "Q The answer is (Yes/No):"),
    ],
)
def test_locality_questions_are_sets_by_what_they_are_about(
    tmp_path: Path, changes: dict[str, Any], name: str, prompt: str
) -> None:
    request = read_sample(tmp_path, locality=question("locality", prompt="Q", **changes))
    assert request.locality == {name: (Probe(prompt, "1911"),)}
    assert request.relation_specificity == ()


def test_a_question_without_prompt_or_target_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    changes = {"generality": question("generality", prompt=None), "locality": question("locality", target="")}
    request = read_sample(tmp_path, **changes)
    assert (request.rephrase_prompts, dict(request.portability), dict(request.locality)) == ((), {}, {})
    assert "left out (2): record 0, generality.0, field 'prompt'; record 0, locality.0, field 'target'" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edit": None}, ", record 1, field 'edit': must be an object, not nothing"),
        ({"edit": {**SAMPLE["edit"], "target": " "}}, ", record 1, edit, field 'target': is empty"),
        ({"generality": [1]}, ", record 1, field 'generality': must be an object of questions, not a list"),
        ({"locality": {"0": 5}}, ", record 1, field 'locality.0': must be an object, not a number"),
        ({"locality": question("locality", prompt=5)}, ", record 1, locality.0, field 'prompt': must be text"),
    ],
)
def test_a_damaged_sample_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path, {"a": SAMPLE, "b": {**SAMPLE, **changes}})
    assert refusal(path, read_uniedit).startswith(message)
    assert [request.case_id for request in read_requests(path, read_uniedit, skip_unusable=True)] == ["a"]


def test_a_list_of_samples_is_read_too(tmp_path: Path) -> None:
    (request,) = read_requests(write_records(tmp_path, [SAMPLE]), read_uniedit)
    assert (request.case_id, request.target_new) == (0, "Bo Lund")


def test_a_domain_is_read_no_further_than_needed(tmp_path: Path) -> None:
    path = tmp_path / "art.json"
    samples = {str(number): {**SAMPLE, "note": "x" * 500_000} for number in range(4)}
    path.write_text(json.dumps(samples, indent=1)[:-1] + "no JSON", encoding="utf-8")
    assert [request.case_id for request in read_requests(path, read_uniedit, limit=2)] == ["0", "1"]
    with pytest.raises(DataError, match="not valid JSON"):
        read_requests(path, read_uniedit)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "holds no records"),
        ("{", "not valid JSON"),
        ("{}{}", "not valid JSON"),
        ('{"a": {},}', "not valid JSON"),
        ("{1: {}}", "not valid JSON"),
        ('{"a" {}}', "not valid JSON"),
        ('{"a": 5}', "record 0: must be an object"),
        ("5", "must hold a list of records"),
        ("", "is empty"),
    ],
)
def test_a_damaged_object_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "art.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read_requests(path, read_uniedit)
    assert str(caught.value).startswith(str(path))


def test_two_samples_with_one_id_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "art.json"
    path.write_text(f'{{"a": {json.dumps(SAMPLE)}, "a": {json.dumps(SAMPLE)}}}', encoding="utf-8")
    with pytest.raises(DataError, match="'a' is used before"):
        read_requests(path, read_uniedit)
