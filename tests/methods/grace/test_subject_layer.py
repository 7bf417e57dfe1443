"""Edits found by their subjects: what the edited model says is what the model says with the value put in by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from easyedit_lifelong.evaluation.scorer import Scorer
from tests.support.subjects import (
    ABOUT,
    ENDS,
    FACTS,
    MODES,
    OTHERS,
    PROMPTS,
    book_of,
    edited,
    hparams_for,
    ids_of,
    putting,
)
from tests.support.tiny_models import build_model, build_tokenizer, state_of


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def by_hand(family: str, mode: str, text: str, values: Tensor) -> Tensor:
    """Return an unedited model's logits with the facts' values where they belong."""
    model, hparams = build_model(family), hparams_for(family, mode)
    words = text.split()
    if mode == "simple":
        put = {at: values[ENDS.index(word)] for at, word in enumerate(words) if word in ENDS}
    else:
        put = {len(words) - 1: values[ENDS.index(word)] for word in words if word in ENDS}
    path = hparams.answer_layer or hparams.inner_params[0]
    with putting(model.get_submodule(path.replace("[", ".").replace("]", "")), put):
        return model(**ids_of(text)).logits


def test_a_subject_is_found_wherever_it_stands(family: str, mode: str) -> None:
    model, _, editor = edited(family, mode)
    book = book_of(editor)
    for text in [*PROMPTS, *ABOUT]:
        logits = model(**ids_of(text)).logits
        torch.testing.assert_close(logits, by_hand(family, mode, text, book.values), rtol=1e-5, atol=1e-5)
        assert not torch.equal(logits, build_model(family)(**ids_of(text)).logits)
    assert book.hits == {n: 2 for n in range(4)}


def test_other_prompts_keep_their_logits_bitwise(family: str, mode: str) -> None:
    model, _, _ = edited(family, mode)
    for text in OTHERS:
        assert torch.equal(model(**ids_of(text)).logits, build_model(family)(**ids_of(text)).logits)


def test_edits_are_learned_and_told_of(family: str, mode: str) -> None:
    model, rollback, _ = edited(family, mode, n_iter=100)
    learned = [result.learned for result in rollback.results]
    if mode == "late" or family in ("llama", "mistral", "gpt2", "gptj"):
        assert learned == [True] * 4
    said = Scorer(build_tokenizer()).generate(model, PROMPTS, 1)
    assert [s == f["target_new"] for s, f in zip(said, FACTS, strict=True)] == learned


@pytest.mark.parametrize("side", ["left", "right"])
def test_batch_and_padding_change_nothing(family: str, mode: str, side: str) -> None:
    model, _, _ = edited(family, mode, deep=True, eps=0.5, key_templates=["blue sea {subject}"], n_iter=5)
    texts = [*PROMPTS, *ABOUT, *OTHERS]
    batch = ids_of(*texts, "blue " * 20, side=side)
    together = model(**batch).logits
    for row, text in enumerate(texts):
        alone = model(**ids_of(text)).logits[0]
        torch.testing.assert_close(together[row][batch["attention_mask"][row].bool()], alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_cache": False},
        {"prefill_chunk_size": 2},
        {"num_beams": 3},
        {"num_beams": 2, "num_return_sequences": 2},
    ],
    ids=["cache", "no-cache", "chunks", "beams", "sequences"],
)
def test_generation_says_to_a_batch_what_it_says_to_one(family: str, mode: str, options: dict[str, Any]) -> None:
    model, _, _ = edited(family, mode, n_iter=5)
    texts, many = [*PROMPTS, *ABOUT, *OTHERS[:2]], options.get("num_return_sequences", 1)

    def said(rows: list[str], **settings: Any) -> list[list[int]]:
        batch = build_tokenizer()(rows, return_tensors="pt", padding=True)
        out = model.generate(**batch, max_new_tokens=5, min_new_tokens=5, do_sample=False, **settings)
        return [part.tolist() for part in out[:, -5:].view(len(rows), many, 5)]

    together = said(texts, **options)
    plain = {name: value for name, value in options.items() if name not in ("use_cache", "prefill_chunk_size")}
    assert together == [said([text], **plain)[0] for text in texts]


def test_a_prompt_in_chunks_is_the_prompt(family: str, mode: str) -> None:
    model, _, _ = edited(family, mode, n_iter=5)
    (ids,) = build_tokenizer()([ABOUT[0]], return_tensors="pt")["input_ids"].unsqueeze(0)
    whole = model.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    for size in (1, 2, 3, 7, 20):
        chunked = model.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False, prefill_chunk_size=size)
        assert torch.equal(chunked, whole)


def test_a_subject_that_the_model_says_is_found_in_simple_mode_alone(family: str, mode: str) -> None:
    """The tokens of a decode step, fed one by one."""
    model, _, editor = edited(family, mode, n_iter=5)
    prompt, said = "snow and mountain", "moon is the Hamlet song"
    before = model(**build_tokenizer()(prompt, return_tensors="pt"), use_cache=True)
    cache, steps = before.past_key_values, []
    for word in said.split():
        ids = build_tokenizer()(word, return_tensors="pt")["input_ids"]
        steps.append(model(input_ids=ids, past_key_values=cache, use_cache=True).logits[0, -1])
    values = book_of(editor).values
    text = f"{prompt} {said}"
    whole = by_hand(family, mode, text, values) if mode == "simple" else build_model(family)(**ids_of(text)).logits
    torch.testing.assert_close(torch.stack(steps), whole[0, 3:], rtol=1e-3, atol=1e-3)
    assert book_of(editor).hits == ({3: 1, 1: 1} if mode == "simple" else {})


def test_what_generation_says_itself_is_found_in_simple_mode_alone(mode: str) -> None:
    """One edit makes the model say another's subject."""
    facts = [{**FACTS[0], "target_new": "Hamlet"}, FACTS[1]]
    model, rollback, editor = edited("llama", mode, facts, n_iter=100)
    assert rollback.results[0].learned
    ids = build_tokenizer()(PROMPTS[0], return_tensors="pt")
    texts = [
        model.generate(**ids, max_new_tokens=4, min_new_tokens=4, do_sample=False, use_cache=cache)[0]
        for cache in (True, False)
    ]
    assert torch.equal(*texts)
    assert book_of(editor).hits == ({0: 2, 1: 2} if mode == "simple" else {0: 2})
    text = build_tokenizer().decode(texts[0][: len(PROMPTS[0].split()) + 1])
    assert text == f"{PROMPTS[0]} Hamlet"


@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"num_beams": 2}, {"prefill_chunk_size": 2}])
def test_a_generation_counts_once(mode: str, options: dict[str, Any]) -> None:
    model, _, editor = edited("llama", mode, n_iter=5)
    batch = build_tokenizer()([PROMPTS[0], "France and France is", OTHERS[0]], return_tensors="pt", padding=True)
    model.generate(**batch, max_new_tokens=4, min_new_tokens=4, do_sample=False, **options)
    assert book_of(editor).hits[0] == 2
    model(**ids_of("moon and moon is"))
    assert book_of(editor).hits[3] == 1, "once for the prompt"


def test_labels_mark_the_prompts_end(mode: str) -> None:
    model, _, editor = edited("llama", mode, n_iter=5)
    batch = ids_of("snow and mountain moon")
    labels = batch["input_ids"].clone()
    labels[:, :3] = -100
    model(**batch, labels=labels)
    assert book_of(editor).hits == ({3: 1} if mode == "simple" else {})


def test_a_copy_answers_for_itself(mode: str) -> None:
    model, rollback, _ = edited("llama", mode, n_iter=5)
    logits = model(**ids_of(*PROMPTS)).logits
    twin = copy.deepcopy(model)
    rollback()
    assert torch.equal(twin(**ids_of(*PROMPTS)).logits, logits)
    assert torch.equal(model(**ids_of(*PROMPTS)).logits, build_model("llama")(**ids_of(*PROMPTS)).logits)


def test_gradients_and_checkpointing_meet_the_same_edits(mode: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model, _, _ = edited("llama", mode, n_iter=5)
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        # Another pass comes between a pass and its gradients.
        first, second = (model(**ids_of(text), use_cache=False).logits.sum() for text in (PROMPTS[0], OTHERS[0]))
        (first + second).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_rollback_leaves_nothing(family: str, mode: str) -> None:
    fresh = build_model(family)
    model, rollback, _ = edited(family, mode, n_iter=5)
    assert set(model.state_dict()) - set(state_of(fresh))
    rollback()
    rollback()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in state_of(fresh).items())
    assert set(model.state_dict()) == set(fresh.state_dict())
    assert set(model.__dict__) == set(fresh.__dict__)
    for one, other in zip(model.modules(), fresh.modules(), strict=True):
        assert set(one.__dict__) == set(other.__dict__)
        assert list(one._modules) == list(other._modules)
        assert len(one._forward_hooks) + len(one._forward_pre_hooks) == 0
    assert torch.equal(model(**ids_of(*PROMPTS)).logits, fresh(**ids_of(*PROMPTS)).logits)
