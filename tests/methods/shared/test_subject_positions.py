"""The token at which a fact is edited, for tokenizers that split subjects in many ways."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.subjects import find_subject
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.methods.locate_edit.check import check_requests
from easyedit_lifelong.methods.shared.subject_positions import subject_position, subject_span
from tests.support.byte_level import ALPHABET, byte_level
from tests.support.coachhook_edits import hparams_for
from tests.support.subject_tokenizers import SlowTokenizer, llama_like
from tests.support.tiny_models import build_model, build_tokenizer


def read_up_to(tokenizer: Any, text: str, position: int) -> str:
    """Return the text of the tokens up to a position, inclusive."""
    return tokenizer.decode(tokenizer(text)["input_ids"][: position + 1], skip_special_tokens=True)


def assert_position_completes_subject(tokenizer: Any, text: str, subject: str) -> None:
    """Check that the tokens up to the position hold the whole subject, and those before it do not.

    The bytes of a character may be spread over several tokens.
    """
    position = subject_position(tokenizer, text, subject)
    up_to_subject = text[: text.rindex(subject) + len(subject)]
    assert up_to_subject in read_up_to(tokenizer, text, position), "the subject is not complete at its position"
    assert position == 0 or up_to_subject not in read_up_to(tokenizer, text, position - 1), (
        "the subject is complete before its position"
    )


@pytest.mark.parametrize(
    ("text", "subject", "span"),
    [
        ("the capital of France is", "France", (15, 21)),
        ("France is France", "France", (10, 16)),  # the last occurrence
        ("France", "France", (0, 6)),
        ("Ann likes Annabel", "Ann", (0, 3)),  # a whole word is preferred to a part of a word
        ("Annabel and Annika", "Ann", (12, 15)),
        ("the C++ of C++", "C++", (11, 14)),  # not a regular expression
        ("what (a.b)* is", "(a.b)*", (5, 11)),
        ("a {} b", "{}", (2, 4)),
        ("Zoë, Zoëlle", "Zoë", (0, 3)),
        ("nothing here", "France", None),
        ("france", "France", None),
    ],
)
def test_find_subject_gives_the_last_occurrence_as_a_whole_word(
    text: str, subject: str, span: tuple[int, int] | None
) -> None:
    assert find_subject(text, subject) == span


@pytest.mark.parametrize(
    ("text", "subject", "expected"),
    [
        ("the capital of France is", "France", 3),
        ("France is France", "France", 2),
        ("Hamlet wrote", "Hamlet", 0),
        ("old king Hamlet", "old king", 1),
        ("  the  capital   of France  ", "France", 3),
    ],
)
def test_the_position_of_a_subject_of_whole_words_is_its_last_token(text: str, subject: str, expected: int) -> None:
    assert subject_position(build_tokenizer(), text, subject) == expected


@pytest.mark.parametrize(
    ("fact_token", "expected"),
    [
        ("subject_last", 3),
        ("subject_first", 2),
        ("subject_first_after_last", 4),
        ("last", 5),
    ],
)
def test_each_fact_token_has_its_position(fact_token: str, expected: int) -> None:
    assert subject_position(build_tokenizer(), "where was old king born when", "old king", fact_token) == expected


def test_the_token_after_a_subject_at_the_end_is_its_last_token() -> None:
    tokenizer = build_tokenizer()
    assert subject_position(tokenizer, "who is old king", "old king", "subject_first_after_last") == 3
    assert subject_position(tokenizer, "who is old king  ", "old king", "subject_first_after_last") == 3


MERGES = ["F r", "a n", "c e", "an ce", "Fr ance", "ance Ġ", "ce '", "Ġ i", "e Ġ", "ance '", "t h", "th e"]


@pytest.mark.parametrize("trim", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "France",
        "France is",
        "of France's moon",
        "of France, or",
        "France's France'",
        "the France  is",
        "Ann's France\n",
    ],
)
def test_a_token_that_spans_the_end_of_the_subject_is_its_last_token(text: str, trim: bool) -> None:
    # MEMIT counts the tokens of the text up to the subject's end, which gives another token.
    tokenizer = byte_level(*MERGES, trim=trim)
    assert_position_completes_subject(tokenizer, text, "France")


@pytest.mark.parametrize("trim", [False, True])
@pytest.mark.parametrize(
    "merges",
    [
        [],
        ["æ Ŀ", "± ä", "º ¬", "ð Ł", "Ġ ð", "à ¤", "Ł ĺ"],  # "± ä" and "º ¬" run from one character into the next
        ["æ Ŀ", "æĿ ±", "ä º", "äº ¬", "Ġ æĿ±"],
        ["Ġ æ", "¬ Ġ", "Ģ Ġ", "Ġ ð", "© Ġ"],
    ],
)
@pytest.mark.parametrize(
    ("text", "subject"),
    [
        ("the 東京 is", "東京"),
        ("東京", "東京"),
        ("東京と東", "東"),
        ("a 😀 b", "😀"),
        ("😀", "😀"),
        ("Beyoncé is", "Beyoncé"),
        ("das Café ist", "Café"),
    ],
)
def test_the_last_token_of_a_subject_completes_its_last_character(
    text: str, subject: str, merges: list[str], trim: bool
) -> None:
    tokenizer = byte_level(*merges, trim=trim)
    assert_position_completes_subject(tokenizer, text, subject)


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        ("the 東京 is", "東京"),
        ("Fran is", "Fran"),
        ("is Fran", "Fran"),
        ("é", "é"),
        ("an é is", "é"),
        ("é is", "é"),
    ],
)
def test_a_begin_token_shifts_the_position(text: str, subject: str) -> None:
    tokenizer = llama_like()
    assert_position_completes_subject(tokenizer, text, subject)
    assert subject_position(tokenizer, text, subject, "last") == len(tokenizer(text)["input_ids"]) - 1


@pytest.mark.parametrize("text", ["of France", "é of 東京"])
def test_an_end_token_is_not_the_subjects_last_token(text: str) -> None:
    tokenizer = byte_level(end=True)
    subject = text.split()[-1]
    assert subject_position(tokenizer, text, subject) == len(tokenizer(text)["input_ids"]) - 2


@pytest.mark.parametrize("begin", [True, False])
@pytest.mark.parametrize(
    ("text", "subject"),
    [
        ("the capital of France is", "France"),
        ("France", "France"),
        ("a France b France", "France"),
        ("of 東京 is", "東京"),
        ("東京", "東京"),
        (" France is", "France"),
        ("France 's", "France"),
        ("France , or", "France"),
        ("is 東 ?", "東"),
    ],
)
def test_slow_tokenizers_give_the_subjects_last_token(text: str, subject: str, begin: bool) -> None:
    tokenizer = SlowTokenizer(begin=begin)
    assert not tokenizer.is_fast
    assert_position_completes_subject(tokenizer, text, subject)


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        (None, "field 'subject': is missing"),
        ("  ", "field 'subject': is missing"),
        ("Peru", "field 'subject': 'Peru'"),
    ],
)
def test_a_missing_or_absent_subject_is_refused_with_its_record(subject: str | None, message: str) -> None:
    request = EditRequest(7, "the capital of France is", "Rome", subject, source="facts.json, record 3")
    with pytest.raises(DataError, match=rf"facts.json, record 3 .*{message}"):
        subject_span(request)
    model, tokenizer = build_model("llama"), build_tokenizer()
    with pytest.raises(DataError, match=rf"facts.json, record 3 .*{message}"):
        check_requests(model, tokenizer, hparams_for("llama"), [request])


def test_a_trained_byte_level_tokenizer_gives_the_subjects_last_token() -> None:
    texts = ["the capital of France's Paris, say Beyoncé", "naïve café in 東京都 😀 or São Paulo."]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=290, initial_alphabet=ALPHABET))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    for text in texts:
        for subject in ("France", "Beyoncé", "café", "東京", "😀", "São Paulo"):
            if subject in text:
                assert_position_completes_subject(fast, text, subject)
