"""Requests in chat form: all their prompts, the subject, the joiner, earlier turns."""

from __future__ import annotations

import re
from typing import Any

import pytest

from easyedit_lifelong import NativeMemitHyperParams, in_chat_form
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError, HyperParameterError
from easyedit_lifelong.evaluation.chat_requests import chat_settings, check_no_turns
from easyedit_lifelong.methods.locate_edit.facts import encode_fact
from easyedit_lifelong.methods.retrieval.config import IKEHyperParams
from easyedit_lifelong.methods.retrieval.contexts import BEGINNING, FACT_TOKENS, encode_edit
from easyedit_lifelong.methods.shared.subject_positions import subject_span, token_of_span
from tests.support.chat_tokenizer import chat_tokenizer

RECORD: dict[str, Any] = {
    "prompt": "king born in France is",
    "target_new": "Rome",
    "subject": "born",  # the template has this word, too
    "rephrase_prompt": "old king",
    "locality": {"near": [{"prompt": "moon", "ground_truth": "cheese"}]},
    "portability_prompt": "piano",
    "portability_ground_truth": "violin",
    "relation_specificity_prompt": "river",
    "relation_specificity_ground_truth": "city",
}
TURNS = [{"role": "user", "content": "snow"}, {"role": "assistant", "content": "blue"}]


def request(**fields: Any) -> EditRequest:
    return EditRequest.from_dict({**RECORD, **fields}, "facts.json, record 0", 0)


def chat_request(**fields: Any) -> EditRequest:
    (converted,) = in_chat_form([request(**fields)], chat_tokenizer())
    return converted


def test_all_prompts_of_a_request_are_asked_in_the_template() -> None:
    converted = chat_request()
    texts = [
        *(converted.prompt, *converted.rephrase_prompts),
        *(converted.locality["near"][0].prompt, converted.portability["one_hop"][0].prompt),
        converted.relation_specificity[0].prompt,
    ]
    questions = ["king born in France is", "old king", "moon", "piano", "river"]
    assert texts == [f"<s> where {question} sea born " for question in questions]
    assert (converted.target_new, converted.subject, converted.joiner) == ("Rome", "born", "")
    assert converted.question == RECORD["prompt"]
    assert converted.frame == ("<s> where ", " sea born ")


def test_a_request_in_chat_form_and_a_joiner_of_a_request_stay_as_they_are() -> None:
    converted = chat_request(joiner=" not ")
    assert converted.joiner == " not "
    assert in_chat_form([converted], chat_tokenizer()) == [converted]


def test_the_subject_is_found_in_the_users_words() -> None:
    tokenizer, converted = chat_tokenizer(), chat_request()
    begin, end = subject_span(converted)
    assert converted.prompt[:begin] == "<s> where king "
    assert token_of_span(tokenizer, converted.prompt, (begin, end), "subject_last") == 3
    with pytest.raises(DataError, match="'sea' isn't in the prompt 'king born in France is'"):
        subject_span(chat_request(subject="sea"))


def test_contexts_of_a_fact_are_a_part_of_the_users_words() -> None:
    hparams = NativeMemitHyperParams(
        model_name="tiny",
        layers=[0],
        rewrite_module_tmp="h.{}",
        layer_module_tmp="b.{}",
        mention_templates=["{subject} . {prompt}"],
    )
    tokenizer = chat_tokenizer()
    fact = encode_fact(tokenizer, chat_request(), [["{}"], ["snow . {}"]], hparams, None)
    rows = [*fact.contexts, *fact.mentions]
    assert [tokenizer.decode(row.prompt) for row in rows] == [
        "<s> where king born in France is sea born",
        "<s> where snow <unk> king born in France is sea born",
        "<s> where born <unk> king born in France is sea born",
    ]
    assert [tokenizer.decode(row.prompt[row.lookup]) for row in rows] == ["born"] * 3
    assert [row.lookup for row in rows] == [3, 5, 2]


def test_the_fact_of_a_retrieval_method_is_the_users_words_and_the_target() -> None:
    tokenizer = chat_tokenizer()
    edit = encode_edit(tokenizer, chat_request(), IKEHyperParams(model_name="tiny", fact_template="but {fact}"), [])
    assert tokenizer.decode(edit[FACT_TOKENS]) == "but king born in France is Rome"
    assert edit[BEGINNING] == [tokenizer.bos_token_id]


def test_earlier_turns_come_before_the_prompts() -> None:
    assert (
        chat_request(context_turns=TURNS).prompt
        == "<s> where snow sea born blue sea where king born in France is sea born "
    )


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("hello", "field 'context_turns': must be a list of turns, not text"),
        ([{"role": "user"}], "field 'context_turns[0]': must be an object with 'role' and 'content'"),
        (
            [TURNS[0], {"role": "assistant", "content": 1}],
            "field 'context_turns[1].content': must be text, not a number",
        ),
    ],
)
def test_turns_of_another_form_are_refused(value: Any, problem: str) -> None:
    with pytest.raises(DataError, match=re.escape(f"facts.json, record 0, {problem}")):
        request(context_turns=value)


def test_turns_that_the_template_refuses_are_an_error_of_their_record() -> None:
    tokenizer = chat_tokenizer(
        "{% if messages[0].content == 'snow' %}{{ raise_exception('no snow') }}{% endif %}"
        "{% for message in messages %}{{ message.content }} {% endfor %}"
    )
    message = r"record 0.*field 'context_turns': .* refuses a chat of the roles user, assistant, user: no snow"
    with pytest.raises(DataError, match=message):
        in_chat_form([request(context_turns=TURNS)], tokenizer)


def test_turns_without_the_chat_form_and_a_system_message_without_it_are_refused() -> None:
    with pytest.raises(DataError, match=r"record 0.*field 'context_turns': .* Give --chat"):
        check_no_turns([request(context_turns=TURNS)])
    with pytest.raises(HyperParameterError, match="also give --chat"):
        chat_settings(False, "Be brief.")
