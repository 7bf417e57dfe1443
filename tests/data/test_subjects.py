"""Subjects: where a text has them, and which of them name nothing."""

from __future__ import annotations

import pytest

from easyedit_lifelong.data.subjects import find_subject, is_function_word, other_names


@pytest.mark.parametrize(
    ("text", "subject", "span"),
    [
        ("Paris is not Paris, Texas", "Paris", (13, 18)),  # the last occurrence
        ("Roman and Romania", "Roman", (0, 5)),  # a whole word rather than the beginning of one
        ("the Romanians", "Roman", (4, 9)),
        ("Lyon", "Paris", None),
    ],
)
def test_where_a_text_has_a_subject(text: str, subject: str, span: tuple[int, int] | None) -> None:
    assert find_subject(text, subject) == span


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ("In", True),
        (" from ", True),
        ("iT", True),
        ("US", False),
        ("The Who", False),
        ("U2", False),
        ("Info", False),
        ("", False),
    ],
)
def test_a_function_word_names_nothing(subject: str, expected: bool) -> None:
    assert is_function_word(subject) is expected


@pytest.mark.parametrize(
    ("subject", "aliases", "expected"),
    [
        ("Rhythm 4 (1974)", [], ["Rhythm 4"]),
        (" Mercury (planet) ", ["Hermes"], ["Mercury", "Hermes"]),
        ("水星\uff08行星\uff09", [], ["水星"]),  # full-width brackets, without a space
        ("It (novel)", [], []),  # "It" is in texts about anything
        ("US (country)", [], ["US"]),  # and "US" is not
        ("(What's the Story)", [], []),
        ("Ivan (the Great) III", [], []),  # not at the end
        ("f(x)", [], []),  # no space: a part of the name
        ("United States", ["US", "U.S.A.", "US", "United States"], ["US", "U.S.A."]),
        ("Rome", ["Roma (city)"], ["Roma (city)", "Roma"]),
    ],
)
def test_the_other_names_of_a_subject(subject: str, aliases: list[str], expected: list[str]) -> None:
    assert other_names(subject, aliases) == expected
