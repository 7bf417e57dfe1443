"""The sample of past edits changes as little as possible while edits arrive."""

from __future__ import annotations

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.sampling import sample_of

REQUESTS = [EditRequest(i, f"prompt {i}", "answer") for i in range(400)]


def ids(requests: list[EditRequest]) -> list[int | str]:
    return [request.case_id for request in requests]


def test_a_sample_of_few_edits_holds_all_of_them() -> None:
    assert sample_of(REQUESTS[:7], 7) == REQUESTS[:7]
    assert sample_of(REQUESTS, None) == REQUESTS
    assert sample_of([], 5) == []


def test_a_sample_has_the_given_size_and_keeps_the_order() -> None:
    drawn = ids(sample_of(REQUESTS, 50))
    assert len(set(drawn)) == 50
    assert drawn == sorted(drawn)


def test_later_edits_replace_members_and_bring_none_back() -> None:
    """An early edit that is in the sample of 400 edits was in each earlier sample as well."""
    for before in (100, 200, 399):
        early, late = set(ids(sample_of(REQUESTS[:before], 50))), set(ids(sample_of(REQUESTS, 50)))
        assert {i for i in late if i < before} <= early
    assert len(set(ids(sample_of(REQUESTS[:399], 50))) & late) >= 49, "one more edit changes more than one member"


def test_every_edit_is_drawn_with_equal_probability() -> None:
    """Over 200 seeds, each of 400 edits is drawn about 25 times, and both halves equally often."""
    counts = {i: 0 for i in range(400)}
    for seed in range(200):
        for i in ids(sample_of(REQUESTS, 50, seed)):
            counts[i] += 1
    assert max(counts.values()) < 50 and min(counts.values()) > 5
    assert abs(sum(counts[i] for i in range(200)) - 5000) < 250


def test_only_the_seed_and_the_case_ids_determine_the_sample() -> None:
    assert sample_of(REQUESTS, 50, 1) == sample_of(REQUESTS, 50, 1) != sample_of(REQUESTS, 50, 2)
    other_texts = [EditRequest(i, "other", "words") for i in range(400)]
    assert ids(sample_of(other_texts, 50)) == ids(sample_of(REQUESTS, 50))
    text_ids = [EditRequest(str(i), "p", "a") for i in range(400)]
    as_texts = [str(i) for i in ids(sample_of(REQUESTS, 50))]
    assert ids(sample_of(text_ids, 50)) != as_texts, "the case ids 1 and '1' are drawn alike"
