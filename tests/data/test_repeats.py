"""Prompts that several requests edit are reported, and edited prompts whose answers should not change."""

from __future__ import annotations

from easyedit_lifelong.data.repeats import edited_probe_notes, repeat_notes
from easyedit_lifelong.data.request import EditRequest, Probe


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


def test_edited_prompts_among_the_probes_are_reported() -> None:
    near = {"near": (Probe("The capital of  Spain is", "Madrid"), Probe("c", "x"))}
    requests = [
        EditRequest(0, "The capital of France is", "Lyon", locality=near),
        EditRequest(7, "the capital of Spain is", "Seville"),
    ]
    retention = [
        Probe("p", "a"),
        Probe("The capital of France is", "Paris"),
        Probe("The capital of Spain is", "Seville"),
    ]
    locality, held_out = edited_probe_notes("facts.json", requests, retention)
    assert locality.startswith("facts.json: locality prompts that another request edits (1): of case 0 (by 7).")
    assert held_out.startswith("facts.json: held-out facts that a request edits (1): fact 1 (by 0).")
    assert edited_probe_notes("facts.json", requests[:1], retention[:1]) == []
