"""Explanations of one prompt: which edit answers it, at which tokens, and why."""

from __future__ import annotations

import json
import math

import pytest
import torch

from easyedit_lifelong import apply_grace_to_model, explain
from easyedit_lifelong.errors import DataError, EditError
from easyedit_lifelong.methods.coachhook.editor import coachhook_editor
from easyedit_lifelong.models.prompt_positions import prompt_lengths
from tests.support.coachhook_edits import FACTS, OTHERS
from tests.support.grace_edits import EDITS, edited, editor_of, hparams
from tests.support.layer_outputs import outputs_of
from tests.support.saved_edits import METHODS, grace_and_coachhook
from tests.support.tiny_models import FAMILIES, build_model, build_tokenizer

PROMPTS = [*(prompt for prompt, _, _ in FACTS), *OTHERS]


@pytest.mark.parametrize("replacement", ["replace_last", "replace_all", "replace_prompt"])
def test_explain_shows_the_tokens_that_a_codebook_replaces(family: str, replacement: str) -> None:
    model = build_model(family)
    options = hparams(inner_params=[FAMILIES[family][1]], replacement=replacement, eps=2.0)
    apply_grace_to_model(model, build_tokenizer(), EDITS, options)
    (editor,), unedited = [editor_of(model)], build_model(family)
    assert editor.codebook is not None
    answering_cases = set()
    for prompt in PROMPTS:
        explanation = explain(model, build_tokenizer(), prompt)
        (layer,) = explanation.grace
        assert layer.layer == editor.path
        assert [token.looked_up for token in layer.tokens] == [False] * (len(layer.tokens) - 1) + [True]
        before = outputs_of(unedited, editor.path, prompt)
        with prompt_lengths(model, [len(layer.tokens)]):
            now = outputs_of(model, editor.path, prompt)
        changed = (before != now).any(dim=-1).tolist()
        assert [token.replaced for token in layer.tokens] == changed
        last = layer.tokens[-1]
        answering_cases.add(layer.answered_by)
        assert (layer.answered_by is not None) == last.fired
        if last.fired and changed[-1]:
            assert torch.equal(now[-1], editor.codebook.values[last.key])
        assert last.fired == (last.distance <= last.radius * 1.001)
        words = [token.token for token in layer.tokens]
        assert [word for word in words if word != "<unk>"] == [
            word for word, shown in zip(prompt.split(), words, strict=True) if shown != "<unk>"
        ]
        assert str(layer.answered_by or "deferred") in str(explanation)
    assert None in answering_cases
    assert len(answering_cases) > 3


def test_a_corrected_fact_is_answered_by_the_later_edit() -> None:
    model, _ = edited()
    (layer,) = explain(model, build_tokenizer(), FACTS[0][0]).grace
    assert layer.answered_by == "c4"
    assert layer.tokens[-1].distance < 1e-4  # the key comes from a batch, which rounds differently from a single prompt


def test_explaining_with_an_answer_keeps_the_query_at_the_prompt_end() -> None:
    model, _ = edited()
    explanation = explain(model, build_tokenizer(), FACTS[1][0], "blue sea")
    (layer,) = explanation.grace
    assert [token.token for token in layer.tokens][-2:] == ["blue", "sea"]
    assert [token.looked_up for token in layer.tokens][-3:] == [True, False, False]
    assert layer.answered_by == "c5"
    assert json.loads(json.dumps(explanation.to_dict()))["answer"] == "blue sea"


@pytest.mark.parametrize("method", ["CoachHook", "CoachHook-weighed", "CoachHook-wohk"])
def test_explain_shows_the_tokens_at_which_hooks_act(method: str) -> None:
    model, unedited, actions = build_model("llama"), build_model("llama"), set()
    METHODS[method](model, "llama")
    editor = coachhook_editor(model)
    for prompt in PROMPTS:
        explanation = explain(model, build_tokenizer(), prompt, "blue")
        assert [layer.layer for layer in explanation.coachhook] == list(editor.hooks)
        tokens = [token.acts for token in explanation.coachhook[0].tokens][:-1]
        actions |= set(tokens)
        path = explanation.coachhook[0].layer  # the first hooked layer: no edit below it changes its keys
        before = outputs_of(unedited, path, prompt)
        now = outputs_of(model, path, prompt)
        assert (before != now).any(dim=-1).tolist() == tokens
        for layer in explanation.coachhook:
            for token in layer.tokens:
                if layer.alpha is None:
                    assert token.acts
                    assert math.isnan(token.score)
                else:
                    assert layer.alpha == editor.alphas[layer.layer]
                    assert token.acts == (token.score >= layer.alpha - 2e-4 * max(1, layer.alpha))
        assert "acts" in str(explanation) or not any(tokens)
    assert actions == ({True} if method == "CoachHook-wohk" else {True, False})


def test_explain_covers_both_methods_and_refuses_an_unedited_model() -> None:
    model = build_model("llama")
    with pytest.raises(EditError, match="carries no edits"):
        explain(model, build_tokenizer(), "blue")
    grace_and_coachhook(model, "llama")
    explanation = explain(model, build_tokenizer(), FACTS[0][0])
    assert (len(explanation.grace), len(explanation.coachhook)) == (1, 3)
    with pytest.raises(DataError, match="no tokens"):
        explain(model, build_tokenizer(), "")
