"""Records in random order, which a seed and the case_ids determine."""

from __future__ import annotations

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.shuffling import shuffled
from easyedit_lifelong.evaluation.sampling import sample_of

REQUESTS = [EditRequest(number, f"p{number}", "t") for number in range(400)]


def test_all_requests_are_there_in_an_order_that_the_seed_determines() -> None:
    first, second = shuffled(REQUESTS, 0), shuffled(REQUESTS, 1)
    assert sorted(first, key=lambda request: int(request.case_id)) == REQUESTS
    assert first == shuffled(REQUESTS, 0)
    assert len({tuple(request.case_id for request in order[:3]) for order in (REQUESTS, first, second)}) == 3


def test_the_order_does_not_depend_on_that_of_the_data_or_on_other_records() -> None:
    every = shuffled(REQUESTS, 5)
    assert shuffled(reversed(REQUESTS), 5) == every
    assert shuffled(REQUESTS[::2], 5) == [request for request in every if request in REQUESTS[::2]]


def test_numbers_and_texts_as_ids_have_places_of_their_own() -> None:
    as_text = [EditRequest(str(request.case_id), request.prompt, "t") for request in REQUESTS]
    assert [request.prompt for request in shuffled(as_text, 0)] != [request.prompt for request in shuffled(REQUESTS, 0)]


def test_the_sample_that_is_scored_is_drawn_from_the_whole_order() -> None:
    order = shuffled(REQUESTS, 0)
    places = sorted(order.index(request) for request in sample_of(order, 100, 0))
    assert 150 < sum(places) / len(places) < 250
