"""Every reader, on every damage: a message that names file, record and field, or usable requests; never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.data.readers import read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.plugins import get_plugins
from tests.support.published_records import PUBLISHED

NAN, REMOVED = float("nan"), object()

VALUES: dict[str, Any] = {
    "removed": REMOVED,
    "null": None,
    "NaN": NAN,
    "infinity": float("inf"),
    "a number": 5,
    "a fraction": 2.5,
    "true": True,
    "an empty text": "",
    "spaces": " \n",
    "half a surrogate pair": "x\ud83d",
    "a null character": "a\0b",
    "braces": "{} {0} {subject} {",
    "an empty list": [],
    "an empty object": {},
    "a list of nulls": [None],
    "a list of empty texts": ["", " "],
    "a list of numbers": [1, 2],
    "a list of objects": [{}, {"prompt": "p"}],
    "a list of lists": [[["x"]], []],
    "a list of odd probes": [{"prompt": ["p"], "ground_truth": "a"}, {"loc": 5, "loc_ans": []}],
    "an object of numbers": {"a": 1},
    "an object of nulls": {"prompt": None, "ground_truth": None, "str": None},
    "an odd set": {"Relation_Specificity": {"prompt": ["p", "q"], "ground_truth": ["a"]}, "x": "y"},
    "a deep object": {"a": {"b": {"c": [{"d": None}]}}},
}
"""Values that take the place of each field of a record, and of each field of the objects in it."""


def _list(record: dict[str, Any]) -> str:
    return json.dumps([record])


FILES: dict[str, Callable[[dict[str, Any]], str | bytes]] = {
    "a byte order mark": lambda record: b"\xef\xbb\xbf" + _list(record).encode(),
    "UTF-16": lambda record: _list(record).encode("utf-16"),
    "a truncated file": lambda record: _list(record)[:-9],
    "an empty file": lambda record: "",
    "one record without a list": lambda record: json.dumps(record),
    "lines instead of a list": lambda record: json.dumps(record) + "\n" + json.dumps(record),
    "a comma too many": lambda record: _list(record)[:-1] + ",]",
    "a record that is no object": lambda record: json.dumps([record, 5, None, "x", []]),
    "a key twice": lambda record: _list(record).replace("{", '{"note": 1, "note": 2, ', 1),
    "nesting without end": lambda record: "[" * 100_000,
    "a number of 5000 digits": lambda record: _list(record)[:-2] + ', "x": ' + "9" * 5000 + "}]",
    "more after the list": lambda record: _list(record) + "[]",
}


def _damaged(value: Any, replacement: Any) -> Iterator[Any]:
    """Yield copies of a JSON value, each with another field replaced or removed."""
    if isinstance(value, dict):
        for key, item in value.items():
            rest = {name: other for name, other in value.items() if name != key}
            yield rest if replacement is REMOVED else {**value, key: replacement}
            for inner in _damaged(item, replacement):
                yield {**value, key: inner}
    elif isinstance(value, list):
        for index, item in enumerate(value):
            for inner in _damaged(item, replacement):
                yield [*value[:index], inner, *value[index + 1 :]]


def _outcome(path: Path, name: str) -> list[EditRequest] | str:
    """Return the requests of a file or the message of its error; any other exception fails the test."""
    try:
        return read_requests(path, get_plugins().readers.get(name).read)
    except DataError as error:
        return str(error)


def _check_usable(requests: list[EditRequest]) -> None:
    assert requests
    for request in requests:
        probes = [
            probe for sets in (request.locality, request.portability) for group in sets.values() for probe in group
        ]
        texts = [request.prompt, request.target_new, *request.rephrase_prompts]
        texts += [text for probe in (*probes, *request.relation_specificity) for text in (probe.prompt, probe.answer)]
        texts += [text for text in (request.subject, request.ground_truth) if text is not None]
        assert all(isinstance(text, str) and text.strip() and text.encode() for text in texts)


@pytest.mark.usefixtures("native_loader")
@pytest.mark.parametrize("damage", VALUES)
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_damaged_field_is_named_or_the_request_is_usable(tmp_path: Path, name: str, damage: str) -> None:
    path = tmp_path / "facts.json"
    for record in _damaged(PUBLISHED[name], VALUES[damage]):
        path.write_text(json.dumps([record]), encoding="utf-8")
        outcome = _outcome(path, name)
        if isinstance(outcome, str):
            assert outcome.startswith(f"{path}, record 0, "), f"{record}: {outcome}"
            assert ", field '" in outcome, f"{record}: {outcome}"
        else:
            _check_usable(outcome)


@pytest.mark.usefixtures("native_loader")
@pytest.mark.parametrize("damage", FILES)
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_damaged_file_is_named_or_the_requests_are_usable(tmp_path: Path, name: str, damage: str) -> None:
    content = FILES[damage](PUBLISHED[name])
    path = tmp_path / "facts.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    outcome = _outcome(path, name)
    if damage in ("a byte order mark", "a key twice"):
        assert not isinstance(outcome, str), outcome
        _check_usable(outcome)
    else:
        assert isinstance(outcome, str), "the damage isn't noticed"
        assert outcome.startswith(str(path))
    if damage == "a record that is no object":
        assert [f"record {index}: must be an object" in outcome for index in range(5)] == [False, *[True] * 4]


def test_keys_that_occur_twice_give_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "facts.json"
    path.write_text('[{"prompt": "a", "prompt": "b", "target_new": "t"}, {"prompt": "c", "target_new": "t"}]')
    requests = read_requests(path, get_plugins().readers.get("json").read)
    assert [request.prompt for request in requests] == ["b", "c"]
    assert caplog.messages == [
        f"{path}: keys that an object has more than once, of which the last value counts: 'prompt'"
    ]


def test_all_unusable_records_are_listed_at_once_or_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = {"prompt": "p", "target_new": "t"}
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([good, {"prompt": "p"}, good, 5, {**good, "subject": 7}]))
    read = get_plugins().readers.get("json").read
    with pytest.raises(DataError) as caught:
        read_requests(path, read)
    reasons = [
        "  record 1, field 'target_new': is missing.",
        "  record 3: must be an object with the fields of a request, not a number",
        "  record 4, field 'subject': must be text, not a number",
    ]
    first, *listed = str(caught.value).split("\n")
    assert first == (
        f"{path}: 3 records can't be used; the other 2 requests can. Correct them, or leave them out with "
        "--skip-unusable ('skip_unusable: true' in a YAML file)."
    )
    assert listed == reasons
    assert [request.case_id for request in read_requests(path, read, skip_unusable=True)] == [0, 2]
    assert caplog.messages[-1].split("\n")[1:] == reasons


def test_a_file_without_a_usable_record_is_refused_also_if_they_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text('[{"prompt": "p"}, {"prompt": "q"}]')
    with pytest.raises(DataError, match="2 records can't be used"):
        read_requests(path, get_plugins().readers.get("json").read, skip_unusable=True)


@pytest.mark.parametrize(
    ("record", "name", "advice"),
    [
        (PUBLISHED["qaedit"], "zsre", "has the fields of the format 'qaedit': give --format qaedit."),
        ({"src": "q", "answers": ["a"]}, "json", "The nearest is 'zsre', which also needs alt."),
        ({"text": "q", "portability": {}}, "json", "which also needs"),
        ({"question": "q", "reply": "a"}, "json", "(question, reply) fit no format. A YAML file can map them"),
    ],
)
def test_a_file_of_another_format_is_refused_with_the_nearest(
    tmp_path: Path, record: dict[str, Any], name: str, advice: str
) -> None:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([record]))
    outcome = _outcome(path, name)
    assert isinstance(outcome, str)
    assert "record 0, field" in outcome
    assert advice in outcome
