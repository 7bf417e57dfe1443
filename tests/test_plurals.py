"""A noun agrees with the number before it."""

from __future__ import annotations

import pytest

from easyedit_lifelong.plurals import counted


@pytest.mark.parametrize(
    ("number", "noun", "plural", "text"),
    [
        (0, "edit", None, "0 edits"),
        (1, "edit", None, "1 edit"),
        (2, "edit", None, "2 edits"),
        (1, "batch", "batches", "1 batch"),
        (2, "batch", "batches", "2 batches"),
    ],
)
def test_the_noun_agrees_with_the_number(number: int, noun: str, plural: str | None, text: str) -> None:
    assert counted(number, noun, plural) == text
