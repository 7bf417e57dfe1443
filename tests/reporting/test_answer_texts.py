"""Free answers in tables: cut at the target's end, and never where the answer is wrong."""

from __future__ import annotations

import pytest
from rich.console import Console

from easyedit_lifelong.reporting.answer_texts import answer_text, edited_answers_table


@pytest.mark.parametrize(
    ("text", "target", "shown"),
    [
        (" Geordie Best Best Best", "Geordie Best", " Geordie Best …"),
        (" Lyon. The answer is:", " Lyon", " Lyon …"),
        (" Lyon", "Lyon", " Lyon"),
        ("Lyon\n", "Lyon", "Lyon"),
        (" Parisian food", "Paris", " Parisian food"),
        (" 3000000", "30", " 3000000"),
        (" Paris, not Lyon", "Lyon", " Paris, not Lyon"),
        (" Mark Tw", "Mark Twain", " Mark Tw"),
        ("", "Lyon", "(no text)"),
        (" \n", "Lyon", "(no text)"),
    ],
)
def test_an_answer_is_cut_at_the_targets_end_if_it_is_the_target(text: str, target: str, shown: str) -> None:
    assert answer_text(text, target) == shown


@pytest.mark.parametrize(
    ("target", "after", "shown", "is_cut"),
    [
        ("Lyon", "Lyon", "Lyon", False),
        ("Lyon", "Lyon. The", "Lyon …", True),
        ("Lyon", "Lyon …", "Lyon …", True),
        ("Lyon", "Rome …", "Rome …", False),
        (None, "Lyon …", "Lyon …", False),
        (None, "Lyon. The", "Lyon. The", False),
    ],
)
def test_the_title_explains_the_mark_where_there_is_one(
    target: str | None, after: str, shown: str, is_cut: bool
) -> None:
    console = Console(width=120, record=True, force_terminal=False)
    edited_answers_table(console, [("The capital of France is", "Lyon", target, "Paris …?", after)], "Answers")
    *titles, header, row = (line.rstrip() for line in console.export_text().splitlines())
    title = " ".join(titles)
    assert title.startswith("Answers") and title.endswith(":")
    assert title.count(":") == 1
    assert ("; … means that the model writes more after the target" in title) == is_cut
    assert header.split() == ["prompt", "edited", "to", "before", "after"] and row.endswith(shown)
