"""Dataset files, and what is wrong with them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyedit_lifelong.data.readers import (
    read_counterfact,
    read_hallucination,
    read_json,
    read_requests,
    read_zsre,
    read_zsre_rephrased,
)
from easyedit_lifelong.data.request import Probe
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.plugins import get_plugins
from tests.support.dataset_records import COUNTERFACT, ZSRE
from tests.support.thoroughness import examples

PLAIN = [{"prompt": f"question {n}", "target_new": f"answer {n}"} for n in range(3)]


def _write(folder: Path, content: Any, name: str = "facts.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def _message(path: Path, read: Any = read_json) -> str:
    with pytest.raises(DataError) as caught:
        read_requests(path, read)
    message = str(caught.value)
    assert message.startswith(str(path)), "a message names the file"
    assert "\n" not in message
    return message[len(str(path)) :]


# ------------------------------------------------------------------ JSON and JSON Lines


def test_a_json_list_becomes_requests_numbered_by_record(tmp_path: Path) -> None:
    requests = read_requests(_write(tmp_path, PLAIN), read_json)
    assert [(r.case_id, r.prompt, r.target_new) for r in requests] == [
        (n, f"question {n}", f"answer {n}") for n in range(3)
    ]
    assert requests[2].where == f"{tmp_path / 'facts.json'}, record 2 (case 2)"


def test_json_lines_are_read_and_blank_lines_skipped(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(record) for record in PLAIN)
    path = _write(tmp_path, "\n" + lines.replace("\n", "\n\n") + "\n", "facts.jsonl")
    assert [r.prompt for r in read_requests(path, read_json)] == ["question 0", "question 1", "question 2"]


def test_unicode_line_breaks_do_not_end_a_json_line(tmp_path: Path) -> None:
    """Unicode has more line breaks than JSON Lines; unescaped, they are part of the text."""
    text = "a\u2028b\u0085c\u2029d"
    record = json.dumps({"prompt": text, "target_new": "x"}, ensure_ascii=False)
    path = _write(tmp_path, f"{record}\r\n{record}\n", "facts.jsonl")
    assert [r.prompt for r in read_requests(path, read_json)] == [text, text]


def test_a_tilde_in_the_path_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, PLAIN)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(read_requests("~/facts.json", read_json)) == 3


@examples(30)
@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1, max_size=4))
def test_written_facts_are_read_back_from_json_and_json_lines(
    tmp_path_factory: pytest.TempPathFactory, facts: list[tuple[str, str]]
) -> None:
    facts = [("q" + prompt, "a" + target) for prompt, target in facts]
    records = [{"prompt": prompt, "target_new": target} for prompt, target in facts]
    folder = tmp_path_factory.mktemp("facts")
    expected = [(prompt, target.strip()) for prompt, target in facts]
    for ascii_only in (True, False):
        whole = folder / "facts.json"
        whole.write_bytes(json.dumps(records, ensure_ascii=ascii_only).encode())
        lines = folder / "facts.jsonl"
        lines.write_bytes(b"\n".join(json.dumps(r, ensure_ascii=ascii_only).encode() for r in records))
        for path in (whole, lines):
            assert [(r.prompt, r.target_new) for r in read_requests(path, read_json)] == expected


# ------------------------------------------------------------------ bad files


@pytest.mark.parametrize("name", ["nothing.json", "."])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    assert _message(tmp_path / name) == ": no such data file"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "not valid JSON: Expecting value (line 1, column 1)"),
        ('[\n{"prompt": "p",}\n]', "not valid JSON"),
        ('[{"prompt": "p", "target_new": "t"}', "not valid JSON: Expecting ',' delimiter (line 1, column"),
        ("{}", "must hold a list of records"),
        ("5", "must hold a list of records"),
        ("null", "must hold a list of records"),
        ("[]", "holds no records"),
        ("[5]", "record 0: must be an object"),
        ('[{"prompt": "p", "target_new": "t"}, []]', "record 1: must be an object"),
    ],
)
def test_invalid_json_is_refused_with_its_position_or_record(tmp_path: Path, content: str, says: str) -> None:
    assert says in _message(_write(tmp_path, content))


def test_json_lines_in_a_json_file_are_refused_with_a_hint(tmp_path: Path) -> None:
    """The likeliest mistake of all deserves the way out."""
    lines = "\n".join(json.dumps(record) for record in PLAIN)
    message = _message(_write(tmp_path, lines, "facts.json"))
    assert "not valid JSON" in message
    assert ".jsonl" in message


def test_an_invalid_line_is_refused_with_its_number(tmp_path: Path) -> None:
    path = _write(tmp_path, json.dumps(PLAIN[0]) + '\n\n{"prompt": \n', "facts.jsonl")
    message = _message(path)
    assert ", line 3: not valid JSON" in message
    assert "line 1" not in message, "two line numbers, one of them wrong"


@pytest.mark.parametrize("name", ["facts.json", "facts.jsonl"])
def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b'[{"prompt": "caf\xe9"}]')
    assert "is not UTF-8 text" in _message(tmp_path / name)


def test_an_invalid_record_is_refused_with_its_number_and_field(tmp_path: Path) -> None:
    path = _write(tmp_path, [*PLAIN, {"prompt": "p", "target_new": ""}])
    assert _message(path) == ", record 3, field 'target_new': is empty. Give it text or remove the record."


@pytest.mark.parametrize(
    ("ids", "second", "first"),
    [([5, 6, 5], "record 2 (case 5)", "record 0"), ([1, None], "record 1 (case 1)", "record 0")],
)
def test_a_duplicate_case_id_is_refused_with_both_records(
    tmp_path: Path, ids: list[Any], second: str, first: str
) -> None:
    """Also where one is given and the other is the record's index."""
    records = [{**PLAIN[0], **({"case_id": case_id} if case_id is not None else {})} for case_id in ids]
    message = _message(_write(tmp_path, records))
    assert f"{second}, field 'case_id'" in message
    assert first in message.partition("used before")[2]


def test_a_reader_may_be_a_generator(tmp_path: Path) -> None:
    """A plugin's reader may be a generator."""
    path = _write(tmp_path, PLAIN)
    assert len(read_requests(path, lambda p: iter(read_json(p)))) == 3
    assert "holds no records" in _message(path, lambda p: iter(()))


# ------------------------------------------------------------------ the benchmarks' forms


@pytest.mark.usefixtures("loader")
def test_a_zsre_record_becomes_a_request(tmp_path: Path) -> None:
    first, second = read_requests(_write(tmp_path, [ZSRE, {**ZSRE, "subject": "Suomi"}]), read_zsre)
    assert (first.prompt, first.target_new, first.ground_truth) == (ZSRE["src"], "Tampere", "Helsinki")
    assert (first.subject, second.subject) == ("Finland", "Suomi"), "the 2023 loader drops it"
    assert first.rephrase_prompts == (ZSRE["rephrase"],)
    ((probe,),) = first.locality.values()
    assert probe.answer == "Charlotte"
    assert "who wrote it" in probe.prompt
    assert (first.case_id, second.case_id) == (0, 1)


@pytest.mark.usefixtures("loader")
def test_a_counterfact_record_becomes_a_request(tmp_path: Path) -> None:
    (request,) = read_requests(_write(tmp_path, [COUNTERFACT]), read_counterfact)
    assert (request.case_id, request.subject, request.ground_truth) == (4, "Cairo", "Nile")
    assert (request.prompt, request.target_new) == (COUNTERFACT["prompt"], "Congo")
    assert request.rephrase_prompts == (COUNTERFACT["rephrase_prompt"],)
    assert dict(request.locality) == {"neighborhood": (Probe("London's river is", "Thames"),)}


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(("read", "good"), [(read_zsre, ZSRE), (read_counterfact, COUNTERFACT)])
def test_benchmark_records_may_hold_relation_specificity(tmp_path: Path, read: Any, good: dict[str, Any]) -> None:
    """EasyEdit's loaders know no such fields; what is wrong with one is said all the same."""
    record = {**good, "relation_specificity_prompt": "p", "relation_specificity_ground_truth": "a"}
    (request,) = read_requests(_write(tmp_path, [record]), read)
    assert request.relation_specificity == (Probe("p", "a"),)
    assert list(request.locality) == ["neighborhood"]
    (bare,) = read_requests(_write(tmp_path, [{**good, "relation_specificity_prompt": None}]), read)
    assert bare.relation_specificity == ()
    message = _message(_write(tmp_path, [good, {**record, "case_id": 5, "relation_specificity_ground_truth": 5}]), read)
    assert message.startswith(", record 1, field 'relation_specificity_ground_truth': must be text, not a number")


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    ("read", "good", "name"),
    [(read_zsre, ZSRE, name) for name in ("src", "alt", "rephrase", "loc", "loc_ans")]
    + [(read_counterfact, COUNTERFACT, name) for name in COUNTERFACT if name not in ("case_id", "subject")],
)
def test_an_invalid_benchmark_field_is_refused_by_name(
    tmp_path: Path, read: Any, good: dict[str, Any], name: str
) -> None:
    """EasyEdit's loaders would say KeyError, or leave the record out without a word."""
    for bad in ("", "  ", None, 5, ["x"]):
        message = _message(_write(tmp_path, [good, {**good, "case_id": 5, name: bad}]), read)
        assert message.startswith(f", record 1, field {name!r}: ")
    without = {key: value for key, value in good.items() if key != name}
    assert f"record 1, field {name!r}: is missing." in _message(_write(tmp_path, [good, without]), read)


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize("answers", [None, [], "Helsinki", [5], [None]])
def test_a_zsre_record_without_a_true_answer_is_refused(tmp_path: Path, answers: Any) -> None:
    message = _message(_write(tmp_path, [{**ZSRE, "answers": answers}]), read_zsre)
    assert "record 0, field 'answers'" in message


@pytest.mark.usefixtures("loader")
def test_a_zsre_locality_prompt_without_its_prefix_is_refused(tmp_path: Path) -> None:
    message = _message(_write(tmp_path, [{**ZSRE, "loc": "who wrote it"}]), read_zsre)
    assert "record 0, field 'loc': must contain 'nq question: '" in message


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize("read", [read_zsre, read_counterfact])
def test_a_file_of_another_format_is_refused(tmp_path: Path, read: Any) -> None:
    assert "record 0: must be an object" in _message(_write(tmp_path, [5]), read)
    assert "must hold a list" in _message(_write(tmp_path, {"a": 1}), read)
    assert "record 0, field" in _message(_write(tmp_path, PLAIN), read)


@pytest.mark.usefixtures("loader")
def test_counterfact_portability_becomes_a_one_hop_probe(tmp_path: Path) -> None:
    record = {**COUNTERFACT, "portability_prompt": "One hop", "portability_ground_truth": "away"}
    (request,) = read_requests(_write(tmp_path, [record]), read_counterfact)
    assert dict(request.portability) == {"one_hop": (Probe("One hop", "away"),)}


# ------------------------------------------------------------------ SelfCheckGPT, as WISE prepares it

PASSAGE = {
    "prompt": "This is a Wikipedia passage about a painter. She was born in Lima.",
    "subject": "a painter",
    "target_new": "She studied in Cusco, and taught there from 1920.",
    "locality_prompt": "An old map of",
    "locality_ground_truth": "the harbour, in two colours.",
}


def test_a_hallucination_record_becomes_a_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (request,) = read_requests(_write(tmp_path, [PASSAGE]), read_hallucination)
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
    """The edit counts; there is only nothing to ask about what should stay, and that is said."""
    records = [PASSAGE, {**PASSAGE, "locality_ground_truth": ""}, PASSAGE, {**PASSAGE, "locality_ground_truth": " \n"}]
    path = _write(tmp_path, records)
    requests = read_requests(path, read_hallucination)
    assert [len(request.locality) for request in requests] == [1, 0, 1, 0]
    assert len({request.target_new for request in requests}) == 1
    (warning,) = caplog.messages
    assert warning == (
        f"{path}: locality isn't asked in 2 of 4 records, because their locality text has no second half (records 1, 3)"
    )


def test_the_warning_lists_ten_records_at_most(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_requests(_write(tmp_path, [{**PASSAGE, "locality_ground_truth": ""}] * 12), read_hallucination)
    assert "(records 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more)" in caplog.text


@pytest.mark.parametrize("field", ["prompt", "target_new", "locality_prompt", "locality_ground_truth"])
def test_other_invalid_fields_of_a_passage_are_refused(tmp_path: Path, field: str) -> None:
    path = _write(tmp_path, [PASSAGE, {key: value for key, value in PASSAGE.items() if key != field}])
    assert f"record 1, field '{field}': is missing" in _message(path, read_hallucination)
    assert f"record 0, field '{field}'" in _message(_write(tmp_path, [{**PASSAGE, field: 5}]), read_hallucination)
    if field != "locality_ground_truth":
        assert f"record 0, field '{field}': is empty" in _message(
            _write(tmp_path, [{**PASSAGE, field: " "}]), read_hallucination
        )


def test_other_readers_refuse_an_empty_locality_answer(tmp_path: Path) -> None:
    path = _write(tmp_path, [{**PASSAGE, "locality_ground_truth": ""}])
    assert ", record 0, field 'locality_ground_truth': is empty" in _message(path, read_json)


def test_the_published_hallucination_file_is_read_in_full(caplog: pytest.LogCaptureFixture) -> None:
    name = "hallucination/hallucination-edit-300.json"
    path = Path(os.environ.get("EASYEDIT_LIFELONG_DATA", "shared/data")) / name
    if not path.is_file():
        pytest.skip(f"EASYEDIT_LIFELONG_DATA names no folder with {name}, the first 300 records of WISE's file")
    requests = read_requests(path, read_hallucination)
    assert len(requests) == 300
    assert [request.case_id for request in requests if not request.locality] == [86, 90, 171, 172, 238]
    assert all(request.subject for request in requests)
    assert "isn't asked in 5 of 300 records" in caplog.text


def test_each_format_has_its_task() -> None:
    assert {reader.name for reader in get_plugins().readers if reader.task == "generation"} == {"hallucination"}
    assert get_plugins().readers.get("zsre").task == "qa"


# ------------------------------------------------------------------ zsRE with its rephrasings, as GRACE reads it

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
    first, second = read_requests(_write(tmp_path, lines, "structured.jsonl"), read_zsre_rephrased)
    assert (first.prompt, first.target_new, first.ground_truth) == (REPHRASED["input"], "Helsinki", "Helsinki")
    assert first.rephrase_prompts == tuple(REPHRASED["filtered_rephrases"])
    assert (second.case_id, second.rephrase_prompts) == (1, ())


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"input": ""}, "field 'input': is empty"),
        ({"output": []}, "field 'output': must be a list"),
        ({"output": "Helsinki"}, "field 'output': must be a list"),
        ({"output": [{"answer": None}]}, "field 'output': must be a list"),
        ({"filtered_rephrases": "one"}, "field 'filtered_rephrases': must be a list"),
        ({"filtered_rephrases": [5]}, "field 'rephrase_prompt': must be text"),
    ],
)
def test_an_invalid_structured_zsre_record_is_refused(tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    assert f"record 0, {says}" in _message(_write(tmp_path, [{**REPHRASED, **fields}]), read_zsre_rephrased)
