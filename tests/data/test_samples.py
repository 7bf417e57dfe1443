"""The sample data of the package are complete, distinct and do not disturb each other's scores."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from easyedit_lifelong.data.readers import read_counterfact, read_requests, read_zsre
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.samples import (
    COUNTERFACT,
    RETENTION,
    TEXT,
    ZSRE,
    capability_items,
    retention_probes,
)

CATEGORIES = {"people", "places", "works", "organisations", "science"}


@pytest.fixture
def requests(loader: str) -> list[EditRequest]:
    """Every sample edit."""
    return read_requests(COUNTERFACT, read_counterfact) + read_requests(ZSRE, read_zsre)


def _prompts(request: EditRequest) -> list[str]:
    probes = [probe.prompt for group in request.locality.values() for probe in group]
    probes += [probe.prompt for probe in request.relation_specificity]
    return [request.prompt, *request.rephrase_prompts, *probes]


def test_there_are_at_least_120_edits_and_30_held_out_facts(requests: list[EditRequest]) -> None:
    assert len(requests) >= 120
    assert len(retention_probes()) >= 30
    assert min(len(read_requests(COUNTERFACT, read_counterfact)), len(read_requests(ZSRE, read_zsre))) >= 50


def test_each_request_has_all_fields(requests: list[EditRequest]) -> None:
    for request in requests:
        assert request.subject, request.where
        assert request.ground_truth, request.where
        assert request.rephrase_prompts, request.where
        assert any(request.locality.values()), request.where


def test_the_target_differs_from_the_truth_and_is_not_in_the_prompt(requests: list[EditRequest]) -> None:
    for request in requests:
        assert request.ground_truth is not None
        assert request.target_new.lower() != request.ground_truth.lower(), request.where
        assert request.target_new.lower() not in request.prompt.lower(), request.where


def test_each_prompt_and_rephrasing_contains_the_subject(requests: list[EditRequest]) -> None:
    for request in requests:
        assert request.subject is not None
        for prompt in (request.prompt, *request.rephrase_prompts):
            assert request.subject in prompt, request.where


def test_every_prompt_occurs_once(requests: list[EditRequest]) -> None:
    counts = Counter(prompt for request in requests for prompt in _prompts(request))
    counts.update(probe.prompt for probe in retention_probes())
    assert [prompt for prompt, count in counts.items() if count > 1] == []


def test_every_subject_is_edited_once(requests: list[EditRequest]) -> None:
    counts = Counter(request.subject for request in requests)
    assert [subject for subject, count in counts.items() if count > 1] == []


def test_held_out_prompts_name_no_edited_subject(requests: list[EditRequest]) -> None:
    """Otherwise a successful edit could be counted as damage."""
    subjects = {request.subject for request in requests if request.subject}
    held_out = [probe.prompt for probe in retention_probes()]
    held_out += [probe.prompt for request in requests for group in request.locality.values() for probe in group]
    named = [(prompt, subject) for prompt in held_out for subject in subjects if f" {subject} " in f" {prompt} "]
    assert named == []


def test_each_request_asks_for_another_relation_of_its_subject(requests: list[EditRequest]) -> None:
    for request in requests:
        (probe,) = request.relation_specificity
        assert request.subject is not None and request.ground_truth is not None
        assert probe.prompt.count(request.subject) == 1, request.where
        assert probe.prompt not in (request.prompt, *request.rephrase_prompts), request.where
        for answer in (request.target_new, request.ground_truth):
            assert answer.lower() != probe.answer.lower(), request.where
        assert request.target_new.lower() not in probe.answer.lower(), request.where
        assert f" {probe.answer.lower()} " not in f" {probe.prompt.lower().rstrip('?')} ", request.where


def test_no_relation_specificity_prompt_names_another_edited_subject(requests: list[EditRequest]) -> None:
    subjects = {request.subject for request in requests if request.subject}
    named = [
        (probe.prompt, subject)
        for request in requests
        for probe in request.relation_specificity
        for subject in subjects - {request.subject}
        if f" {subject} " in f" {probe.prompt.rstrip('?')} "
    ]
    assert named == []


def test_relation_specificity_prompts_have_the_form_of_the_edit() -> None:
    """zsRE has questions, CounterFact has beginnings of statements."""
    for path, read, question in ((COUNTERFACT, read_counterfact, False), (ZSRE, read_zsre, True)):
        for request in read_requests(path, read):
            ends = {text.endswith("?") for text in (request.prompt, request.relation_specificity[0].prompt)}
            assert ends == {question}, request.where


@pytest.mark.parametrize("path", [COUNTERFACT, ZSRE])
def test_the_first_fifty_records_mix_all_categories(path: Path) -> None:
    """The demo edits the first fifty records."""
    categories = [record["category"] for record in json.loads(path.read_text(encoding="utf-8"))]
    assert set(categories) == set(categories[:10]) == CATEGORIES
    assert all(count >= 8 for count in Counter(categories[:50]).values())


@pytest.mark.parametrize("path", [COUNTERFACT, ZSRE, RETENTION])
def test_texts_have_no_surplus_spaces(path: Path) -> None:
    """A prompt that ends in a space is tokenised differently."""
    texts = [text for record in json.loads(path.read_text(encoding="utf-8")) for text in record.values()]
    assert [text for text in texts if isinstance(text, str) and (text != text.strip() or "  " in text)] == []


def test_the_multiple_choice_questions_alternate_between_eight_subjects() -> None:
    subjects = [item.subject for item in capability_items()]
    assert len(subjects) == 200
    assert len(set(subjects[:8])) == 8
    assert subjects == subjects[:8] * 25


def test_the_right_choice_is_at_each_position_equally_often() -> None:
    items = capability_items()
    assert Counter(item.answer for item in items) == dict.fromkeys(range(4), 50)
    by_subject = Counter((item.subject, item.answer) for item in items)
    assert set(by_subject.values()) == {6, 7}


def test_the_length_of_a_choice_does_not_tell_whether_it_is_right() -> None:
    """With four choices, the right one is the longest, or the shortest, in a quarter of the questions."""
    ranks = Counter(sorted(map(len, item.choices)).index(len(item.choices[item.answer])) for item in capability_items())
    assert max(ranks.values()) < 100
    longest = [len(item.choices[item.answer]) == max(map(len, item.choices)) for item in capability_items()]
    assert sum(longest) < 90


def test_multiple_choice_questions_are_distinct_and_have_four_choices_in_ascii() -> None:
    items = capability_items()
    assert len({" ".join(item.question.lower().split()) for item in items}) == len(items)
    for item in items:
        assert len(item.choices) == 4, item
        assert len({choice.lower() for choice in item.choices}) == 4, item
        assert item.question[-1] in "?." and item.question.isascii(), item
        assert all(choice == choice.strip() and choice.isascii() for choice in item.choices), item


def test_no_multiple_choice_question_is_about_an_edited_subject(requests: list[EditRequest]) -> None:
    for item, request in itertools.product(capability_items(), requests):
        assert request.subject is not None
        assert not re.search(rf"\b{re.escape(request.subject)}\b", item.question, re.IGNORECASE), item


def test_the_text_names_no_edited_subject_and_holds_no_prompt(requests: list[EditRequest]) -> None:
    text = TEXT.read_text(encoding="utf-8")
    for request in requests:
        assert request.subject is not None
        assert not re.search(rf"\b{re.escape(request.subject)}\b", text, re.IGNORECASE), request.subject
    for prompt in {prompt for request in requests for prompt in _prompts(request)}:
        assert prompt not in text
    paragraphs = text.splitlines()
    assert len(set(paragraphs)) == len(paragraphs) == 44
    assert all(paragraph == paragraph.strip() and paragraph.isascii() for paragraph in paragraphs)
