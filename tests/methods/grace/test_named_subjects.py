"""Subjects told apart by the words in front of a token (``named_eps``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import apply_grace_to_model, explain, load_edits, save_edits
from easyedit_lifelong.errors import EditError, HyperParameterError
from easyedit_lifelong.methods.grace.subject.named_subjects import Naming, naming, words_of
from tests.support.subjects import answer, edited, hparams_for, ids_of
from tests.support.tiny_models import build_model, build_tokenizer

FACT: list[dict[str, Any]] = [
    {"case_id": 0, "prompt": "old France moon made", "subject": "France moon", "target_new": "cheese"}
]
OTHER_NAME, SHORTER_NAME = "old Hamlet moon made", "the old moon made"
"""The key of the first block is that of the word "moon" alone, so the activations can't tell these from the fact."""


def layer_of(model: Any, prompt: str) -> Any:
    """Return what the edited layer did with a prompt."""
    (layer,) = explain(model, build_tokenizer(), prompt).grace
    return layer


@pytest.mark.parametrize(
    ("text", "subject", "expected"),
    [
        ("In which county is Crailing Parish Church", "Crailing Parish Church", Naming.SUBJECT),
        ("In which county is Carriden Parish Church", "Crailing Parish Church", Naming.OTHER),
        ("in which county is CRAILING parish-church", "Crailing Parish Church", Naming.SUBJECT),
        ("Who wrote O'Neill's", "O\N{RIGHT SINGLE QUOTATION MARK}Neill's", Naming.SUBJECT),
        ("What did Obama", "Barack Obama", Naming.UNDECIDED),  # "did" is no name
        ("Where was Michelle Obama", "Barack Obama", Naming.OTHER),
        ("Obama", "Barack Obama", Naming.UNDECIDED),  # nothing stands before it
        ("Former Obama", "Barack Obama", Naming.UNDECIDED),  # every first word begins with a capital
        ("the 1936 Winter Olympics", "1932 Winter Olympics", Naming.OTHER),
        ("the Ligue A 2009", "Serie A1 2008-2009", Naming.OTHER),
        ("the season of 2012", "the season of 2009", Naming.OTHER),
        ("the capital of the UK", "United Kingdom", Naming.OTHER),
        ("the Lisboan", "Lisboa", Naming.UNDECIDED),  # an inflected form
        ("日本の首都", "首都", Naming.SUBJECT),  # no spaces between words
        ("韩国的首都", "中国的首都", Naming.UNDECIDED),  # a script without case has no names to tell apart
        ("the name", "", Naming.SUBJECT),
        ("the capital of the US", "US", Naming.SUBJECT),
        ("it tells us", "US", Naming.UNDECIDED),  # a pronoun
        ("THE LORD OF THE RINGS", "Lord of the Rings", Naming.SUBJECT),
        ("THE CAPITAL OF FRANCE", "France", Naming.SUBJECT),
        ("\u0441\u0442\u043e\u043b\u0438\u0446\u0430 \u0421\u0428\u0410", "\u0421\u0428\u0410", Naming.SUBJECT),
        ("the capital of भारत", "भारत", Naming.SUBJECT),
        ("the capital of भारती", "भारत", Naming.UNDECIDED),  # a vowel sign is a part of its word
        ("the Cafe\u0301", "Caf\u00e9", Naming.SUBJECT),  # one letter, or a letter and an accent
    ],
)
def test_what_the_words_say(text: str, subject: str, expected: Naming) -> None:
    assert naming(words_of(text), words_of(subject)) is expected


def test_an_edit_answers_its_own_prompt_and_a_shorter_name_but_not_another_name() -> None:
    model, _, _ = edited("llama", "late", FACT, named_eps=0.4)
    unedited = build_model("llama")
    assert answer(model, FACT[0]["prompt"]) == "cheese"
    assert not torch.equal(model(**ids_of(SHORTER_NAME)).logits, unedited(**ids_of(SHORTER_NAME)).logits)
    assert torch.equal(model(**ids_of(OTHER_NAME)).logits, unedited(**ids_of(OTHER_NAME)).logits)
    without, _, _ = edited("llama", "late", FACT)
    assert not torch.equal(without(**ids_of(OTHER_NAME)).logits, unedited(**ids_of(OTHER_NAME)).logits)


def test_a_padded_batch_and_a_generation_in_chunks_decide_as_single_passes_do() -> None:
    model, _, _ = edited("llama", "late", FACT, named_eps=0.4)
    unedited, prompts = build_model("llama"), [FACT[0]["prompt"], "blue", OTHER_NAME]
    batch = ids_of(*prompts)
    for row, prompt in enumerate(prompts):
        single = model(**ids_of(prompt)).logits[0, -1]
        assert torch.allclose(model(**batch).logits[row, -1], single, atol=1e-5)
    for prompt in prompts:
        inputs = build_tokenizer()(prompt, return_tensors="pt")
        options = {"max_new_tokens": 3, "do_sample": False}
        whole = model.generate(**inputs, **options)
        assert torch.equal(model.generate(**inputs, **options, prefill_chunk_size=2), whole)
        assert torch.equal(unedited.generate(**inputs, **options), whole) == (prompt != FACT[0]["prompt"])


def test_embeddings_instead_of_tokens_are_compared_by_the_embedding_alone() -> None:
    model, _, _ = edited("llama", "late", FACT, named_eps=0.4)
    unedited, ids = build_model("llama"), ids_of(OTHER_NAME)["input_ids"]
    embedded = model.get_input_embeddings()(ids)
    assert not torch.equal(model(inputs_embeds=embedded).logits, unedited(inputs_embeds=embedded).logits)


def test_explain_says_that_the_words_differ() -> None:
    model, _, _ = edited("llama", "late", FACT, named_eps=0.4)
    found, other = (layer_of(model, prompt) for prompt in (FACT[0]["prompt"], OTHER_NAME))
    assert (found.answered_by, other.answered_by) == (0, None)
    assert "other words" in "".join(other.lines())
    assert "other words" not in "".join(found.lines())


def test_where_the_words_agree_the_radius_is_wider() -> None:
    subject_in_other_text = "who made the France moon"
    for named_eps, answers in ((None, False), (0.01, False), (1.9, True)):
        model, _, _ = edited("llama", "late", FACT, deep=True, eps=1e-4, named_eps=named_eps)
        changed = not torch.equal(
            model(**ids_of(subject_in_other_text)).logits, build_model("llama")(**ids_of(subject_in_other_text)).logits
        )
        assert changed == answers
        assert answer(model, FACT[0]["prompt"]) == "cheese"
        if answers:  # a name is found at its end only
            assert [token.token for token in layer_of(model, subject_in_other_text).tokens if token.fired] == ["moon"]


def test_rolled_back_and_new_edits_are_compared_with_their_own_subjects() -> None:
    model, _, editor = edited("llama", "late", FACT, named_eps=0.4)
    assert answer(model, FACT[0]["prompt"]) == "cheese"
    other = [{"case_id": 1, "prompt": OTHER_NAME, "subject": "Hamlet moon", "target_new": "Rome"}]
    apply_grace_to_model(model, build_tokenizer(), other, hparams_for("llama", "late", named_eps=0.4))
    editor.remove(0)
    unedited = build_model("llama")
    assert answer(model, OTHER_NAME) == "Rome"
    prompt = ids_of(FACT[0]["prompt"])
    assert torch.equal(model(**prompt).logits, unedited(**prompt).logits)


def test_edits_that_share_a_key_are_found_by_the_subjects_of_all() -> None:
    """Two subjects with one last word have one key at the first block, and one target: the second edit is covered."""
    other = {"case_id": 1, "prompt": OTHER_NAME, "subject": "Hamlet moon", "target_new": "cheese"}
    model, rollback, editor = edited("llama", "late", [*FACT, other], named_eps=0.4)
    assert rollback.results[1].detail["n_keys"] == 1
    assert [answer(model, prompt) for prompt in (FACT[0]["prompt"], OTHER_NAME)] == ["cheese"] * 2
    third = "old Peru moon made"
    assert torch.equal(model(**ids_of(third)).logits, build_model("llama")(**ids_of(third)).logits)
    editor.remove(0)
    assert editor.subjects_of_key(0) == ["Hamlet moon"]


def test_saved_edits_need_the_tokenizer_to_be_loaded(tmp_path: Path) -> None:
    model, _, _ = edited("llama", "late", FACT, named_eps=0.4)
    save_edits(model, tmp_path / "edits")
    with pytest.raises(EditError, match="load_edits\\(model, folder, tokenizer\\)"):
        load_edits(build_model("llama"), tmp_path / "edits")
    loaded = build_model("llama")
    load_edits(loaded, tmp_path / "edits", build_tokenizer())
    for prompt in (FACT[0]["prompt"], OTHER_NAME, SHORTER_NAME):
        assert torch.equal(loaded(**ids_of(prompt)).logits, model(**ids_of(prompt)).logits)


def test_without_an_answer_layer_words_cant_be_compared() -> None:
    with pytest.raises(HyperParameterError, match="named_eps: needs answer_layer"):
        hparams_for("llama", "simple", named_eps=0.4)


def test_a_function_word_is_no_subject_so_the_prompt_takes_its_place(caplog: pytest.LogCaptureFixture) -> None:
    fact = {"case_id": 0, "prompt": "the old moon made", "subject": "the", "target_new": "cheese"}
    model, _, _ = edited("llama", "late", [fact], named_eps=0.4)
    assert "(case 0), field 'subject': 'the' occurs in texts about anything" in caplog.text
    unedited, other = build_model("llama"), "the France moon made"
    assert answer(model, fact["prompt"]) == "cheese"
    assert torch.equal(model(**ids_of(other)).logits, unedited(**ids_of(other)).logits)
    assert layer_of(model, fact["prompt"]).answered_by == 0
