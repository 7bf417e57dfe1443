"""Which prompts name the subject of another edit."""

from __future__ import annotations

import pytest

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.edited_subjects import EditedSubjects


def request(case_id: int, subject: str | None) -> EditRequest:
    return EditRequest(case_id, "p", "t", subject=subject)


OWN = request(0, "Alexander Island")
SUBJECTS = EditedSubjects([OWN, request(1, "Soviet Union"), request(2, "U.S."), request(3, None), request(4, "...")])


@pytest.mark.parametrize(
    ("prompt", "is_named"),
    [
        ("Soviet Union is located in", True),
        ("In the soviet union, people", True),
        ("The U.S. is", True),
        ("The Soviet-Union", True),
        ("Soviets of the Union", False),
        ("The Soviet Unions", False),
        ("Alexander Island is in", False),  # the subject of the same edit
        ("", False),
    ],
)
def test_subjects_are_found_as_whole_words(prompt: str, is_named: bool) -> None:
    assert SUBJECTS.named_by(prompt, OWN) is is_named


def test_a_subject_of_two_edits_is_another_edits_subject() -> None:
    subjects = EditedSubjects([OWN, request(1, "alexander island")])
    assert subjects.named_by("Alexander Island is in", OWN)
