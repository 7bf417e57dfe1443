"""A fact encoded as token rows: its contexts, mentions and essence, their lookup tokens and weights."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.methods.locate_edit.check import check_requests
from easyedit_lifelong.methods.locate_edit.facts import encode_fact
from tests.support.byte_level import byte_level
from tests.support.coachhook_edits import PLAIN, hparams_for
from tests.support.tiny_models import build_model, build_tokenizer


def test_a_fact_at_the_last_token_needs_no_subject() -> None:
    request = EditRequest(7, "the capital of France is", "Rome")
    fact = encode_fact(build_tokenizer(), request, PLAIN, hparams_for("llama", fact_token="last"), None)
    assert fact.plain.lookup == 4
    assert fact.essence is None


@pytest.mark.parametrize("prompt", ["what is {} or {0} of France", "{} France", "France}", "{France is", "%s {France}"])
def test_braces_in_a_prompt_are_text(prompt: str) -> None:
    tokenizer = byte_level("F r", "Fr a")
    fact = encode_fact(
        tokenizer, EditRequest(1, prompt, "Rome", "France"), [["{}"], ["x. {}"]], hparams_for("llama"), None
    )
    assert [tokenizer.decode(row.prompt) for row in fact.contexts] == [prompt, "x. " + prompt]
    assert all(tokenizer.decode(row.prompt[: row.lookup + 1]).endswith("France") for row in fact.contexts)


@pytest.mark.parametrize(
    ("subject", "prompt"), [("{}", "what {} is"), ("a {b}", "say a {b} now"), (" France ", "of France is")]
)
def test_subjects_with_braces_or_outer_spaces_are_found_in_every_row(subject: str, prompt: str) -> None:
    tokenizer = byte_level()
    fact = encode_fact(
        tokenizer, EditRequest(1, prompt, "Rome", subject), [["{}"], ["x. {}"]], hparams_for("llama"), None
    )
    for row in (*fact.contexts, fact.essence):
        assert row is not None
        assert tokenizer.decode(row.prompt[: row.lookup + 1]).endswith(subject.strip())
    assert tokenizer.decode(fact.essence.prompt) == f"{subject.strip()} is a"


def test_spaces_around_a_prompt_are_kept_in_its_contexts() -> None:
    tokenizer = byte_level()
    fact = encode_fact(
        tokenizer, EditRequest(1, "  of France is ", "Rome", "France"), [["x. {}"]], hparams_for("llama"), None
    )
    (row,) = fact.contexts
    assert tokenizer.decode(row.prompt) == "x.   of France is "
    assert tokenizer.decode(row.target) == "Rome"
    assert tokenizer.decode(row.prompt[: row.lookup + 1]) == "x.   of France"


def test_the_lookup_token_of_a_mention_is_the_first_mention_of_the_subject() -> None:
    tokenizer = byte_level()
    hparams = hparams_for("llama", mention_templates=["I like {subject}, and {prompt}"])
    fact = encode_fact(tokenizer, EditRequest(1, "of {France} is", "Rome", "{France}"), PLAIN, hparams, None)
    (row,) = fact.mentions
    assert tokenizer.decode(row.prompt) == "I like {France}, and of {France} is"
    assert tokenizer.decode(row.prompt[: row.lookup + 1]) == "I like {France}"
    assert (tokenizer.decode(row.target), row.weight) == (" Rome", 0)


def test_a_prompt_longer_than_the_context_is_refused_with_its_record() -> None:
    request = EditRequest(7, "the capital of France is", "Rome Paris", "France", source="facts.json, record 3")
    encode_fact(build_tokenizer(), request, PLAIN, hparams_for("llama"), 7)
    with pytest.raises(DataError, match=r"facts.json, record 3 .*field 'prompt': .*has 7 tokens, .*context is 6"):
        encode_fact(build_tokenizer(), request, PLAIN, hparams_for("llama"), 6)


def test_an_early_check_counts_the_longest_context_and_names_the_models_context() -> None:
    hparams = hparams_for("llama", context_template_length_params=[[3, 1], [55, 2]])
    requests = [EditRequest(7, "the capital of France is", "Rome Paris", "France")]
    with pytest.raises(DataError, match=r"has 64 tokens, but the model's context is 63 "):
        check_requests(SimpleNamespace(config=SimpleNamespace(n_ctx=63)), build_tokenizer(), hparams, requests)
    check_requests(SimpleNamespace(config=SimpleNamespace(n_ctx=64)), build_tokenizer(), hparams, requests)


def test_each_group_of_contexts_has_the_same_weight_shared_by_its_rows() -> None:
    request = EditRequest(7, "the capital of France is", "Rome", "France")
    fact = encode_fact(build_tokenizer(), request, [["{}"], ["a . {}", "b . {}", "c . {}"]], hparams_for("llama"), None)
    assert [row.weight for row in fact.contexts] == [1 / 2, 1 / 6, 1 / 6, 1 / 6]
    assert fact.plain.weight == 0
    assert fact.essence is not None
    assert fact.essence.weight == 0


@pytest.mark.parametrize(("subject", "warned"), [("the", True), ("France", False)])
def test_a_function_word_as_a_subject_gets_a_warning(
    subject: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    request = EditRequest(7, "the capital of France is", "Rome", subject)
    check_requests(build_model("llama"), build_tokenizer(), hparams_for("llama"), [request])
    assert ("case 7, field 'subject': 'the' occurs in texts about anything" in caplog.text) is warned
