"""What separates a prompt from its answer."""

from __future__ import annotations

import pytest

from easyedit_lifelong.models.separator import separator


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("The capital of France is", "Lyon"),
        ("The Eiffel Tower, in", "Rome"),
        ('He said: "no"', "again"),
        ("the year", "2024"),
        ("The price is", ".5"),
        ("She is called", "'Hamlet'"),
        ("The range is 3 -", "4"),
        ("프랑스의 수도는", "리옹"),  # Korean separates words by spaces
        ("Столица Франции", "Лион"),
    ],
)
def test_a_space_separates_words(prompt: str, answer: str) -> None:
    assert separator(prompt, answer) == " "


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("中国的首都是", "上海"),
        ("日本の首都は", "大阪"),
        ("เมืองหลวงของไทยคือ", "เชียงใหม่"),
        ("The year was 20", "24"),
        ('She wrote "', "Hamlet"),
        ("She wrote “", "Hamlet"),
        ("The author (", "Shakespeare"),
        ("The price is $", "5"),
        ("a well-", "known poet"),
        ("France", "'s capital"),
        ("The capital of France is Lyon", "."),
        ("The capital is ", "Lyon"),
        ("The capital is", " Lyon"),
        ("The capital is\n", "Lyon"),
    ],
)
def test_no_space_where_the_script_or_the_punctuation_has_none(prompt: str, answer: str) -> None:
    assert separator(prompt, answer) == ""


@pytest.mark.parametrize("joiner", ["", " ", " is called "])
def test_a_joiner_overrides_the_texts(joiner: str) -> None:
    assert separator("The capital of France is", "Lyon", joiner) == joiner
    assert separator("中国的首都是", "上海", joiner) == joiner
