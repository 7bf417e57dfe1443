"""JSON and JSON Lines files become requests, and invalid files are refused with file, record and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyedit_lifelong.data.readers import (
    read_json,
    read_requests,
)
from tests.support.record_files import PLAIN, refusal, write_records
from tests.support.thoroughness import examples


def test_a_json_list_becomes_requests_numbered_by_record(tmp_path: Path) -> None:
    requests = read_requests(write_records(tmp_path, PLAIN), read_json)
    assert [(r.case_id, r.prompt, r.target_new) for r in requests] == [
        (n, f"question {n}", f"answer {n}") for n in range(3)
    ]
    assert requests[2].where == f"{tmp_path / 'facts.json'}, record 2 (case 2)"


def test_json_lines_are_read_and_blank_lines_skipped(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(record) for record in PLAIN)
    path = write_records(tmp_path, "\n" + lines.replace("\n", "\n\n") + "\n", "facts.jsonl")
    assert [r.prompt for r in read_requests(path, read_json)] == ["question 0", "question 1", "question 2"]


def test_unicode_line_breaks_do_not_end_a_json_line(tmp_path: Path) -> None:
    """Line separators of Unicode may stand in a JSON text unescaped."""
    text = "a\u2028b\u0085c\u2029d"
    record = json.dumps({"prompt": text, "target_new": "x"}, ensure_ascii=False)
    path = write_records(tmp_path, f"{record}\r\n{record}\n", "facts.jsonl")
    assert [r.prompt for r in read_requests(path, read_json)] == [text, text]


def test_a_tilde_in_the_path_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_records(tmp_path, PLAIN)
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
        json_file = folder / "facts.json"
        json_file.write_bytes(json.dumps(records, ensure_ascii=ascii_only).encode())
        lines_file = folder / "facts.jsonl"
        lines_file.write_bytes(b"\n".join(json.dumps(r, ensure_ascii=ascii_only).encode() for r in records))
        for path in (json_file, lines_file):
            assert [(r.prompt, r.target_new) for r in read_requests(path, read_json)] == expected


@pytest.mark.parametrize(
    ("name", "reason"), [("nothing.json", "no such data file"), (".", "is a folder, not a data file")]
)
def test_a_missing_file_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    assert refusal(tmp_path / name) == f": {reason}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("x", "not valid JSON: Expecting value (line 1, column 1)"),
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
def test_invalid_json_is_refused_with_its_position_or_record(tmp_path: Path, content: str, message: str) -> None:
    assert message in refusal(write_records(tmp_path, content))


def test_json_lines_in_a_json_file_are_refused_with_a_hint(tmp_path: Path) -> None:
    """This is the likeliest mistake, so the message says how to correct it."""
    lines = "\n".join(json.dumps(record) for record in PLAIN)
    message = refusal(write_records(tmp_path, lines, "facts.json"))
    assert "not valid JSON" in message
    assert ".jsonl" in message


def test_an_invalid_line_is_refused_with_its_number(tmp_path: Path) -> None:
    path = write_records(tmp_path, json.dumps(PLAIN[0]) + '\n\n{"prompt": \n', "facts.jsonl")
    message = refusal(path)
    assert ", line 3: not valid JSON" in message
    assert "line 1" not in message, "the message also has the line number within the record"


@pytest.mark.parametrize("name", ["facts.json", "facts.jsonl"])
def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b'[{"prompt": "caf\xe9"}]')
    message = refusal(tmp_path / name)
    assert "is not UTF-8 text" in message
    assert message.endswith("Save it as UTF-8.")


def test_an_invalid_record_is_refused_with_its_number_and_field(tmp_path: Path) -> None:
    path = write_records(tmp_path, [*PLAIN, {"prompt": "p", "target_new": ""}])
    assert refusal(path) == ", record 3, field 'target_new': is empty. Give it text or remove the record."


@pytest.mark.parametrize(
    ("ids", "second", "first"),
    [([5, 6, 5], "record 2 (case 5)", "record 0"), ([1, None], "record 1 (case 1)", "record 0")],
)
def test_a_duplicate_case_id_is_refused_with_both_records(
    tmp_path: Path, ids: list[Any], second: str, first: str
) -> None:
    """A given case_id may also equal the index of a record without one."""
    records = [{**PLAIN[0], **({"case_id": case_id} if case_id is not None else {})} for case_id in ids]
    message = refusal(write_records(tmp_path, records))
    assert f"{second}, field 'case_id'" in message
    assert first in message.partition("used before")[2]


def test_a_reader_may_be_a_generator(tmp_path: Path) -> None:
    """A plugin's reader may be a generator."""
    path = write_records(tmp_path, PLAIN)
    assert len(read_requests(path, lambda p: iter(read_json(p)))) == 3
    assert "holds no records" in refusal(path, lambda p: iter(()))
