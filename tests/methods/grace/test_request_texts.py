"""The texts of a request: those its value is trained on, and those its key vectors are taken from."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from easyedit_lifelong.data.request import EditRequest, as_requests
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.subject.request_texts import (
    RequestTexts,
    encode_request_texts,
)
from easyedit_lifelong.methods.shared.subject_keys.key_texts import fill_template, key_texts
from easyedit_lifelong.models.encoding import EncodedPair
from tests.support.tiny_models import build_tokenizer


def hparams_for(**options: Any) -> GraceHyperParams:
    return GraceHyperParams(model_name="m", inner_params=["layer"], query_token="subject_last", **options)


def character_tokenizer(*, bos: bool = False) -> PreTrainedTokenizerFast:
    """Return a tokenizer of single characters; with ``bos``, it puts a token before every text."""
    letters = {chr(n): n for n in range(128)}
    tokenizer = Tokenizer(models.WordLevel({**letters, "<s>": 128}, unk_token="~"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="~", bos_token="<s>")
    if bos:
        fast.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 128)])
    return fast


def request_texts(tokenizer: Any, fact: dict[str, Any], **options: Any) -> RequestTexts:
    def encode(request: EditRequest, text: str) -> EncodedPair:
        return EncodedPair(list(tokenizer(text)["input_ids"]), list(tokenizer(request.target_new)["input_ids"]))

    (request,) = as_requests([fact])
    return encode_request_texts(tokenizer, request, hparams_for(**options), encode)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{prompt}", "who is Kim, and Kim Young?"),
        ("{subject} is a", "Kim is a"),
        ("So: {prompt} Well", "So: who is Kim, and Kim Young? Well"),
        ("Of {subject}", "Of Kim"),
    ],
)
def test_a_filled_template_has_the_span_of_the_subject(template: str, text: str) -> None:
    prompt = "who is Kim, and Kim Young?"
    filled, (begin, end) = fill_template(template, prompt, (16, 19))
    assert filled == text
    assert filled[begin:end] == "Kim"
    if "{prompt}" in template:
        assert filled[end:].startswith(" Young?"), "the span is that of another occurrence of the subject"


@pytest.mark.parametrize("bos", [False, True])
def test_key_texts_end_at_the_subjects_last_token(bos: bool) -> None:
    tokenizer = character_tokenizer(bos=bos)
    rows = key_texts(tokenizer, "Is Rome old?", (3, 7), ["Well, {prompt}", "{subject}", "a {subject} b"])
    assert [tokenizer.decode(row, skip_special_tokens=True) for row in rows] == [
        "Is Rome",
        "Well, Is Rome",
        "Rome",
        "a Rome",
    ]
    assert all((row[0] == 128) is bos for row in rows)


@pytest.mark.parametrize("bos", [False, True])
def test_training_texts_are_the_prompt_the_contexts_and_the_text_for_kl_factor(bos: bool) -> None:
    tokenizer = character_tokenizer(bos=bos)
    fact = {"prompt": "Is Rome old?", "subject": " Rome ", "target_new": "Yes"}
    contexts, keys = ["{subject} has", "Hm. {prompt}"], ["x {subject}"]
    encoded = request_texts(tokenizer, fact, context_templates=contexts, key_templates=keys, kl_factor=0.5)
    texts = [tokenizer.decode(text.pair.prompt, skip_special_tokens=True) for text in encoded.texts]
    assert texts == ["Is Rome old?", "Rome has", "Hm. Is Rome old?", "Rome is a"]
    assert [text.subject_end - bos for text in encoded.texts] == [6, 3, 10, 3]
    assert [bool(text.pair.target) for text in encoded.texts] == [True, True, True, False]
    assert len(encoded.key_rows) == hparams_for(key_templates=keys).vectors_per_key == 2
    assert len(request_texts(tokenizer, fact).texts) == 1, "there is a text for kl_factor 0"


def test_the_subjects_position_is_its_last_occurrence_as_a_full_word() -> None:
    fact = {"prompt": "Rome or Rome, not Romeo", "subject": "Rome", "target_new": "x"}
    assert request_texts(character_tokenizer(), fact).texts[0].subject_end == 11


@pytest.mark.parametrize(
    ("fact", "problem"),
    [
        ({"prompt": "Is it old?", "target_new": "x"}, r"request 0 .*field 'subject': is missing"),
        ({"prompt": "Is it old?", "subject": "  ", "target_new": "x"}, r"field 'subject'"),
        (
            {"prompt": "Is rome old?", "subject": "Rome", "target_new": "x"},
            r"request 0 .*'subject': 'Rome' isn't in",
        ),
    ],
)
def test_a_missing_subject_is_refused_with_its_field(fact: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        request_texts(character_tokenizer(), fact)


def test_a_subject_of_two_words_is_located_by_a_word_tokenizer() -> None:
    fact = {"prompt": "who plays piano when", "subject": "plays piano", "target_new": "king"}
    encoded = request_texts(build_tokenizer(), fact, key_templates=["sea {prompt}"])
    assert build_tokenizer().batch_decode(encoded.key_rows) == ["who plays piano", "sea who plays piano"]
    assert [text.subject_end for text in encoded.texts] == [2]
