"""Models with LoRA adapters (PEFT): edits belong to the model with its adapters, and are removed without them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model

from easyedit_lifelong import apply_grace_to_model, load_edits
from easyedit_lifelong.errors import CovarianceError, EditError, RunError
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.locate_edit.moments import second_moments
from easyedit_lifelong.models.anatomy import anatomy_of, mlp_of
from easyedit_lifelong.models.fingerprint import model_fingerprint
from easyedit_lifelong.models.modules import find_module
from tests.support.coachhook_edits import attributes_and_hooks_of, equal_states, hparams_for
from tests.support.edited_models import EDITS, PROMPTS, edit_with_both, inputs_of, plan
from tests.support.saved_edits import equal, logits_of, wohk
from tests.support.tiny_models import FAMILIES, build_model, build_tokenizer, state_of

PROJECTIONS = {"gpt2": ["c_proj", "c_fc"], "llama": ["down_proj", "q_proj"]}
HOLDERS = {"PeftModel": lambda model: model, "the model inside": lambda model: model.get_base_model()}


def model_with_adapters(family: str) -> PeftModel:
    """Build a family's model with LoRA adapters that change its output; the same weights every time."""
    config = LoraConfig(target_modules=PROJECTIONS[family], r=2, fan_in_fan_out=family == "gpt2")
    model = get_peft_model(build_model(family), config)  # the first call of a process draws more random numbers
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    return model.eval()


@pytest.mark.parametrize("family", PROJECTIONS)
@pytest.mark.parametrize("method", [*EDITS, "wohk"])
@pytest.mark.parametrize("edits", HOLDERS)
@pytest.mark.parametrize("loads", HOLDERS)
def test_edits_on_a_peft_model_can_be_saved_loaded_and_rolled_back(
    family: str, method: str, edits: str, loads: str, tmp_path: Path
) -> None:
    model = model_with_adapters(family)
    unedited, state, parts = logits_of(model), state_of(model), attributes_and_hooks_of(model)
    {**EDITS, "wohk": wohk}[method](HOLDERS[edits](model), family)
    edited = logits_of(model)
    assert not equal(edited, unedited)
    assert equal(logits_of(model.get_base_model()), edited), "the PeftModel and the model inside must both be edited"
    outputs = [holder(model).generate(**inputs_of(*PROMPTS), generation_config=plan()) for holder in HOLDERS.values()]
    assert torch.equal(*outputs)

    model.save_edits(tmp_path)
    loaded = model_with_adapters(family)
    rollback = load_edits(HOLDERS[loads](loaded), tmp_path)
    assert equal(logits_of(loaded), edited)
    rollback()
    assert equal(logits_of(loaded), unedited)
    assert equal_states(state_of(loaded), state)
    assert attributes_and_hooks_of(loaded) == parts


def test_edits_load_only_on_a_model_with_the_same_active_adapters(tmp_path: Path) -> None:
    """A model without the adapters, with others, with merged or switched-off ones, has another fingerprint."""
    model = model_with_adapters("llama")
    edit_with_both(model, "llama")
    model.save_edits(tmp_path)
    other_weights, switched_off, merged = (
        model_with_adapters("llama"),
        model_with_adapters("llama"),
        model_with_adapters("llama").merge_and_unload(),
    )
    with torch.no_grad():
        next(p for name, p in other_weights.named_parameters() if "lora_B" in name).add_(1)
    switched_off.base_model.disable_adapter_layers()
    for other in (build_model("llama"), other_weights, switched_off, merged):
        with pytest.raises(RunError, match="fingerprints differ"):
            load_edits(other, tmp_path)
    assert model_fingerprint(model) == model_fingerprint(model_with_adapters("llama").get_base_model())


def test_a_layer_with_adapters_is_found_by_its_plain_name() -> None:
    """The layer is the projection with its adapters, under the name that it has without PEFT."""
    model, name = model_with_adapters("llama"), FAMILIES["llama"][1]
    path, module = find_module(model, name)
    assert path == "model.layers.2.mlp.down_proj"
    assert module is model.get_base_model().model.layers[2].mlp.down_proj
    assert module.base_layer is not module
    anatomy = anatomy_of(model)
    assert anatomy is not None
    for family in PROJECTIONS:
        plain, with_adapters = (
            anatomy_of(candidate) for candidate in (build_model(family), model_with_adapters(family))
        )
        assert plain is not None
        assert with_adapters is not None
        assert mlp_of(with_adapters.blocks[1]) == mlp_of(plain.blocks[1]) is not None


def test_second_moments_are_of_the_model_with_its_adapters(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the capital of France is Paris and the old king wrote Hamlet\n\n" * 40)
    options = {"mom2_dataset": str(text), "mom2_n_tokens": 200}
    moments = [
        second_moments(model, build_tokenizer(), hparams_for("llama", **options, stats_dir=str(tmp_path / folder)))
        for model, folder in [
            (build_model("llama"), "plain"),
            (model_with_adapters("llama"), "adapted"),
            (model_with_adapters("llama").get_base_model(), "adapted"),  # reads the moments of the second
        ]
    ]
    assert list(moments[0]) == list(moments[1]) == list(moments[2])
    last = list(moments[0])[-1]
    assert not torch.equal(moments[0][last].moment, moments[1][last].moment)
    assert torch.equal(moments[1][last].moment, moments[2][last].moment)
    with pytest.raises(CovarianceError, match="other second moments"):
        second_moments(
            model_with_adapters("llama"),
            build_tokenizer(),
            hparams_for("llama", **options, stats_dir=str(tmp_path / "plain")),
        )


def test_prompt_tuning_is_refused() -> None:
    """Prompt tuning puts learned tokens before the prompt, where an edit can't see them."""
    base = build_model("llama")
    model = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    parts = attributes_and_hooks_of(model)
    hparams = GraceHyperParams(model_name="tiny", inner_params=[FAMILIES["llama"][1]], n_iter=2)
    with pytest.raises(EditError, match="learned tokens"):
        apply_grace_to_model(model, build_tokenizer(), [{"prompt": PROMPTS[0], "target_new": "Rome"}], hparams)
    assert attributes_and_hooks_of(model) == parts


@pytest.mark.parametrize("method", EDITS)
def test_merging_an_edited_adapter_is_an_error_at_the_next_pass_instead_of_lost_edits(method: str) -> None:
    """An adapter that comes after the edits can be merged: then the edited layers are what remains."""
    model = model_with_adapters("llama")
    EDITS[method](model, "llama")
    merged = model.merge_and_unload()
    with pytest.raises(EditError, match=r"has been replaced since it was edited .*merge_and_unload"):
        logits_of(merged)
    model = build_model("llama")
    EDITS[method](model, "llama")
    edited = logits_of(model)
    with_adapter = get_peft_model(model, LoraConfig(target_modules=PROJECTIONS["llama"], r=2))
    assert all(torch.allclose(*pair) for pair in zip(logits_of(with_adapter), edited, strict=True))
    assert all(torch.allclose(*pair) for pair in zip(logits_of(with_adapter.merge_and_unload()), edited, strict=True))


@pytest.mark.parametrize("method", [*EDITS, "wohk"])
def test_an_adapter_that_is_saved_under_edits_holds_none_and_a_warning_says_so(
    method: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_with_adapters("llama")
    unedited = logits_of(model)
    {**EDITS, "wohk": wohk}[method](model, "llama")
    edited = logits_of(model)
    copied = copy.deepcopy(model)
    caplog.clear()
    model.save_edits(tmp_path / "edits")
    model.get_base_model().state_dict()
    assert caplog.records == []
    copied.save_pretrained(tmp_path / "copied")
    model.save_pretrained(tmp_path / "adapter")
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert all("edits, which are lost where PEFT saves its adapter" in message for message in messages)

    loaded = PeftModel.from_pretrained(build_model("llama"), tmp_path / "adapter").eval()
    assert equal(logits_of(loaded), unedited)
    rollback = load_edits(loaded, tmp_path / "edits")
    assert equal(logits_of(loaded), edited)
    rollback()
    caplog.clear()
    loaded.save_pretrained(tmp_path / "again")
    assert caplog.records == []
