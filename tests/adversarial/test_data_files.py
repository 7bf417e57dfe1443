"""Data files that hold anything: requests, or an error that names the file."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from easyedit_lifelong import get_plugins
from easyedit_lifelong.data.guess_format import guess_format
from easyedit_lifelong.data.multiple_choice import read_multiple_choice
from easyedit_lifelong.data.readers import read_requests
from easyedit_lifelong.data.retention import read_retention
from easyedit_lifelong.errors import DataError
from tests.support import thoroughness
from tests.support.published_records import PUBLISHED

EXAMPLES = settings(
    max_examples=1000 if thoroughness.full else 80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
VALUES: list[Any] = [
    None,
    True,
    -1,
    10**30,
    float("nan"),
    float("inf"),
    "",
    " ",
    "\x00",
    "\x1b[2J",
    "\ud83d",
    "{}",
    [],
    [[]],
    ["x", None],
    [[["x"]]],
    {},
    {"": None},
    {"prompt": [], "ground_truth": "x"},
    {"str": "x"},
    [{"prompt": "a", "ground_truth": 1}],
]
SUFFIXES = [".json", ".jsonl", ".csv", ".tsv", ".parquet", ".txt", ""]


def read_or_refuse(path: Path, read: Callable[[Path], Any]) -> None:
    """Read a file; if it is refused, the message must name it."""
    try:
        read(path)
    except DataError as error:
        message = str(error)
    else:
        message = str(path)
    assert str(path) in message


def changed(record: Any, steps: list[int], value: Any, remove: bool) -> Any:
    """Return a copy of a record in which one value, found by these steps, is another or is missing."""
    record = copy.deepcopy(record)
    owner = record
    for depth, step in enumerate(steps):
        keys = sorted(owner) if isinstance(owner, dict) else list(range(len(owner)))
        key = keys[step % len(keys)]
        if depth + 1 < len(steps) and isinstance(owner[key], (dict, list)) and owner[key]:
            owner = owner[key]
        elif remove:
            del owner[key]
            break
        else:
            owner[key] = value
            break
    return record


@EXAMPLES
@given(
    name=st.sampled_from(sorted(PUBLISHED)),
    steps=st.lists(st.integers(0, 30), min_size=1, max_size=5),
    value=st.sampled_from(range(len(VALUES))),
    remove=st.booleans(),
    lines=st.booleans(),
)
def test_a_record_with_a_value_of_any_kind_is_read_or_refused(
    tmp_path: Path, name: str, steps: list[int], value: int, remove: bool, lines: bool
) -> None:
    record = changed(PUBLISHED[name], steps, VALUES[value], remove)
    path = tmp_path / ("facts.jsonl" if lines else "facts.json")
    path.write_text(json.dumps(record) if lines else json.dumps([record]), encoding="utf-8")
    read_or_refuse(path, lambda path: read_requests(path, get_plugins().readers.get(name).read))
    read_or_refuse(path, guess_format)


@EXAMPLES
@given(
    data=st.one_of(
        st.binary(max_size=60),
        st.recursive(st.sampled_from(VALUES), lambda inner: st.lists(inner, max_size=3), max_leaves=4).map(
            lambda value: json.dumps(value).encode()
        ),
        st.text(st.sampled_from('prompt,target_new\n"\x00\t;[]{}:1'), max_size=60).map(str.encode),
    ),
    suffix=st.sampled_from(SUFFIXES),
)
def test_a_file_of_any_bytes_is_read_or_refused(tmp_path: Path, data: bytes, suffix: str) -> None:
    path = tmp_path / f"facts{suffix}"
    path.write_bytes(data)
    read_or_refuse(path, lambda path: read_requests(path, get_plugins().readers.get("json").read))
    for read in (guess_format, read_retention, read_multiple_choice):
        read_or_refuse(path, read)


@pytest.mark.parametrize("text", ["[" * 100_000, f'[{{"prompt": {"1" * 5000}}}]', f'{{"a": {"[" * 100_000}'])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_deep_nesting_and_long_numbers_are_refused(tmp_path: Path, text: str, suffix: str) -> None:
    path = tmp_path / f"facts{suffix}"
    path.write_text(text)
    for read in (guess_format, read_retention, read_multiple_choice):
        read_or_refuse(path, read)
    with pytest.raises(DataError, match=str(path)):
        read_requests(path, get_plugins().readers.get("json").read)
