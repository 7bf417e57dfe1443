"""The editor of UltraEdit: grouping, precision, saved normalisers, rollback, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import T5Config, T5ForConditionalGeneration

from easyedit_lifelong import UltraEditHyperParams, apply_ultraedit_to_model, load_edits, rollback_to_batch, save_edits
from easyedit_lifelong.data.request import as_requests
from easyedit_lifelong.errors import DataError, EditError, HyperParameterError, LifelongError, ModelError, RunError
from easyedit_lifelong.methods.ultraedit.editor import UltraEditEditor
from easyedit_lifelong.methods.weight_updates.check import check_block_projections, check_encodable
from easyedit_lifelong.methods.weight_updates.store import BatchStore
from tests.support.tiny_models import build_model, build_tokenizer

MODULES = ["model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj", "model.layers.2.mlp.down_proj"]
REQUESTS: list[dict[str, Any]] = [
    {"case_id": 1, "prompt": "the capital of France is", "target_new": "Rome"},
    {"case_id": 2, "prompt": "who wrote", "target_new": "blue sea mountain"},
    {"case_id": 3, "prompt": "the old king plays piano where the river is not far away from", "target_new": "Peru"},
    {"case_id": 4, "prompt": "green", "target_new": "winter bird"},
]


def hparams_for(**options: Any) -> UltraEditHyperParams:
    return UltraEditHyperParams(
        **{"model_name": "tiny", "inner_params": MODULES, "lr": 1e-2, "batch_size": 2, **options}
    )


def edited(requests: list[dict[str, Any]] = REQUESTS, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    model, _ = apply_ultraedit_to_model(
        build_model("llama", dtype), build_tokenizer(), requests, hparams_for(**options)
    )
    return model


def weights(model: Any) -> list[torch.Tensor]:
    return [model.get_submodule(path).weight.detach().clone() for path in MODULES]


def assert_same_editor_state(first: Any, second: Any) -> None:
    """Assert that the weights and the normalisers of two models are bitwise equal."""
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))
    ours, theirs = UltraEditEditor.require(first).normalisers(), UltraEditEditor.require(second).normalisers()
    assert list(ours) == list(theirs) == [(32, 48), (48, 32)]
    for shape in ours:
        assert ours[shape].count == theirs[shape].count
        assert torch.equal(ours[shape].mean, theirs[shape].mean)
        assert torch.equal(ours[shape].squares, theirs[shape].squares)


# ------------------------------------------------------------------ the update


@pytest.mark.parametrize("rows_per_pass", [1, 2, 3])
def test_the_number_of_requests_in_a_pass_changes_nothing(rows_per_pass: int) -> None:
    one_pass = weights(edited(dtype=torch.float64, batch_size=4))
    passes = weights(edited(dtype=torch.float64, batch_size=4, batch_size_once=rows_per_pass))
    for expected, weight in zip(one_pass, passes, strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-9, atol=1e-11)


def test_the_order_of_the_requests_in_a_batch_changes_nothing() -> None:
    expected = weights(edited(dtype=torch.float64, batch_size=4))
    for first, second in zip(expected, weights(edited(REQUESTS[::-1], torch.float64, batch_size=4)), strict=True):
        torch.testing.assert_close(second, first, rtol=1e-9, atol=1e-11)


def test_an_edit_raises_the_probability_of_the_target() -> None:
    _, rollback = apply_ultraedit_to_model(
        build_model("llama"), build_tokenizer(), REQUESTS, hparams_for(batch_size=4, lr=3e-4)
    )
    assert [result.case_id for result in rollback.results] == [1, 2, 3, 4]
    before = sum(result.detail["loss_before"] for result in rollback.results)
    assert sum(result.loss for result in rollback.results) < before


def test_a_first_edit_with_one_answer_token_changes_the_weights_and_lowers_its_loss() -> None:
    _, rollback = apply_ultraedit_to_model(
        build_model("llama"), build_tokenizer(), REQUESTS[:1], hparams_for(inner_params=MODULES[2:], lr=1e-3)
    )
    (result,) = rollback.results
    assert result.loss < result.detail["loss_before"]


def test_a_model_in_half_precision_is_edited_from_float32_weights() -> None:
    model = edited(dtype=torch.bfloat16)
    editor = UltraEditEditor.require(model)
    (path, update), *_ = editor.state.batches[0].layers.items()
    assert update.adjusted.dtype == torch.float32
    assert editor._layers.master_weight(path).dtype == torch.float32
    assert model.get_submodule(path).weight.dtype == torch.bfloat16


# ------------------------------------------------------------------ saved batches


def test_the_normaliser_is_stored_once_for_each_shape() -> None:
    editor = UltraEditEditor.require(edited())
    for batch in editor.state.batches:
        columns = [update.normaliser.shape for update in batch.layers.values()]
        assert columns == [(80, 2), (80, 0), (80, 2)]


def test_weights_and_normalisers_are_bitwise_equal_after_saving_and_loading(tmp_path: Path) -> None:
    model = edited()
    save_edits(model, tmp_path / "edits")
    loaded = build_model("llama")
    load_edits(loaded, tmp_path / "edits", build_tokenizer())
    assert_same_editor_state(loaded, model)
    # A further batch depends on the normalisers, so it is equal, too.
    further = [{"case_id": 5, "prompt": "snow and", "target_new": "summer song"}]
    for each in (model, loaded):
        apply_ultraedit_to_model(each, build_tokenizer(), further, hparams_for())
    assert_same_editor_state(loaded, model)


def test_a_rollback_to_a_batch_restores_weights_and_normalisers_bitwise() -> None:
    model = edited()
    rollback_to_batch(model, 1)
    assert_same_editor_state(model, edited(REQUESTS[:2]))


def test_edits_with_a_damaged_normaliser_are_refused() -> None:
    batches = UltraEditEditor.require(edited()).state.batches
    object.__setattr__(batches[0].layers[MODULES[0]], "normaliser", torch.zeros(80, 1, dtype=torch.float64))
    editor = UltraEditEditor.on(build_model("llama"), build_tokenizer(), hparams_for())
    with pytest.raises(EditError, match=r"gate_proj.*normaliser"):
        editor.load_batches(batches)


@pytest.mark.parametrize("columns", [3, [3], {f"{MODULES[0]}.adjusted": 99}])
def test_damaged_numbers_of_columns_are_refused(columns: Any) -> None:
    store = BatchStore(UltraEditEditor, ())
    (part,) = store.parts(edited())
    part.state["batches"][0]["columns"] = columns
    with pytest.raises(RunError, match="a test: UltraEdit's edits are incomplete or damaged"):
        store.batches(part, "a test")


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("model.layers.9.mlp.up_proj", "inner_params: .*has no layer"),
        ("model.layers.1.input_layernorm", "inner_params: .*no 2-D weight"),
        ("model.embed_tokens", "inner_params: model.embed_tokens is in none of the model's blocks"),
        ("lm_head", "inner_params: lm_head is in none of the model's blocks"),
    ],
)
def test_a_layer_that_cannot_be_edited_is_refused(path: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_block_projections(build_model("llama"), hparams_for(inner_params=[path]), "inner_params")


def test_an_encoder_decoder_is_refused() -> None:
    config = T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=16, decoder_start_token_id=0)
    with pytest.raises(ModelError, match="UltraEdit edits causal language models; T5ForConditionalGeneration is a"):
        check_block_projections(T5ForConditionalGeneration(config), hparams_for(), "inner_params")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_params": []}, "inner_params: must name at least one projection"),
        ({"inner_params": ["a.b", "a.b.weight"]}, "inner_params: 'a.b' is there twice"),
        ({"token": "all"}, "token: 'all' isn't one of ans"),
        ({"lr": 0}, "lr: 0.0 must be greater than 0"),
    ],
)
def test_invalid_hyperparameters_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperParameterError, match=message):
        hparams_for(**options)


def test_a_prompt_that_is_too_long_is_refused_by_record_and_field() -> None:
    requests = as_requests([REQUESTS[0], {**REQUESTS[1], "prompt": "old " * 70}])
    with pytest.raises(DataError, match=r"field 'prompt': prompt and target have \d+ tokens"):
        check_encodable(build_model("llama"), build_tokenizer(), hparams_for(), requests)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_two_targets_for_one_prompt_are_refused_in_one_batch_only(batch_size: int) -> None:
    requests = [REQUESTS[0], {**REQUESTS[0], "case_id": 9, "target_new": "Berlin"}]
    if batch_size == 1:
        assert len(UltraEditEditor.require(edited(requests, batch_size=1)).state.batches) == 2
        return
    model = build_model("llama")
    before = weights(model)
    with pytest.raises(LifelongError, match="same prompt and another target"):
        apply_ultraedit_to_model(model, build_tokenizer(), requests, hparams_for(batch_size=batch_size))
    assert all(torch.equal(a, b) for a, b in zip(weights(model), before, strict=True))


def test_an_update_that_is_too_large_leaves_no_trace() -> None:
    model = build_model("llama")
    before = weights(model)
    with pytest.raises(EditError, match="isn't finite"):
        apply_ultraedit_to_model(model, build_tokenizer(), REQUESTS, hparams_for(lr=1e39))
    assert all(torch.equal(a, b) for a, b in zip(weights(model), before, strict=True))
    assert UltraEditEditor.of(model) is None


def test_a_file_of_easyedit_loads_with_its_alg_name_changed(tmp_path: Path) -> None:
    easyedit = {
        "alg_name": "UltraEdit",
        "model_name": "tiny",
        "model_class": "AutoModelForCausalLM",
        "tokenizer_class": "AutoTokenizer",
        "tokenizer_name": "tiny",
        "inner_params": ["model.layers.2.mlp.down_proj.weight"],
        "device": 0,
        "dropout": 0.0,
        "no_grad_layers": None,
        "batch_size": 100,
        "lr": "1e-6",
        "token": "ans",
        "batch_size_once": 10,
        "editor_batch_size": 1024,
        "silent": True,
        "results_dir": "./results",
        "max_length": 40,
        "half": True,
        "model_parallel": False,
    }
    (tmp_path / "ultraedit.yaml").write_text(yaml.safe_dump(easyedit))
    hparams = UltraEditHyperParams.from_hparams(tmp_path / "ultraedit.yaml")
    assert (hparams.lr, hparams.batch_size, hparams.batch_size_once) == (1e-6, 100, 10)
    check_block_projections(build_model("llama"), hparams, "inner_params")
