"""Context templates depend on the model and the seed only."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList

from easyedit_lifelong.methods.locate_edit.templates import PLAIN, TopKSampling, context_templates
from tests.support.byte_level import byte_level
from tests.support.coachhook_edits import (
    attributes_and_hooks_of,
    editor_on,
    equal_states,
    hparams_for,
    moments_for,
    requests_for,
)
from tests.support.tiny_models import build_model, build_tokenizer, state_of


def test_the_same_seed_gives_the_same_templates_whatever_torchs_seed_and_the_mode(family: str) -> None:
    tokenizer = build_tokenizer()
    model = build_model(family).train()
    modules = attributes_and_hooks_of(model)
    torch.manual_seed(1)
    first = context_templates(model, tokenizer, [[10, 5], [6, 7]], 3)
    torch.manual_seed(2)
    assert context_templates(build_model(family), tokenizer, [[10, 5], [6, 7]], 3) == first
    if family != "gemma2":  # the tiny one generates its end token only
        assert context_templates(model, tokenizer, [[10, 5], [6, 7]], 4) != first
    assert attributes_and_hooks_of(model) == modules
    assert first[0] == ["{}"]
    assert [len(group) for group in first] == [1, 5, 7]
    assert all(template.endswith(". {}") and template.count("{") == 1 for group in first[1:] for template in group)


def test_sampling_draws_what_transformers_draws_on_a_cpu() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    ids = torch.tensor([[5, 6], [7, 8], [9, 10]])
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 12, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(4)
    expected = model.generate(ids, do_sample=True, top_k=5, top_p=1.0, temperature=1.0, **options)
    processors = LogitsProcessorList([TopKSampling(5, torch.Generator().manual_seed(4))])
    drawn = model.generate(ids, do_sample=False, logits_processor=processors, **options)
    assert torch.equal(drawn, expected)
    assert not torch.equal(drawn, model.generate(ids, do_sample=False, **options))


def test_the_states_of_other_random_generators_do_not_change() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    context_templates(model, tokenizer, [[10, 5]], 0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


def test_what_other_threads_draw_at_the_same_time_changes_no_template() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    expected = context_templates(model, tokenizer, [[10, 5]], 0)

    def draw(*_: Any) -> None:
        torch.rand(1)

    with model.lm_head.register_forward_hook(draw):
        assert context_templates(model, tokenizer, [[10, 5]], 0) == expected


def test_without_lengths_there_is_only_the_plain_template_which_callers_cannot_change() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    templates = context_templates(model, tokenizer, [], 0)
    assert templates == PLAIN
    templates[0].append("spoiled")
    assert PLAIN == [["{}"]]


def test_braces_and_new_lines_in_generated_text_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = build_model("llama"), byte_level()
    monkeypatch.setattr(type(tokenizer), "batch_decode", lambda *_, **__: ["a {} b", "c\n\n{0}", "  }{ ", "", "%s"])
    monkeypatch.setattr(type(model), "generate", lambda *_, **__: torch.zeros(5, 3, dtype=torch.long))
    for template in context_templates(model, tokenizer, [[5, 5]], 0)[1]:
        assert template.count("{") == template.count("}") == 1
        assert template.endswith(". {}")
        assert "\n" not in template


def test_an_editor_keeps_the_templates_of_the_unedited_model() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    hparams = hparams_for("llama", context_template_length_params=[[5, 2]], seed=3)
    editor = editor_on(model, tokenizer, hparams, templates=None)
    expected = context_templates(build_model("llama"), tokenizer, [[5, 2]], 3)
    assert editor.state.templates == expected
    editor.edit(requests_for(0))
    assert editor_on(model, tokenizer, hparams, templates=None).state.templates == expected


def test_templates_have_at_most_the_given_number_of_tokens() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    model.generation_config.eos_token_id = None
    (group,) = context_templates(model, tokenizer, [[8, 6]], 0)[1:]
    assert max(len(template.removesuffix(". {}").split()) for template in group) <= 8


def test_edits_do_not_depend_on_torchs_seed() -> None:
    states: list[dict[str, Any]] = []
    for _ in range(2):
        model = build_model("llama")
        hparams = hparams_for("llama", context_template_length_params=[[5, 3]])
        torch.manual_seed(len(states))
        editor = editor_on(model, build_tokenizer(), hparams, templates=None)
        editor.edit(requests_for())
        states.append(state_of(model))
    assert equal_states(*states)
    assert moments_for(model, hparams).keys() == set(editor.alphas)
