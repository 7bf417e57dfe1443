"""The sample of past edits changes as little as possible while edits arrive."""

from __future__ import annotations

import pytest

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.sampling import ever_sampled, sample_of

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


@pytest.mark.parametrize("size", [1, 7, 50, 399, 400, 500, None])
@pytest.mark.parametrize("seed", [0, 3])
def test_the_requests_of_all_samples_of_first_requests(size: int | None, seed: int) -> None:
    drawn = {i for n in range(len(REQUESTS) + 1) for i in ids(sample_of(REQUESTS[:n], size, seed))}
    assert ids(ever_sampled(REQUESTS, size, seed)) == sorted(drawn)


def test_requests_of_one_id_are_told_apart_by_their_place() -> None:
    twins = [EditRequest(0, f"prompt {n}", "answer") for n in range(5)]
    assert ever_sampled(twins, 2) == sample_of(twins, 2) == twins[:2]


def test_only_the_seed_and_the_case_ids_determine_the_sample() -> None:
    assert sample_of(REQUESTS, 50, 1) == sample_of(REQUESTS, 50, 1) != sample_of(REQUESTS, 50, 2)
    other_texts = [EditRequest(i, "other", "words") for i in range(400)]
    assert ids(sample_of(other_texts, 50)) == ids(sample_of(REQUESTS, 50))
    text_ids = [EditRequest(str(i), "p", "a") for i in range(400)]
    as_texts = [str(i) for i in ids(sample_of(REQUESTS, 50))]
    assert ids(sample_of(text_ids, 50)) != as_texts, "the case ids 1 and '1' are drawn alike"
