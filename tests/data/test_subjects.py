"""Subjects: where a text has them, and which of them name nothing."""

from __future__ import annotations

import pytest

from easyedit_lifelong.data.subjects import find_subject, is_function_word


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
    [("In", True), (" from ", True), ("IT", True), ("The Who", False), ("U2", False), ("Info", False), ("", False)],
)
def test_a_function_word_names_nothing(subject: str, expected: bool) -> None:
    assert is_function_word(subject) is expected
