"""Rephrasings of a fact are split into edited and held-out ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyedit_lifelong.data.holdout import split_rephrasings
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError
from tests.support.thoroughness import examples


def _request(case_id: int | str, *wordings: str, **fields: Any) -> EditRequest:
    record = {"prompt": f"prompt {case_id}", "target_new": f"target {case_id}", "rephrase_prompt": list(wordings)}
    return EditRequest.from_dict({**record, **fields}, f"facts.json, record {case_id}", case_id=case_id)


def _with_ten_rephrasings(case_id: int | str) -> EditRequest:
    return _request(case_id, *(f"wording {n} of {case_id}" for n in range(10)))


def test_some_rephrasings_are_edited_and_the_others_stay_held_out() -> None:
    locality = {"near": {"prompt": "p", "ground_truth": "a"}}
    fact = _request(
        12,
        *(f"wording {n}" for n in range(10)),
        subject="s",
        ground_truth="g",
        locality=locality,
        portability=locality,
        relation_specificity_prompt="p",
        relation_specificity_ground_truth="a",
    )
    first, *further = split_rephrasings([fact], 4)
    assert (first.case_id, first.prompt, first.target_new) == (12, "prompt 12", "target 12")
    assert [edit.case_id for edit in further] == ["12#1", "12#2", "12#3", "12#4"]
    assert {edit.prompt for edit in further} | set(first.rephrase_prompts) == {f"wording {n}" for n in range(10)}
    assert len(first.rephrase_prompts) == 6
    assert {(edit.target_new, edit.subject, edit.ground_truth) for edit in further} == {("target 12", "s", "g")}
    assert first.locality == fact.locality and first.portability == fact.portability
    assert len(first.relation_specificity) == 1
    question_fields = ("rephrase_prompts", "locality", "portability", "relation_specificity")
    assert not any(getattr(edit, name) for edit in further for name in question_fields), (
        "the questions of the fact count once more for each edited rephrasing"
    )
    assert further[0].where == "facts.json, record 12 (case 12#1)"


def test_only_the_seed_and_the_fact_determine_the_split() -> None:
    facts = [_with_ten_rephrasings(n) for n in range(5)]
    split = split_rephrasings(facts, 3, seed=1)
    assert split == split_rephrasings(facts, 3, seed=1)
    assert split != split_rephrasings(facts, 3, seed=2)
    assert [edit for edit in split if str(edit.case_id).partition("#")[0] == "3"] == split_rephrasings(
        [facts[3]], 3, seed=1
    )


def test_the_split_is_the_same_on_every_machine() -> None:
    """A resumed run must find the same edits in another process."""
    _, *further = split_rephrasings([_with_ten_rephrasings(7)], 3)
    assert [edit.prompt for edit in further] == ["wording 2 of 7", "wording 5 of 7", "wording 6 of 7"]


def test_at_least_one_rephrasing_is_held_out() -> None:
    without, with_one, with_two = _request(0), _request(1, "a"), _request(2, "a", "b")
    split = split_rephrasings([without, with_one, with_two], 5)
    assert [edit.case_id for edit in split] == [0, 1, 2, "2#1"]
    assert [len(edit.rephrase_prompts) for edit in split] == [0, 1, 1, 0]


def test_equal_wordings_are_kept_once() -> None:
    fact = _request(1, "Prompt  1", "a", "A", "b ", "b", "c")
    first, *further = split_rephrasings([fact], 2)
    wordings = [*first.rephrase_prompts, *(edit.prompt for edit in further)]
    assert sorted(" ".join(wording.split()) for wording in wordings) == ["a", "b", "c"]


def test_facts_without_two_rephrasings_and_negative_counts_are_refused() -> None:
    facts = [_request(0, "a"), _request(1, "b", "B")]
    with pytest.raises(DataError, match="no fact has two different rephrasings"):
        split_rephrasings(facts, 1)
    with pytest.raises(DataError, match="edit_with: -1"):
        split_rephrasings(facts, -1)
    assert split_rephrasings(facts, 0) == facts


def test_a_case_id_that_is_already_used_is_refused() -> None:
    with pytest.raises(DataError, match="'1#1' is used before"):
        split_rephrasings([_with_ten_rephrasings(1), _request("1#1", "x", "y")], 1)


@examples(50)
@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(lambda counts: max(counts) > 1),
    edit_with=st.integers(1, 12),
    seed=st.integers(),
)
def test_each_rephrasing_is_either_edited_or_held_out(counts: list[int], edit_with: int, seed: int) -> None:
    facts = [_request(n, *(f"{n} {k}" for k in range(count))) for n, count in enumerate(counts)]
    split = split_rephrasings(facts, edit_with, seed)
    for fact in facts:
        edits = [edit for edit in split if str(edit.case_id).partition("#")[0] == str(fact.case_id)]
        edited = [edit.prompt for edit in edits[1:]]
        assert sorted([*edited, *edits[0].rephrase_prompts]) == sorted(fact.rephrase_prompts)
        assert len(edited) == min(edit_with, max(len(fact.rephrase_prompts) - 1, 0))
