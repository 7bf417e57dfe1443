"""Rows in which nothing marks the prompt's end, such as those that evaluation harnesses score for log-likelihoods."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from easyedit_lifelong import apply_grace_to_model
from easyedit_lifelong.methods.grace.adaptor import GraceAdaptor
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.models.prompt_positions import prompt_lengths
from tests.support.prompt_edits import EDITS, UNRELATED_PROMPTS, hparams_for
from tests.support.subjects import FACTS, SUBJECT_PROMPTS, edited, ids_of
from tests.support.thoroughness import default_cases
from tests.support.tiny_models import build_model, build_tokenizer

REPLACEMENTS = ["replace_last", "replace_all", "replace_prompt"]
ROWS = [f"{edit['prompt']} {edit['target_new']} and the blue sea" for edit in EDITS]
LENGTHS = [len(edit["prompt"].split()) for edit in EDITS]
CLOSE = {"rtol": 1e-4, "atol": 2e-4}


def logits_of(model: Any, text: str) -> Tensor:
    """Return the logits of a text's tokens, shape ``(tokens, vocabulary)``."""
    return model(**ids_of(text)).logits[0].detach()


@pytest.fixture(params=REPLACEMENTS)
def replacement(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def edited_by_prompt(family: str, replacement: str = "replace_last") -> Any:
    """Return a model with GRACE's edits by prompt."""
    model = build_model(family)
    apply_grace_to_model(model, build_tokenizer(), EDITS, hparams_for(family, replacement=replacement, n_iter=8))
    return model


@pytest.mark.parametrize("labels", [False, True])
def test_prompt_and_answer_in_one_row_get_the_logits_of_a_row_whose_prompt_is_marked(
    family: str, replacement: str, labels: bool
) -> None:
    """Labels from the first token on, as for a perplexity, mark no prompt."""
    model = edited_by_prompt(family, replacement)
    for row, length in zip(ROWS, LENGTHS, strict=True):
        batch = ids_of(row)
        with prompt_lengths(model, [length]):
            expected = model(**batch).logits
        options = {"labels": batch["input_ids"]} if labels else {}
        torch.testing.assert_close(model(**batch, **options).logits, expected, rtol=1e-5, atol=1e-5)
        acts = replacement != "replace_prompt" or length > 1  # no token precedes that of a prompt of one token
        assert torch.allclose(expected, build_model(family)(**batch).logits, atol=1e-2) is not acts


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_change_an_unmarked_row(family: str, replacement: str, side: str) -> None:
    model = edited_by_prompt(family, replacement)
    texts = [*ROWS, *UNRELATED_PROMPTS]
    batch = ids_of(*texts, side=side)
    logits = model(**batch).logits
    for row, text in enumerate(texts):
        real = batch["attention_mask"][row].bool()
        torch.testing.assert_close(logits[row][real], logits_of(model, text), **CLOSE)


def test_right_padding_without_a_mask_does_not_hide_an_edit(family: str, replacement: str) -> None:
    """Evaluation harnesses pad rows on the right and pass no mask."""
    model = edited_by_prompt(family, replacement)
    ids = ids_of(*ROWS, side="right")["input_ids"]
    logits = model(input_ids=ids).logits
    for row, text in enumerate(ROWS):
        torch.testing.assert_close(logits[row, : len(text.split())], logits_of(model, text), **CLOSE)


def test_a_row_has_at_every_token_the_logits_of_the_text_up_to_it(family: str) -> None:
    """This is what a causal model does. The row asks two edited prompts, the first of them twice."""
    model = edited_by_prompt(family)
    first, second = EDITS[1], EDITS[0]
    words = f"{first['prompt']} {first['target_new']} and {second['prompt']} old {first['prompt']} blue".split()
    logits = logits_of(model, " ".join(words))
    changed = (logits - logits_of(build_model(family), " ".join(words))).abs().amax(dim=1) > 1e-2
    assert changed[2] and not changed[:2].any()  # "Hamlet is from" has three words
    for end in range(1, len(words) + 1):
        torch.testing.assert_close(logits[end - 1], logits_of(model, " ".join(words[:end]))[-1], **CLOSE)


def test_tokens_after_an_answer_do_not_change_its_scores(family: str, replacement: str) -> None:
    """The tokens after the answer ask another edited prompt."""
    model = edited_by_prompt(family, replacement)
    row = f"{EDITS[0]['prompt']} {EDITS[0]['target_new']}"
    end = len(EDITS[0]["prompt"].split())
    if replacement == "replace_prompt":  # the value of the second prompt then acts on the tokens before it
        end -= 1
    longer = logits_of(model, f"{row} and {EDITS[1]['prompt']} Peru")
    torch.testing.assert_close(longer[:end], logits_of(model, row)[:end], **CLOSE)


def test_a_cached_row_in_two_passes_gets_the_logits_of_one_pass(family: str) -> None:
    model = edited_by_prompt(family)
    for row, length in zip(ROWS, LENGTHS, strict=True):
        ids = ids_of(row)["input_ids"]
        for cut in {max(1, length - 1), length, length + 1}:
            start = model(input_ids=ids[:, :cut], use_cache=True)
            rest = model(input_ids=ids[:, cut:], past_key_values=start.past_key_values).logits
            logits = torch.cat([start.logits, rest], dim=1)[0]
            torch.testing.assert_close(logits, logits_of(model, row), **CLOSE)


def test_an_edit_found_among_many_keys_is_that_of_a_full_comparison(family: str) -> None:
    model = edited_by_prompt(family)
    editor = GraceEditor.on(model, build_tokenizer(), hparams_for(family, n_iter=8))
    codebook, expected = editor.codebook, [logits_of(model, row) for row in ROWS]
    assert codebook is not None
    generator = torch.Generator().manual_seed(0)
    for number in range(200):  # far from every query
        key = 100 + torch.randn(codebook.keys.shape[1], generator=generator)
        codebook.insert(key, (number,), torch.zeros(codebook.values.shape[1]))
    for row, logits in zip(ROWS, expected, strict=True):
        assert torch.equal(logits_of(model, row), logits)


def test_every_unmarked_row_counts_a_hit_of_its_key(family: str) -> None:
    model = edited_by_prompt(family)
    editor = GraceEditor.on(model, build_tokenizer(), hparams_for(family, n_iter=8))
    assert editor.codebook is not None
    model(**ids_of(ROWS[1], ROWS[3], ROWS[1], UNRELATED_PROMPTS[0]))
    assert editor.codebook.hits == {1: 2, 3: 1}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("replace_last", [-1, 7, -1, -1, 4, -1]),
        ("replace_all", [7, 7, 7, 7, 4, 4]),
        ("replace_prompt", [7, 4, 4, 4, -1, -1]),
    ],
)
def test_each_match_acts_on_its_part_of_the_row(name: str, expected: list[int]) -> None:
    model = build_model("llama")
    adaptor = GraceAdaptor(model, model.model.layers[1].mlp, name)
    matches = torch.tensor([[-1, 7, -1, -1, 4, -1], [-1] * 6])
    assert adaptor._keys_in_effect(matches).tolist() == [expected, [-1] * 6]


@pytest.mark.parametrize("gate_eps", default_cases([0.05, 0.9], 0.05))
def test_an_edit_found_by_subject_answers_at_the_end_of_its_prompt_within_a_row(family: str, gate_eps: float) -> None:
    """The gate at the end of the prompt equals that of the edit."""
    model, _, _ = edited(family, "late", n_iter=8, gate_eps=gate_eps)
    for fact in FACTS:
        row = f"{fact['prompt']} {fact['target_new']} and the blue sea"
        length = len(fact["prompt"].split())
        logits = logits_of(model, row)
        with prompt_lengths(model, [length]):
            expected = logits_of(model, row)
        torch.testing.assert_close(logits[:-1], expected[:-1], **CLOSE)  # the row itself may be a prompt, too
        assert not torch.allclose(logits[length - 1], logits_of(build_model(family), row)[length - 1], atol=1e-2)


@pytest.mark.parametrize("gate_eps", default_cases([0.05, 0.9, 1.99], 0.9))
def test_a_row_that_is_a_prompt_in_other_words_is_answered_as_a_prompt(family: str, gate_eps: float) -> None:
    """Within it, no other token answers, however wide the gate is."""
    model, _, _ = edited(family, "late", n_iter=8, gate_eps=gate_eps)
    for prompt in SUBJECT_PROMPTS:
        with prompt_lengths(model, [len(prompt.split())]):
            expected = logits_of(model, prompt)
        torch.testing.assert_close(logits_of(model, prompt), expected, **CLOSE)


def test_without_a_gate_a_subject_answers_at_the_end_of_the_row_alone(family: str) -> None:
    model, _, _ = edited(family, "late", n_iter=8)
    row = f"{FACTS[0]['prompt']} {FACTS[0]['target_new']} and the blue sea"
    changed = (logits_of(model, row) - logits_of(build_model(family), row)).abs().amax(dim=1) > 1e-3
    assert changed.tolist() == [False] * (len(changed) - 1) + [True]
