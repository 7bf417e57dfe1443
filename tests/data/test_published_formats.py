"""Each published format: what its records become, and how files are recognised."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.data.guess_format import guess_format
from easyedit_lifelong.data.readers import read_requests
from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.plugins import get_plugins
from tests.support.published_records import PUBLISHED
from tests.support.record_files import refusal, write_records

MAYOR = Probe("The mayor of Norhaven is the child of", "Ada Lund")


def _read(folder: Path, name: str, **changes: Any) -> list[EditRequest]:
    path = write_records(folder, [{**PUBLISHED[name], **changes}])
    return read_requests(path, get_plugins().readers.get(name).read)


def test_every_format_has_a_record() -> None:
    built_in = {reader.name for reader in get_plugins().readers if reader.read.__module__.startswith("easyedit_lifel")}
    assert set(PUBLISHED) == built_in


@pytest.mark.parametrize("name", sorted(set(PUBLISHED) - {"counterfact", "hallucination", "fever-labels"}))
def test_a_format_is_recognised_by_its_fields(tmp_path: Path, name: str) -> None:
    assert guess_format(write_records(tmp_path, [PUBLISHED[name]])) == name
    lines = tmp_path / "facts.jsonl"
    lines.write_text("\n" + json.dumps(PUBLISHED[name]) + "\n{", encoding="utf-8")
    assert guess_format(lines) == name, "more than the first line is read"


def test_kilts_form_of_fever_is_recognised_by_the_name_of_the_file(tmp_path: Path) -> None:
    """Its fields are those of KILT's zsRE; read as that, every claim would be edited to its own label."""
    text = json.dumps({"id": 1, "input": "Norhaven is in Norway.", "output": [{"answer": "SUPPORTS"}]})
    for name, expected in (("fever-dev-kilt.jsonl", "fever"), ("structured_zeroshot-dev.jsonl", "zsre-rephrased")):
        (tmp_path / name).write_text(text)
        assert guess_format(tmp_path / name) == expected


def test_a_wikibigedit_record(tmp_path: Path) -> None:
    (request,) = _read(tmp_path, "wikibigedit")
    assert (request.prompt, request.target_new, request.subject) == (
        "Who is the mayor of Norhaven?",
        "Bo Lund",
        "Norhaven",
    )
    assert request.rephrase_prompts == ("Which person is Norhaven's mayor?", "Ahoy! Who be the mayor of Norhaven?")
    assert request.locality == {"neighborhood": (Probe("Who is the mayor of Sudhaven?", "Ida Berg"),)}
    assert request.portability == {"one_hop": (Probe("Who is the father of the mayor of Norhaven?", "Ola Lund"),)}
    (request,) = _read(tmp_path, "wikibigedit", mhop=None, mhop_ans=None)
    assert dict(request.portability) == {}


def test_an_ultraeditbench_record(tmp_path: Path) -> None:
    (request,) = _read(tmp_path, "ultraeditbench")
    assert (request.case_id, request.target_new, request.rephrase_prompts) == (5, "Bo Lund", ("Norhaven's mayor?",))
    assert request.locality == {"neighborhood": (Probe("Who is the mayor of Sudhaven?", "Ida Berg"),)}


def test_a_qaedit_record(tmp_path: Path) -> None:
    (request,) = _read(tmp_path, "qaedit")
    assert (request.case_id, request.target_new) == (0, "Bo Lund")
    assert request.rephrase_prompts == ("Norhaven has which mayor?",)
    assert request.locality["neighborhood"] == (Probe("who wrote the anthem", "Ida Berg"), Probe("where is it", "Oslo"))


def test_a_knowedit_record(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (request,) = _read(tmp_path, "knowedit")
    assert (request.ground_truth, request.rephrase_prompts) == ("Eli Falk", ("Norhaven's mayor is",))
    assert request.portability == {"one_hop": (Probe("The mayor's father is", "Ola Lund"),)}
    assert request.relation_specificity == (MAYOR,)
    assert request.locality == {"Forgetfulness": ()}
    assert "left out (1): record 0, field 'locality.Forgetfulness[0].prompt'" in caplog.text


@pytest.mark.parametrize("labels", ["He was born in 1950.", ["He was born in 1950."]])
def test_a_wikibio_record(tmp_path: Path, labels: Any) -> None:
    (request,) = _read(tmp_path, "wikibio", labels=labels)
    assert request.prompt.startswith("This is a Wikipedia passage")
    assert (request.target_new, request.subject) == ("He was born in 1950.", "bo lund")
    assert request.relation_specificity == (MAYOR,)


def test_a_rome_counterfact_record(tmp_path: Path) -> None:
    (request,) = _read(tmp_path, "rome-counterfact")
    assert (request.case_id, request.prompt, request.subject) == (3, "The mayor of Norhaven is", "Norhaven")
    assert (request.target_new, request.ground_truth) == ("Bo Lund", "Eli Falk")
    assert request.rephrase_prompts == ("It rained. Norhaven's mayor is", "Norhaven is led by")
    assert request.locality["neighborhood"] == (
        Probe("The mayor of Sudhaven is", "Eli Falk"),
        Probe("The mayor of Vesthaven is", "Eli Falk"),
    )


def test_a_mquake_record_is_several_edits_with_the_questions_at_the_last(tmp_path: Path) -> None:
    first, last = _read(tmp_path, "mquake")
    assert (first.case_id, first.prompt, first.target_new) == (9, "Norhaven is led by", "Bo Lund")
    assert (last.case_id, last.prompt, last.subject) == ("9#1", "Bo Lund was born in", "Bo Lund")
    assert (first.rephrase_prompts, first.ground_truth) == (("Who leads Norhaven?",), "Eli Falk")
    assert dict(first.portability) == {}, "the questions don't follow from the first edit alone"
    assert [probe.answer for probe in last.portability["multi_hop"]] == ["Sudhaven"] * 3


def test_a_damaged_edit_of_a_case_leaves_the_whole_case_out(tmp_path: Path) -> None:
    broken = {**PUBLISHED["mquake"], "case_id": 10}
    broken["requested_rewrite"] = [broken["requested_rewrite"][0], {"prompt": "no place", "subject": "x"}]
    read = get_plugins().readers.get("mquake").read
    path = write_records(tmp_path, [broken, PUBLISHED["mquake"]])
    assert refusal(path, read).startswith(", record 0, requested_rewrite[1], field 'prompt': must contain {}")
    assert [request.case_id for request in read_requests(path, read, skip_unusable=True)] == [9, "9#1"]


def test_a_fever_claim_for_a_causal_model(tmp_path: Path) -> None:
    (request,) = _read(tmp_path, "fever")
    assert request.prompt == "Is this claim true or false? Norhaven has a harbour. Answer:"
    assert (request.case_id, request.target_new, request.ground_truth) == (75397, "False", "True")
    path = write_records(tmp_path, [{**PUBLISHED["fever"], "label": "NOT ENOUGH INFO"}])
    message = refusal(path, get_plugins().readers.get("fever").read)
    assert message == ", record 0, field 'label': 'NOT ENOUGH INFO' is none of SUPPORTS, REFUTES."


def test_a_fever_claim_for_a_classifier(tmp_path: Path) -> None:
    (request,) = _read(tmp_path, "fever-labels")
    assert (request.prompt, request.target_new, request.ground_truth) == ("Norhaven is a ship.", "SUPPORTS", "REFUTES")
    assert get_plugins().readers.get("fever-labels").task == "classification"


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_benchmark_is_read_no_further_than_needed(tmp_path: Path, suffix: str) -> None:
    """UltraEditBench has two million records. What follows the records that a run uses isn't read."""
    record = {**PUBLISHED["ultraeditbench"], "case_id": None, "note": "x" * 500_000}
    text = ("," if suffix == "json" else "\n").join([json.dumps(record)] * 4)
    path = tmp_path / f"facts.{suffix}"
    path.write_text("[" * (suffix == "json") + text + " this isn't JSON", encoding="utf-8")
    read = get_plugins().readers.get("ultraeditbench").read
    assert [request.case_id for request in read_requests(path, read, limit=2)] == [0, 1]
    with pytest.raises(DataError, match="not valid JSON"):
        read_requests(path, read)


@pytest.mark.parametrize(
    ("file", "name", "count", "sets"),
    [
        ("wikibigedit/wikibigedit-2000.json", "json", 2000, {"neighborhood"}),
        ("qaedit/qaedit-600.json", "qaedit", 600, {"neighborhood"}),
        ("zsre/zsre-3k.json", "zsre", 2500, {"neighborhood"}),
        ("counterfact/counterfact-edit-10k.json", "counterfact", 9954, {"neighborhood"}),
        ("relations/relations.json", "relations", 1222, set()),
    ],
)
def test_published_files_are_recognised_and_read_in_full(file: str, name: str, count: int, sets: set[str]) -> None:
    path = Path(os.environ.get("EASYEDIT_LIFELONG_DATA", "shared/data")) / file
    if not path.is_file():
        pytest.skip(f"EASYEDIT_LIFELONG_DATA names no folder with {file}")
    assert guess_format(path) == name
    requests = read_requests(path, get_plugins().readers.get(name).read)
    assert len(requests) == count
    assert all(set(request.locality) == sets and request.subject for request in requests)
    assert all(request.rephrase_prompts for request in requests[:20])
