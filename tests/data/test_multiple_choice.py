"""Multiple-choice questions are read from files and from memory, and invalid ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.data.multiple_choice import MultipleChoiceItem, as_items, read_multiple_choice
from easyedit_lifelong.errors import DataError
from tests.support.record_files import write_records

RECORD: dict[str, Any] = {"question": "Which is blue?", "choices": ["snow", "the sea"], "answer": 1}
ITEM = MultipleChoiceItem("Which is blue?", ("snow", "the sea"), 1)


@pytest.mark.parametrize("answer", [1, "the sea"])
def test_the_answer_is_an_index_or_the_text_of_a_choice(tmp_path: Path, answer: Any) -> None:
    assert read_multiple_choice(write_records(tmp_path, [{**RECORD, "answer": answer, "id": 7}])) == [ITEM]


def test_json_lines_are_read(tmp_path: Path) -> None:
    lines = '{"question": "q", "choices": ["a", "b"], "answer": 0, "subject": "s"}\n'
    assert read_multiple_choice(write_records(tmp_path, lines, "questions.jsonl")) == [
        MultipleChoiceItem("q", ("a", "b"), 0, "s")
    ]


def test_numbers_become_texts_and_an_answer_that_is_a_number_is_an_index() -> None:
    (item,) = as_items([{"question": "2 + 2?", "choices": [0, 4, 1], "answer": 1}])
    assert (item.choices, item.answer) == (("0", "4", "1"), 1)
    (item,) = as_items([{"question": "2 + 2?", "choices": [0, 4, 1], "answer": "4"}])
    assert item.answer == 1


def test_a_question_is_written_as_the_record_that_it_is_read_from() -> None:
    items = as_items([RECORD, {**RECORD, "subject": "nature"}, ITEM])
    assert as_items([item.to_dict() for item in items]) == items


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not valid JSON"),
        ("[]", "holds no questions"),
        ({"questions": [RECORD]}, "must hold a list of questions"),
        (["q"], "record 0: must be an object"),
        (
            [RECORD, {"qestion": "q"}],
            "record 1, field 'question': is missing, empty or not text. Did you mean 'qestion'?",
        ),
        ([{**RECORD, "question": " "}], "record 0, field 'question': is missing, empty or not text"),
        ([{**RECORD, "choices": ["the sea"]}], "record 0, field 'choices': must be a list of two or more texts"),
        ([{**RECORD, "choices": ["a", None]}], "record 0, field 'choices': must be a list of two or more texts"),
        ([{**RECORD, "choices": "ab"}], "record 0, field 'choices': must be a list of two or more texts"),
        ([{**RECORD, "choices": ["a", "b", "a"]}], "record 0, field 'choices': the same choice occurs twice"),
        ([{**RECORD, "answer": 2}], "record 0, field 'answer': 2 is neither one of the choices nor the index of one"),
        ([{**RECORD, "answer": -1}], "record 0, field 'answer': -1 is neither"),
        ([{**RECORD, "answer": True}], "record 0, field 'answer': True is neither"),
        ([{"question": "q", "choices": ["a", "b"]}], "record 0, field 'answer': None is neither"),
        ([{**RECORD, "subject": 3}], "record 0, field 'subject': is empty or not text"),
        ('[{"question": "q", "choices": ["a", "b\\ud83d"], "answer": 0}]', "field 'choices': holds an incomplete"),
    ],
)
def test_an_unusable_file_is_refused_with_record_and_field(tmp_path: Path, content: Any, message: str) -> None:
    path = write_records(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_multiple_choice(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
