"""Held-out facts are read from each of their file formats, and invalid files are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from easyedit_lifelong.data.readers import read_requests, read_zsre
from easyedit_lifelong.data.request import Probe
from easyedit_lifelong.data.retention import read_retention
from easyedit_lifelong.data.samples import RETENTION, ZSRE, retention_probes
from easyedit_lifelong.errors import DataError
from tests.support.record_files import write_records


def test_prompts_with_answers_become_probes(tmp_path: Path) -> None:
    assert read_retention(write_records(tmp_path, [{"prompt": "p", "answer": "é", "note": 1}])) == [Probe("p", "é")]


def test_the_sample_file_is_read() -> None:
    assert read_retention(RETENTION) == retention_probes()


@pytest.mark.parametrize("name", ["facts.jsonl", "FACTS.JSONL"])
def test_json_lines_are_read(tmp_path: Path, name: str) -> None:
    path = write_records(tmp_path, '{"prompt": "p", "answer": "a"}\n\n{"prompt": "q", "answer": "b"}\n', name)
    assert read_retention(path) == [Probe("p", "a"), Probe("q", "b")]


def test_a_zsre_file_gives_its_natural_questions(tmp_path: Path) -> None:
    record = {"src": "s", "alt": "t", "loc": "nq question: who wrote it", "loc_ans": "Charlotte"}
    path = write_records(tmp_path, [record, {**record, "loc_ans": "Emily"}, {**record, "src": "another"}])
    assert read_retention(path) == [
        Probe("nq question: who wrote it", "Charlotte"),
        Probe("nq question: who wrote it", "Emily"),
    ], "a question occurs more than once"


@pytest.mark.usefixtures("loader")
def test_a_zsre_file_gives_the_locality_prompts_of_its_requests() -> None:
    probes = [probe for request in read_requests(ZSRE, read_zsre) for probe in request.locality["neighborhood"]]
    assert read_retention(ZSRE) == list(dict.fromkeys(probes))


def test_graces_lists_of_questions_and_answers_are_read(tmp_path: Path) -> None:
    path = write_records(tmp_path, {"questions": ["p", "q"], "answers": ["a", "b"]})
    assert read_retention(path) == [Probe("p", "a"), Probe("q", "b")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not valid JSON"),
        ('[{"prompt": "p", "answer": "a"}, {"prompt": "p"}]', "record 1, field 'answer': is missing"),
        ('[{"prompt": "p", "answer": 5}]', "record 0, field 'answer'"),
        ('[{"prompt": "p", "answer": " "}]', "record 0, field 'answer'"),
        ('[{"loc": "p"}]', "record 0, field 'loc_ans': is missing"),
        ('[{"loc": "p", "loc_ans": "a"}, {"prompt": "p", "answer": "a"}]', "record 1, field 'loc': is missing"),
        (
            '[{"question": "p", "answer": ["a", "b"]}]',
            "record 0, field 'prompt': is missing; the record has question, answer. Held-out facts have prompt and "
            "answer, loc and loc_ans, or text and label.",
        ),
        ('["p"]', "record 0"),
        ('[{"prompt": "p", "answer": "a\\ud83d"}]', "record 0, field 'answer': holds an incomplete character"),
        ('{"prompt": "p", "answer": "a"}', "must hold a list"),
        ('{"questions": ["p"], "answers": []}', "lists of the same length"),
        ('{"questions": "p", "answers": "a"}', "lists of the same length"),
        ('{"questions": [5], "answers": ["a"]}', "record 0, field 'prompt'"),
        ("null", "must hold a list"),
        ("[]", "holds no"),
    ],
)
def test_invalid_held_out_facts_are_refused_with_file_and_record(tmp_path: Path, content: str, message: str) -> None:
    path = write_records(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_retention(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_a_missing_or_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.json: no such retention file"):
        read_retention(tmp_path / "nothing.json")
    with pytest.raises(DataError, match="can't be read"):
        read_retention(tmp_path)


def test_a_tilde_in_the_path_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line expands ~ in every other path."""
    write_records(tmp_path, [{"prompt": "p", "answer": "a"}])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_retention(Path("~/facts.json")) == [Probe("p", "a")]
