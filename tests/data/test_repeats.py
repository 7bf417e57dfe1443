"""Prompts that several requests edit are reported."""

from __future__ import annotations

from easyedit_lifelong.data.repeats import repeat_notes
from easyedit_lifelong.data.request import EditRequest


def _requests(*facts: tuple[str, str]) -> list[EditRequest]:
    return [EditRequest(case_id, prompt, target) for case_id, (prompt, target) in enumerate(facts)]


def test_different_prompts_give_no_note() -> None:
    assert repeat_notes("facts.json", _requests(("a", "x"), ("b", "x"))) == []


def test_repeats_and_contradictions_are_told_apart() -> None:
    requests = _requests(("a", "x"), ("b", "x"), ("a", "x"), ("a", "y"), ("b", "x"))
    same, different = repeat_notes("facts.json", requests)
    assert same.startswith(
        "facts.json: requests with the prompt and target of an earlier one (2): case 2 (as 0); 4 (as 1)."
    )
    assert different.startswith("facts.json: prompts with several targets (1): cases 0 ('x') and 3 ('y').")


def test_earlier_turns_make_another_prompt() -> None:
    first, second = (EditRequest(n, "And of France?", "Lyon", context_turns=(("user", str(n)),)) for n in (0, 1))
    assert repeat_notes("facts.json", [first, second]) == []


def test_a_long_list_is_shortened() -> None:
    (note,) = repeat_notes("facts.json", _requests(*[("a", "x")] * 9))
    assert "(8)" in note
    assert "and 3 more" in note
