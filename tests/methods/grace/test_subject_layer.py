"""Edits found by subject: the edited model gives the logits of the unedited model with values inserted by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from easyedit_lifelong.evaluation.scorer import Scorer
from tests.support.subjects import (
    FACTS,
    OTHERS,
    PROMPTS,
    SUBJECT_LAST_WORDS,
    SUBJECT_PROMPTS,
    codebook_of,
    edited,
    hparams_for,
    ids_of,
    replacing_outputs,
)
from tests.support.tiny_models import build_model, build_tokenizer, state_of


def logits_by_hand(family: str, mode: str, text: str, values: Tensor) -> Tensor:
    """Return an unedited model's logits with the facts' values inserted by plain hooks."""
    model, hparams = build_model(family), hparams_for(family, mode)
    words = text.split()
    if mode == "simple":
        values_at = {
            position: values[SUBJECT_LAST_WORDS.index(word)]
            for position, word in enumerate(words)
            if word in SUBJECT_LAST_WORDS
        }
    else:
        values_at = {
            len(words) - 1: values[SUBJECT_LAST_WORDS.index(word)] for word in words if word in SUBJECT_LAST_WORDS
        }
    path = hparams.answer_layer or hparams.inner_params[0]
    with replacing_outputs(model.get_submodule(path.replace("[", ".").replace("]", "")), values_at):
        return model(**ids_of(text)).logits


def test_a_subject_is_found_at_any_position_of_a_prompt(family: str, mode: str) -> None:
    model, _, editor = edited(family, mode)
    codebook = codebook_of(editor)
    for text in [*PROMPTS, *SUBJECT_PROMPTS]:
        logits = model(**ids_of(text)).logits
        torch.testing.assert_close(logits, logits_by_hand(family, mode, text, codebook.values), rtol=1e-5, atol=1e-5)
        assert not torch.equal(logits, build_model(family)(**ids_of(text)).logits)
    assert codebook.hits == {n: 2 for n in range(4)}


def test_prompts_without_a_subject_keep_their_logits_bitwise(family: str, mode: str) -> None:
    model, _, _ = edited(family, mode)
    for text in OTHERS:
        assert torch.equal(model(**ids_of(text)).logits, build_model(family)(**ids_of(text)).logits)


def test_edits_are_learned_and_the_results_report_it(family: str, mode: str) -> None:
    model, rollback, _ = edited(family, mode, n_iter=100)
    learned = [result.learned for result in rollback.results]
    if mode == "late" or family in ("llama", "mistral", "gpt2", "gptj"):
        assert learned == [True] * 4
    outputs = Scorer(build_tokenizer()).generate(model, PROMPTS, 1)
    assert [output == fact["target_new"] for output, fact in zip(outputs, FACTS, strict=True)] == learned


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_do_not_depend_on_batch_and_padding(family: str, mode: str, side: str) -> None:
    model, _, _ = edited(family, mode, deep=True, eps=0.5, key_templates=["blue sea {subject}"], n_iter=5)
    texts = [*PROMPTS, *SUBJECT_PROMPTS, *OTHERS]
    batch = ids_of(*texts, "blue " * 20, side=side)
    batched = model(**batch).logits
    for row, text in enumerate(texts):
        single = model(**ids_of(text)).logits[0]
        torch.testing.assert_close(batched[row][batch["attention_mask"][row].bool()], single, rtol=1e-3, atol=1e-3)


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
def test_generation_for_a_batch_equals_generation_for_each_prompt(
    family: str, mode: str, options: dict[str, Any]
) -> None:
    model, _, _ = edited(family, mode, n_iter=5)
    texts, n_sequences = [*PROMPTS, *SUBJECT_PROMPTS, *OTHERS[:2]], options.get("num_return_sequences", 1)

    def generate(rows: list[str], **settings: Any) -> list[list[int]]:
        batch = build_tokenizer()(rows, return_tensors="pt", padding=True)
        output = model.generate(**batch, max_new_tokens=5, min_new_tokens=5, do_sample=False, **settings)
        return [sequences.tolist() for sequences in output[:, -5:].view(len(rows), n_sequences, 5)]

    batched = generate(texts, **options)
    single_options = {name: value for name, value in options.items() if name not in ("use_cache", "prefill_chunk_size")}
    assert batched == [generate([text], **single_options)[0] for text in texts]


def test_generation_does_not_depend_on_prefill_chunks(family: str, mode: str) -> None:
    model, _, _ = edited(family, mode, n_iter=5)
    (ids,) = build_tokenizer()([SUBJECT_PROMPTS[0]], return_tensors="pt")["input_ids"].unsqueeze(0)
    unchunked = model.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    for size in (1, 2, 3, 7, 20):
        chunked = model.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False, prefill_chunk_size=size)
        assert torch.equal(chunked, unchunked)


def test_a_subject_in_decoded_tokens_is_found_in_simple_mode_only(family: str, mode: str) -> None:
    """The answer's tokens are passed to the model one by one, with its cache."""
    model, _, editor = edited(family, mode, n_iter=5)
    prompt, answer = "snow and mountain", "moon is the Hamlet song"
    prompt_output = model(**build_tokenizer()(prompt, return_tensors="pt"), use_cache=True)
    cache, steps = prompt_output.past_key_values, []
    for word in answer.split():
        ids = build_tokenizer()(word, return_tensors="pt")["input_ids"]
        steps.append(model(input_ids=ids, past_key_values=cache, use_cache=True).logits[0, -1])
    values = codebook_of(editor).values
    text = f"{prompt} {answer}"
    expected = (
        logits_by_hand(family, mode, text, values) if mode == "simple" else build_model(family)(**ids_of(text)).logits
    )
    torch.testing.assert_close(torch.stack(steps), expected[0, 3:], rtol=1e-3, atol=1e-3)
    assert codebook_of(editor).hits == ({3: 1, 1: 1} if mode == "simple" else {})


def test_a_generated_subject_is_found_in_simple_mode_only(mode: str) -> None:
    """The target of one edit is the subject of another."""
    facts = [{**FACTS[0], "target_new": "Hamlet"}, FACTS[1]]
    model, rollback, editor = edited("llama", mode, facts, n_iter=100)
    assert rollback.results[0].learned
    ids = build_tokenizer()(PROMPTS[0], return_tensors="pt")
    texts = [
        model.generate(**ids, max_new_tokens=4, min_new_tokens=4, do_sample=False, use_cache=cache)[0]
        for cache in (True, False)
    ]
    assert torch.equal(*texts)
    assert codebook_of(editor).hits == ({0: 2, 1: 2} if mode == "simple" else {0: 2})
    text = build_tokenizer().decode(texts[0][: len(PROMPTS[0].split()) + 1])
    assert text == f"{PROMPTS[0]} Hamlet"


@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"num_beams": 2}, {"prefill_chunk_size": 2}])
def test_a_generation_counts_one_hit_for_each_prompt(mode: str, options: dict[str, Any]) -> None:
    model, _, editor = edited("llama", mode, n_iter=5)
    batch = build_tokenizer()([PROMPTS[0], "France and France is", OTHERS[0]], return_tensors="pt", padding=True)
    model.generate(**batch, max_new_tokens=4, min_new_tokens=4, do_sample=False, **options)
    assert codebook_of(editor).hits[0] == 2
    model(**ids_of("moon and moon is"))
    assert codebook_of(editor).hits[3] == 1, "a subject that a prompt names twice counted twice"


def test_labels_tell_where_the_prompt_ends(mode: str) -> None:
    model, _, editor = edited("llama", mode, n_iter=5)
    batch = ids_of("snow and mountain moon")
    labels = batch["input_ids"].clone()
    labels[:, :3] = -100
    model(**batch, labels=labels)
    assert codebook_of(editor).hits == ({3: 1} if mode == "simple" else {})


def test_a_copied_model_keeps_its_edits_after_rollback_of_the_original(mode: str) -> None:
    model, rollback, _ = edited("llama", mode, n_iter=5)
    logits = model(**ids_of(*PROMPTS)).logits
    copied = copy.deepcopy(model)
    rollback()
    assert torch.equal(copied(**ids_of(*PROMPTS)).logits, logits)
    assert torch.equal(model(**ids_of(*PROMPTS)).logits, build_model("llama")(**ids_of(*PROMPTS)).logits)


def test_gradient_checkpointing_gives_the_same_gradients(mode: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model, _, _ = edited("llama", mode, n_iter=5)
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        # With checkpointing, backward() runs blocks again after another prompt's forward pass.
        first, second = (model(**ids_of(text), use_cache=False).logits.sum() for text in (PROMPTS[0], OTHERS[0]))
        (first + second).backward()
        gradients.append(
            {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
        )
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_rollback_restores_state_hooks_and_logits(family: str, mode: str) -> None:
    unedited = build_model(family)
    model, rollback, _ = edited(family, mode, n_iter=5)
    assert set(model.state_dict()) - set(state_of(unedited))
    rollback()
    rollback()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in state_of(unedited).items())
    assert set(model.state_dict()) == set(unedited.state_dict())
    assert set(model.__dict__) == set(unedited.__dict__)
    for module, unedited_module in zip(model.modules(), unedited.modules(), strict=True):
        assert set(module.__dict__) == set(unedited_module.__dict__)
        assert list(module._modules) == list(unedited_module._modules)
        assert len(module._forward_hooks) + len(module._forward_pre_hooks) == 0
    assert torch.equal(model(**ids_of(*PROMPTS)).logits, unedited(**ids_of(*PROMPTS)).logits)
