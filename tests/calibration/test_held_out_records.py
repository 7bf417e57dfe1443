"""The records of a search: by default the last usable ones, which runs do not score by default."""

from __future__ import annotations

import pytest

from easyedit_lifelong.calibration.held_out_records import held_out_records
from easyedit_lifelong.errors import DataError
from tests.support.calibration_records import records


def test_the_last_records_are_taken_so_that_a_run_over_the_first_ones_scores_none_of_them() -> None:
    held_out = held_out_records(records(), 4, None, "facts.json")
    assert held_out.numbers == [6, 7, 8, 9]
    assert [request.case_id for request in held_out.requests] == [6, 7, 8, 9]
    scored_by_a_run = records()[:6]
    assert not {request.prompt for request in scored_by_a_run} & {request.prompt for request in held_out.requests}
    assert held_out.described == "records 6 to 9, counted from 0 (all)"


def test_with_an_offset_the_next_usable_records_are_taken() -> None:
    requests = records()
    requests[3] = requests[3].__class__(**{**vars(requests[3]), "rephrase_prompts": ()})
    held_out = held_out_records(requests, 3, 2, "facts.json")
    assert held_out.numbers == [2, 4, 5]
    assert held_out.described == "records 2 to 5, counted from 0 (3 usable ones)"


def test_too_few_usable_records_are_refused_with_what_they_lack() -> None:
    requests = records()
    for number in (0, 1):
        requests[number] = requests[number].__class__(**{**vars(requests[number]), "rephrase_prompts": ()})
    requests[2] = requests[2].__class__(**{**vars(requests[2]), "locality": {}})
    with pytest.raises(DataError, match=r"facts.json: 7 of 10 records can be used, but each trial edits 8") as caught:
        held_out_records(requests, 8, None, "facts.json")
    assert "(2 without rephrase_prompt; 1 without locality_prompt)" in str(caught.value)
    with pytest.raises(DataError, match=r"facts.json, from record 9 on: 1 of 1 record can be used"):
        held_out_records(records(), 2, 9, "facts.json")
