"""The contracts that every editing method keeps, on a tiny model with random weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from easyedit_lifelong_templateedit import TemplateEditHyperParams, apply_templateedit_to_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from easyedit_lifelong import (
    DataError,
    EditError,
    ModelError,
    explain,
    get_plugins,
    inspect_edits,
    load_edits,
    rollback_case,
    run_lifelong,
    save_edits,
)

TEXT = "the capital of France is Paris Rome who wrote Hamlet Shakespeare Austen snow on a mountain"
REQUESTS = [
    {"case_id": "france", "prompt": "the capital of France is", "target_new": "Rome"},
    {"case_id": "hamlet", "prompt": "who wrote Hamlet", "target_new": "Austen"},
]
PROMPTS = [*(request["prompt"] for request in REQUESTS), "snow on a mountain"]


def hparams(**settings: Any) -> TemplateEditHyperParams:
    """Return hyperparameters for the tiny model."""
    return TemplateEditHyperParams(model_name="tiny", device="cpu", **settings)


def apply(model: Any, requests: list[dict[str, Any]] = REQUESTS) -> Any:
    """Edit a model; return the rollback."""
    _, rollback = apply_templateedit_to_model(model, build_tokenizer(), requests, hparams())
    return rollback


def build_model() -> Any:
    """Build the tiny model, with the same random weights each time."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


def build_tokenizer() -> Any:
    """Build a tokenizer of whole words."""
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *TEXT.split()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **special)


def logits_of(model: Any) -> list[torch.Tensor]:
    """Return the logits of each prompt, read alone."""
    tokenizer = build_tokenizer()
    with torch.no_grad():
        return [model(**tokenizer(prompt, return_tensors="pt")).logits for prompt in PROMPTS]


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> list[bool]:
    """Return for each prompt whether the logits are bitwise the same."""
    return [torch.equal(a, b) for a, b in zip(first, second, strict=True)]


def test_the_plugin_is_installed() -> None:
    assert get_plugins().methods.get("Template-Edit").hparams_class is TemplateEditHyperParams


def test_edits_change_their_prompts_only() -> None:
    model = build_model()
    before = logits_of(model)
    apply(model)
    after = logits_of(model)
    assert equal(before, after) == [False, False, True]
    tokenizer = build_tokenizer()
    answers = [tokenizer.decode(logits[0, -1].argmax()) for logits in after[:2]]
    assert answers == [request["target_new"] for request in REQUESTS]


def test_the_latest_edit_of_a_prompt_acts() -> None:
    model = build_model()
    before = logits_of(model)[0][0, -1]
    apply(model)
    rollback = apply(model, [{"prompt": REQUESTS[0]["prompt"], "target_new": "Paris"}])
    change = logits_of(model)[0][0, -1] - before
    assert build_tokenizer().decode(change.nonzero()[0]) == "Paris"
    assert change.count_nonzero() == 1
    rollback()
    change = logits_of(model)[0][0, -1] - before
    assert build_tokenizer().decode(change.nonzero()[0]) == "Rome"


def test_tokens_may_be_positional_or_embedded() -> None:
    model = build_model()
    apply(model)
    ids = build_tokenizer()(PROMPTS[0], return_tensors="pt")["input_ids"]
    expected = logits_of(model)[0]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, expected)
        assert torch.equal(model(inputs_embeds=model.get_input_embeddings()(ids)).logits, expected)


def test_a_rollback_restores_the_model_bitwise() -> None:
    model = build_model()
    before, weights = logits_of(model), copy.deepcopy(model.state_dict())
    rollback = apply(model)
    rollback()
    assert all(equal(before, logits_of(model)))
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_a_failed_edit_leaves_no_trace() -> None:
    model = build_model()
    before = logits_of(model)
    with pytest.raises(DataError, match="target_new"):
        apply(model, [REQUESTS[0], {"prompt": "who wrote Hamlet"}])
    assert all(equal(before, logits_of(model)))


def test_a_hidden_state_that_is_not_finite_fails_the_edit() -> None:
    model = build_model()
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(EditError, match="not finite"):
        apply(model)
    assert not hasattr(model, "save_edits")  # only an edited model has it


def test_a_prompt_that_is_too_long_is_refused() -> None:
    with pytest.raises(DataError, match="its prompt has 65 tokens; the model takes 64"):
        apply(build_model(), [{"prompt": "snow " * 65, "target_new": "Rome"}])


@pytest.mark.parametrize("field", ["prompt", "target_new"])
def test_a_token_that_the_model_does_not_embed_is_refused(field: str) -> None:
    tokenizer = build_tokenizer()
    tokenizer.add_tokens([f"new{number}" for number in range(40)])
    request = {**REQUESTS[0], field: f"{REQUESTS[0][field]} new39"}
    with pytest.raises(DataError, match="does not embed the token 'new39'"):
        apply_templateedit_to_model(build_model(), tokenizer, [request], hparams())


def test_a_model_without_output_head_is_refused() -> None:
    with pytest.raises(ModelError, match="a LlamaModel is not one"):
        apply(build_model().model)


def test_neighbours_in_the_batch_and_padding_change_nothing() -> None:
    model, tokenizer = build_model(), build_tokenizer()
    apply(model)
    batch = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        together = model(**batch).logits[:, -1]
    for row, alone in zip(together, logits_of(model), strict=True):
        torch.testing.assert_close(row, alone[0, -1])


@pytest.mark.parametrize("length", [1, 3])
def test_a_prompt_may_be_read_in_parts_with_a_cache(length: int) -> None:
    model = build_model()
    apply(model)
    ids, cache, parts = build_tokenizer()(PROMPTS[0], return_tensors="pt")["input_ids"], None, []
    with torch.no_grad():
        for part in ids.split(length, dim=1):
            output = model(input_ids=part, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), logits_of(model)[0])


def test_generation_is_the_same_with_and_without_a_cache() -> None:
    model, tokenizer = build_model(), build_tokenizer()
    apply(model)
    inputs = tokenizer(PROMPTS[0], return_tensors="pt")
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    texts = [model.generate(**inputs, use_cache=use_cache, **options) for use_cache in (True, False)]
    assert torch.equal(*texts)


def test_saved_edits_answer_as_before(tmp_path: Path) -> None:
    edited, model = build_model(), build_model()
    before = logits_of(model)
    apply(edited)
    save_edits(edited, tmp_path / "edits")
    rollback = load_edits(model, tmp_path / "edits")
    assert all(equal(logits_of(edited), logits_of(model)))
    rollback()
    assert all(equal(before, logits_of(model)))
    assert len(inspect_edits(tmp_path / "edits").parts[0].edits) == len(REQUESTS)


def test_one_edit_can_be_removed() -> None:
    model = build_model()
    before = logits_of(model)
    apply(model)
    rollback_case(model, "france")
    assert equal(before, logits_of(model)) == [True, False, True]


def test_a_copy_has_its_own_edits() -> None:
    model = build_model()
    rollback = apply(model)
    edited, duplicate = logits_of(model), copy.deepcopy(model)
    rollback()
    assert all(equal(edited, logits_of(duplicate)))


def test_an_answer_is_explained() -> None:
    model = build_model()
    apply(model)
    assert "answered by case 'france'" in str(explain(model, build_tokenizer(), REQUESTS[0]["prompt"]))


def test_a_run_scores_the_edits(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run_lifelong(build_model(), build_tokenizer(), REQUESTS, hparams(), retention=[], out=out)
    assert result.metrics["ERR"] == 1.0
