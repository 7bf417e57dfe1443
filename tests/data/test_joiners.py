"""The field ``joiner`` of requests, and requests with the joiner of hyperparameters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from easyedit_lifelong.data.joiners import joiner_of, joiners_by_prompt, with_joiner
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError

RECORD: dict[str, Any] = {"prompt": "The year was 20", "target_new": "24", "rephrase_prompt": ["It was 20"]}


@pytest.mark.parametrize(
    ("fields", "joiner"),
    [
        ({}, None),
        ({"joiner": None}, None),
        ({"joiner": float("nan")}, None),  # an empty cell of a table
        ({"joiner": "auto"}, None),
        ({"joiner": ""}, ""),
        ({"joiner": " "}, " "),
        ({"joiner": ": "}, ": "),
    ],
)
def test_an_empty_joiner_is_a_value_and_an_absent_one_is_not(fields: dict[str, Any], joiner: str | None) -> None:
    assert EditRequest.from_dict({**RECORD, **fields}, "facts.json, record 0", 0).joiner == joiner


@pytest.mark.parametrize(("value", "problem"), [(1, "must be text, not a number"), ("\ud800", "incomplete character")])
def test_other_values_are_refused_by_name(value: Any, problem: str) -> None:
    with pytest.raises(DataError, match=f"facts.json, record 0, field 'joiner': {problem}|holds an {problem}"):
        EditRequest.from_dict({**RECORD, "joiner": value}, "facts.json, record 0", 0)


def test_a_request_keeps_its_own_joiner() -> None:
    own, other = (EditRequest(n, f"prompt {n}", "answer", joiner=joiner) for n, joiner in enumerate(("", None)))
    assert [request.joiner for request in with_joiner([own, other], " = ")] == ["", " = "]
    assert with_joiner([own, other], None) == [own, other]


def test_paraphrases_have_the_joiner_of_their_request() -> None:
    requests = [EditRequest.from_dict({**RECORD, "joiner": "-"}, "record", 0), EditRequest(1, "prompt", "answer")]
    assert joiners_by_prompt(requests) == {"The year was 20": "-", "It was 20": "-"}


def test_hyperparameters_of_other_packages_have_no_joiner() -> None:
    assert joiner_of(SimpleNamespace()) is None
    assert joiner_of(SimpleNamespace(joiner="auto")) is None
    assert joiner_of(SimpleNamespace(joiner="")) == ""
