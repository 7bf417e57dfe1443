"""Requests become training examples: one tokenisation of prompt and target, an end-of-text token, no replaced edits."""

from __future__ import annotations

from typing import Any

import pytest

from easyedit_lifelong import DataError, EditRequest
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.methods.training.examples import (
    Example,
    encode_record,
    encode_request,
    latest_examples,
)
from tests.support.tiny_models import build_tokenizer
from tests.support.toy_method import make_pair

REQUEST = EditRequest("moon", "green cheese from the moon", "old violin")


def test_a_target_ends_with_the_end_of_text_token_if_asked_to() -> None:
    tokenizer = build_tokenizer()
    plain = encode_request(tokenizer, REQUEST, False, None).example
    ended = encode_request(tokenizer, REQUEST, True, None).example
    assert tokenizer.convert_ids_to_tokens(plain.target) == ["old", "violin"]
    assert ended.target == (*plain.target, tokenizer.eos_token_id)
    assert ended.tokens == (*plain.prompt, *ended.target)


def test_the_target_starts_where_the_prompt_ends_when_the_tokenizer_merges_across_the_border() -> None:
    # LocFT counts the tokens of the prompt alone, and takes the rest of the joint text as the target.
    _, tokenizer = make_pair("gpt2")
    prompt, target = "Where was Alan Turing born in L", "ondon"
    alone, joint = tokenizer(prompt + " ")["input_ids"], tokenizer(f"{prompt} {target}")["input_ids"]
    assert joint[: len(alone)] != alone, "nothing is merged here"
    example = encode_request(tokenizer, EditRequest("turing", prompt + " ", target), False, None).example
    assert list(example.prompt) == alone
    assert tokenizer.decode(example.target) == target
    assert tokenizer.decode(joint[len(alone) :]) != target


def test_the_record_of_an_edit_gives_the_example_of_its_request() -> None:
    tokenizer = build_tokenizer()
    example = encode_request(tokenizer, REQUEST, True, None).example
    again = encode_record(tokenizer, EditRecord.of(REQUEST), True)
    assert (again.prompt, again.target) == (example.prompt, example.target)


def test_an_example_longer_than_the_context_is_refused() -> None:
    with pytest.raises(DataError, match=r"case moon, field 'prompt': prompt and target have 8 tokens.*context is 7"):
        encode_request(build_tokenizer(), REQUEST, True, 7)
    encode_request(build_tokenizer(), REQUEST, True, 8)


def test_a_tokenizer_without_an_end_of_text_token_is_refused_only_if_it_is_needed() -> None:
    tokenizer: Any = build_tokenizer()
    tokenizer.eos_token = None
    encode_request(tokenizer, REQUEST, False, None)
    with pytest.raises(DataError, match="case moon, field 'target_new': eos: the tokenizer has no end-of-text token"):
        encode_request(tokenizer, REQUEST, True, None)


def test_a_later_edit_of_the_same_prompt_replaces_the_earlier_one() -> None:
    old, other, new = Example("old", (1, 2), (3,)), Example("other", (1,), (2, 3)), Example("new", (1, 2), (4,))
    assert latest_examples([old, other, new]) == [other, new]
