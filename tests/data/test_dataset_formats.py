"""Records of zsRE, CounterFact and the hallucination data set become requests."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.data.readers import (
    read_counterfact,
    read_hallucination,
    read_requests,
    read_zsre,
    read_zsre_rephrased,
)
from easyedit_lifelong.data.request import Probe
from easyedit_lifelong.plugins import get_plugins
from tests.support.dataset_records import COUNTERFACT, ZSRE
from tests.support.record_files import PLAIN, refusal, write_records


@pytest.mark.usefixtures("loader")
def test_a_zsre_record_becomes_a_request(tmp_path: Path) -> None:
    first, second = read_requests(write_records(tmp_path, [ZSRE, {**ZSRE, "subject": "Suomi"}]), read_zsre)
    assert (first.prompt, first.target_new, first.ground_truth) == (ZSRE["src"], "Tampere", "Helsinki")
    assert (first.subject, second.subject) == ("Finland", "Suomi"), "the subject is lost, as in EasyEdit's 2023 loader"
    assert first.rephrase_prompts == (ZSRE["rephrase"],)
    ((probe,),) = first.locality.values()
    assert probe.answer == "Charlotte"
    assert "who wrote it" in probe.prompt
    assert (first.case_id, second.case_id) == (0, 1)


@pytest.mark.usefixtures("loader")
def test_a_counterfact_record_becomes_a_request(tmp_path: Path) -> None:
    (request,) = read_requests(write_records(tmp_path, [COUNTERFACT]), read_counterfact)
    assert (request.case_id, request.subject, request.ground_truth) == (4, "Cairo", "Nile")
    assert (request.prompt, request.target_new) == (COUNTERFACT["prompt"], "Congo")
    assert request.rephrase_prompts == (COUNTERFACT["rephrase_prompt"],)
    assert dict(request.locality) == {"neighborhood": (Probe("London's river is", "Thames"),)}


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(("read", "good"), [(read_zsre, ZSRE), (read_counterfact, COUNTERFACT)])
def test_benchmark_records_may_hold_relation_specificity(tmp_path: Path, read: Any, good: dict[str, Any]) -> None:
    """EasyEdit's loaders ignore these fields, but an invalid one is refused."""
    record = {**good, "relation_specificity_prompt": "p", "relation_specificity_ground_truth": "a"}
    (request,) = read_requests(write_records(tmp_path, [record]), read)
    assert request.relation_specificity == (Probe("p", "a"),)
    assert list(request.locality) == ["neighborhood"]
    (bare,) = read_requests(write_records(tmp_path, [{**good, "relation_specificity_prompt": None}]), read)
    assert bare.relation_specificity == ()
    message = refusal(
        write_records(tmp_path, [good, {**record, "case_id": 5, "relation_specificity_ground_truth": 5}]), read
    )
    assert message.startswith(", record 1, field 'relation_specificity_ground_truth': must be text, not a number")


REQUIRED = [(read_zsre, ZSRE, ("src", "alt")), (read_counterfact, COUNTERFACT, ("prompt", "target_new"))]
OPTIONAL = [
    (read_zsre, ZSRE, ("answers", "rephrase", "loc", "loc_ans")),
    (read_counterfact, COUNTERFACT, tuple(COUNTERFACT)[4:]),
]


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(("read", "good", "names"), REQUIRED)
def test_an_invalid_benchmark_field_is_refused_by_name(
    tmp_path: Path, read: Any, good: dict[str, Any], names: tuple[str, ...]
) -> None:
    """EasyEdit's loaders would raise KeyError or leave the record out silently."""
    for name in names:
        for invalid in ("", "  ", None, 5, ["x"]):
            message = refusal(write_records(tmp_path, [good, {**good, "case_id": 5, name: invalid}]), read)
            assert message.startswith(f", record 1, field {name!r}: ")
        without = {key: value for key, value in good.items() if key != name}
        assert f"record 1, field {name!r}: is missing." in refusal(write_records(tmp_path, [good, without]), read)


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(("read", "good", "names"), OPTIONAL)
def test_a_benchmark_record_needs_no_optional_field(
    tmp_path: Path, read: Any, good: dict[str, Any], names: tuple[str, ...]
) -> None:
    """EasyEdit's loaders would raise KeyError, or pass the empty text on."""
    for name in names:
        for absent in ("", " ", None, float("nan")):
            path = write_records(tmp_path, [good, {**good, "case_id": 5, name: absent}])
            complete, request = read_requests(path, read)
            assert complete.rephrase_prompts and complete.locality and complete.ground_truth
            assert (bool(request.rephrase_prompts), bool(request.locality), bool(request.ground_truth)) == (
                "rephrase" not in name,
                "loc" not in name,
                name not in ("answers", "ground_truth"),
            )
        message = refusal(write_records(tmp_path, [good, {**good, "case_id": 5, name: 5}]), read)
        assert message.startswith(f", record 1, field {name!r}: must be ")


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize("answers", ["Helsinki", [5], {}])
def test_a_zsre_record_with_invalid_answers_is_refused(tmp_path: Path, answers: Any) -> None:
    message = refusal(write_records(tmp_path, [{**ZSRE, "answers": answers}]), read_zsre)
    assert "record 0, field 'answers'" in message


@pytest.mark.usefixtures("loader")
def test_a_zsre_locality_prompt_without_its_prefix_is_refused(tmp_path: Path) -> None:
    message = refusal(write_records(tmp_path, [{**ZSRE, "loc": "who wrote it"}]), read_zsre)
    assert "record 0, field 'loc': must contain 'nq question: '" in message


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(("read", "other"), [(read_zsre, PLAIN), (read_counterfact, [ZSRE])])
def test_a_file_of_another_format_is_refused(tmp_path: Path, read: Any, other: Any) -> None:
    assert "record 0: must be an object" in refusal(write_records(tmp_path, [5]), read)
    assert "must hold a list" in refusal(write_records(tmp_path, {"a": 1}), read)
    assert "record 0, field" in refusal(write_records(tmp_path, other), read)


@pytest.mark.usefixtures("loader")
def test_counterfact_portability_becomes_a_one_hop_probe(tmp_path: Path) -> None:
    record = {**COUNTERFACT, "portability_prompt": "One hop", "portability_ground_truth": "away"}
    (request,) = read_requests(write_records(tmp_path, [record]), read_counterfact)
    assert dict(request.portability) == {"one_hop": (Probe("One hop", "away"),)}


PASSAGE = {
    "prompt": "This is a Wikipedia passage about a painter. She was born in Lima.",
    "subject": "a painter",
    "target_new": "She studied in Cusco, and taught there from 1920.",
    "locality_prompt": "An old map of",
    "locality_ground_truth": "the harbour, in two colours.",
}


def test_a_hallucination_record_becomes_a_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (request,) = read_requests(write_records(tmp_path, [PASSAGE]), read_hallucination)
    assert (request.prompt, request.target_new, request.subject) == (
        PASSAGE["prompt"],
        PASSAGE["target_new"],
        "a painter",
    )
    assert request.locality == {"neighborhood": (Probe("An old map of", "the harbour, in two colours."),)}
    assert request.ground_truth is None
    assert request.rephrase_prompts == ()
    assert caplog.text == ""


def test_empty_locality_answers_are_left_out_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The record can be edited, but its locality can't be scored; a warning lists such records."""
    records = [PASSAGE, {**PASSAGE, "locality_ground_truth": ""}, PASSAGE, {**PASSAGE, "locality_ground_truth": " \n"}]
    path = write_records(tmp_path, records)
    requests = read_requests(path, read_hallucination)
    assert [len(request.locality) for request in requests] == [1, 0, 1, 0]
    assert len({request.target_new for request in requests}) == 1
    (warning,) = caplog.messages
    assert warning == (
        f"{path}: probes without prompt or answer are left out (2): record 1, field 'locality_ground_truth'; "
        "record 3, field 'locality_ground_truth'"
    )


def test_the_warning_lists_ten_records_at_most(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_requests(write_records(tmp_path, [{**PASSAGE, "locality_ground_truth": ""}] * 12), read_hallucination)
    assert "left out (12)" in caplog.text
    assert "record 9, field 'locality_ground_truth' and 2 more" in caplog.text


@pytest.mark.parametrize("field", ["prompt", "target_new", "locality_prompt", "locality_ground_truth"])
def test_other_invalid_fields_of_a_passage_are_refused(tmp_path: Path, field: str) -> None:
    path = write_records(tmp_path, [PASSAGE, {key: value for key, value in PASSAGE.items() if key != field}])
    assert f"record 1, field '{field}': is missing" in refusal(path, read_hallucination)
    assert f"record 0, field '{field}'" in refusal(write_records(tmp_path, [{**PASSAGE, field: 5}]), read_hallucination)
    if not field.startswith("locality"):
        assert f"record 0, field '{field}': is empty" in refusal(
            write_records(tmp_path, [{**PASSAGE, field: " "}]), read_hallucination
        )


def test_the_published_hallucination_file_is_read_in_full(caplog: pytest.LogCaptureFixture) -> None:
    name = "hallucination/hallucination-edit-300.json"
    path = Path(os.environ.get("EASYEDIT_LIFELONG_DATA", "shared/data")) / name
    if not path.is_file():
        pytest.skip(f"EASYEDIT_LIFELONG_DATA names no folder with {name}, the first 300 records of WISE's file")
    requests = read_requests(path, read_hallucination)
    assert len(requests) == 300
    assert [request.case_id for request in requests if not request.locality] == [86, 90, 171, 172, 238]
    assert all(request.subject for request in requests)
    assert "probes without prompt or answer are left out (5)" in caplog.text


def test_each_format_has_its_task() -> None:
    generation = {reader.name for reader in get_plugins().readers if reader.task == "generation"}
    assert generation == {"hallucination", "wikibio"}
    assert get_plugins().readers.get("zsre").task == "qa"


REPHRASED = {
    "id": "x",
    "input": "What is the capital of Finland?",
    "prediction": "Tampere",
    "alternatives": ["Turku"],
    "output": [{"answer": "Helsinki", "provenance": []}, {"answer": "Helsingfors"}],
    "filtered_rephrases": ["Finland's capital?", "Which city is Finland's capital?"],
}


def test_a_structured_zsre_record_becomes_a_request_with_its_rephrasings(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(record) for record in [REPHRASED, {**REPHRASED, "filtered_rephrases": []}])
    first, second = read_requests(write_records(tmp_path, lines, "structured.jsonl"), read_zsre_rephrased)
    assert (first.prompt, first.target_new, first.ground_truth) == (REPHRASED["input"], "Helsinki", "Helsinki")
    assert first.rephrase_prompts == tuple(REPHRASED["filtered_rephrases"])
    assert (second.case_id, second.rephrase_prompts) == (1, ())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input": ""}, "field 'input': is empty"),
        ({"output": []}, "field 'output': must be a list"),
        ({"output": "Helsinki"}, "field 'output': must be a list"),
        ({"output": [{"answer": None}]}, "field 'output': must be a list"),
        ({"filtered_rephrases": {}}, "field 'filtered_rephrases': must be text"),
        ({"filtered_rephrases": [5]}, "field 'filtered_rephrases': must be text"),
    ],
)
def test_an_invalid_structured_zsre_record_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    assert f"record 0, {message}" in refusal(write_records(tmp_path, [{**REPHRASED, **fields}]), read_zsre_rephrased)
