"""Triples become requests by templates, and requests become triples again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from easyedit_lifelong.data.format_files import read_format_file
from easyedit_lifelong.data.readers import read_requests
from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.data.triples import Relation, Triple, TripleFormat, triples_of, write_triples
from easyedit_lifelong.errors import DataError

RELATIONS = {
    "mayor": ["The mayor of {subject} is", "{subject} is led by"],
    "country": {"prompts": ["{} lies in"], "edit": False},
}
TRIPLES = [
    Triple("Norhaven", "country", "Norway"),
    Triple("Norhaven", "mayor", "Bo, Lund", "Eli"),
    Triple("Sudhaven", "mayor", "Ida"),
]


def _format(folder: Path, **values: Any) -> TripleFormat:
    path = folder / "relations.yaml"
    path.write_text(yaml.safe_dump({"relations": RELATIONS, **values}), encoding="utf-8")
    values = yaml.safe_load(path.read_text())
    return TripleFormat.of(path, values["relations"], values.get("columns"))


def _read(path: Path, triple_format: TripleFormat) -> list[EditRequest]:
    return read_requests(path, triple_format.read)


@pytest.mark.parametrize("suffix", ["json", "csv", "tsv"])
def test_triples_become_requests_and_are_written_back(tmp_path: Path, suffix: str) -> None:
    triple_format, path = _format(tmp_path), tmp_path / f"facts.{suffix}"
    write_triples(path, TRIPLES)
    first, second = _read(path, triple_format)
    assert (first.case_id, first.prompt, first.target_new) == (1, "The mayor of Norhaven is", "Bo, Lund")
    assert (first.subject, first.ground_truth, second.ground_truth) == ("Norhaven", "Eli", None)
    assert first.rephrase_prompts == ("Norhaven is led by",)
    assert first.relation_specificity == (Probe("Norhaven lies in", "Norway"),)
    assert second.relation_specificity == ()
    again = triples_of([first, second], triple_format.relations)
    assert set(again) == set(TRIPLES)
    write_triples(tmp_path / f"again.{suffix}", again)
    reread = _read(tmp_path / f"again.{suffix}", triple_format)
    assert [(request.prompt, request.target_new, request.relation_specificity) for request in reread] == [
        (request.prompt, request.target_new, request.relation_specificity) for request in (first, second)
    ]


def test_relations_that_no_triple_has_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of a file of relations with samples, only named ones are read: a misspelt name would drop one silently."""
    path = tmp_path / "facts.json"
    relations = [
        {"name": name, "templates": ["{} is led by"], "samples": [{"subject": "Norhaven", "object": "Bo"}]}
        for name in ("mayor", "king")
    ]
    path.write_text(json.dumps(relations))
    triple_format = _format(tmp_path, relations={"mayor": None, "kind": None})
    assert len(_read(path, triple_format)) == 1
    assert caplog.messages == [f"{path}: no usable triple has the relation 'kind'"]
    caplog.clear()
    assert len(read_requests(path, triple_format.read, limit=1)) == 1
    assert caplog.messages == []


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    (tmp_path / "facts.csv").write_text("s,r,o\nNorhaven,mayor,Bo\n")
    (request,) = _read(
        tmp_path / "facts.csv", _format(tmp_path, columns={"subject": "s", "relation": "r", "object": "o"})
    )
    assert (request.prompt, request.target_new) == ("The mayor of Norhaven is", "Bo")


def test_a_fact_that_is_edited_is_no_probe(tmp_path: Path) -> None:
    """Its answer changes by its own edit, so that it can't show what another edit changes."""
    both = {"mayor": ["The mayor of {} is"], "country": ["{} lies in"]}
    write_triples(tmp_path / "facts.csv", TRIPLES)
    requests = _read(tmp_path / "facts.csv", _format(tmp_path, relations=both))
    assert len(requests) == 3
    assert not any(request.relation_specificity for request in requests)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("Norhaven,mayr,Bo", "field 'relation': 'mayr' has no templates. Did you mean 'mayor'?"),
        (",mayor,Bo", "field 'subject': is empty"),
        ("Norhaven,,Bo", "field 'relation': is empty"),
        ("Norhaven,mayor, ", "field 'object': is empty"),
    ],
)
def test_an_unusable_triple_is_refused_with_record_and_column(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "facts.csv"
    path.write_text(f"subject,relation,object\nA,mayor,B\n{row}\n")
    with pytest.raises(DataError) as caught:
        _read(path, _format(tmp_path))
    assert str(caught.value).startswith(f"{path}, record 1, {message}")


@pytest.mark.parametrize(
    ("relations", "message"),
    [
        ({}, "relations: must map the names"),
        ([], "relations: must map the names"),
        ({"mayor": ["The mayor is"]}, "relations.mayor: 'The mayor is' must contain {subject}"),
        ({"mayor": [5]}, "relations.mayor: must be a list of templates"),
        ({"mayor": {"prompt": []}}, "relations.mayor: unknown key 'prompt'. Did you mean 'prompts'?"),
        ({"mayor": {"prompts": ["{}"], "edit": "no"}}, "relations.mayor.edit: must be true or false"),
    ],
)
def test_invalid_relations_are_refused_with_their_key(tmp_path: Path, relations: Any, message: str) -> None:
    path = tmp_path / "relations.yaml"
    path.write_text(yaml.safe_dump({"relations": relations}))
    with pytest.raises(DataError) as caught:
        read_format_file(path)
    assert str(caught.value).startswith(f"{path}, {message}")


def test_a_request_that_no_template_gives_is_refused() -> None:
    request = EditRequest(4, "Who leads Norhaven?", "Bo", subject="Norhaven")
    with pytest.raises(DataError, match="case 4: no relation has a template for 'Who leads Norhaven"):
        triples_of([request], {"mayor": Relation(("The mayor of {subject} is",))})


def test_a_format_file_selects_relations_of_a_published_file(tmp_path: Path) -> None:
    path = Path(os.environ.get("EASYEDIT_LIFELONG_DATA", "shared/data")) / "relations/relations.json"
    if not path.is_file():
        pytest.skip("EASYEDIT_LIFELONG_DATA names no folder with relations/relations.json")
    selected = {"country capital city": None, "country language": {"edit": False}}
    requests = _read(path, _format(tmp_path, relations=selected))
    samples = {entry["name"]: entry["samples"] for entry in json.loads(path.read_text())}
    assert [request.target_new for request in requests] == [row["object"] for row in samples["country capital city"]]
    spoken = {row["subject"]: row["object"] for row in samples["country language"]}
    for request in requests:
        assert [probe.answer for probe in request.relation_specificity] == (
            [spoken[request.subject]] if request.subject in spoken else []
        )
    assert any(request.relation_specificity for request in requests)
