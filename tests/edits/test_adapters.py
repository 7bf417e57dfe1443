"""Models with LoRA adapters (PEFT): edits are made on what the adapters make of the model, and come off alone."""

from __future__ import annotations

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
from tests.support.coachhook_edits import anatomy_of_everything, hparams_for, same_tensors
from tests.support.edited_models import EDITS, PROMPTS, both_apart, inputs_of, plan
from tests.support.saved_edits import equal, logits_of, wohk
from tests.support.tiny_models import FAMILIES, build_model, build_tokenizer, state_of

PROJECTIONS = {"gpt2": ["c_proj", "c_fc"], "llama": ["down_proj", "q_proj"]}
HOLDERS = {"PeftModel": lambda model: model, "the model inside": lambda model: model.get_base_model()}


def adapted(family: str) -> PeftModel:
    """A family's model with LoRA adapters that do something; the same every time."""
    torch.manual_seed(1)
    config = LoraConfig(target_modules=PROJECTIONS[family], r=2, fan_in_fan_out=family == "gpt2")
    model = get_peft_model(build_model(family), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    return model.eval()


@pytest.mark.parametrize("family", PROJECTIONS)
@pytest.mark.parametrize("method", [*EDITS, "wohk"])
@pytest.mark.parametrize("edits", HOLDERS)
@pytest.mark.parametrize("loads", HOLDERS)
def test_edited_saved_loaded_and_rolled_back(family: str, method: str, edits: str, loads: str, tmp_path: Path) -> None:
    model = adapted(family)
    unedited, state, parts = logits_of(model), state_of(model), anatomy_of_everything(model)
    {**EDITS, "wohk": wohk}[method](HOLDERS[edits](model), family)
    edited = logits_of(model)
    assert not equal(edited, unedited)
    assert equal(logits_of(model.get_base_model()), edited), "whichever of the two is called"
    said = [holder(model).generate(**inputs_of(*PROMPTS), generation_config=plan()) for holder in HOLDERS.values()]
    assert torch.equal(*said)

    model.save_edits(tmp_path)
    other = adapted(family)
    rollback = load_edits(HOLDERS[loads](other), tmp_path)
    assert equal(logits_of(other), edited)
    rollback()
    assert equal(logits_of(other), unedited)
    assert same_tensors(state_of(other), state)
    assert anatomy_of_everything(other) == parts


def test_edits_are_of_the_model_with_its_adapters(tmp_path: Path) -> None:
    """Without them, with others, or with them switched off, it is another model."""
    model = adapted("llama")
    both_apart(model, "llama")
    model.save_edits(tmp_path)
    others, off, merged = adapted("llama"), adapted("llama"), adapted("llama").merge_and_unload()
    with torch.no_grad():
        next(p for name, p in others.named_parameters() if "lora_B" in name).add_(1)
    off.base_model.disable_adapter_layers()
    for other in (build_model("llama"), others, off, merged):
        with pytest.raises(RunError, match="fingerprints differ"):
            load_edits(other, tmp_path)
    assert model_fingerprint(model) == model_fingerprint(adapted("llama").get_base_model())


def test_an_edit_sees_what_the_adapter_adds() -> None:
    """Its layer is the projection with its adapters, by the name that it has without PEFT."""
    model, name = adapted("llama"), FAMILIES["llama"][1]
    path, module = find_module(model, name)
    assert path == "model.layers.2.mlp.down_proj"
    assert module is model.get_base_model().model.layers[2].mlp.down_proj
    assert module.base_layer is not module
    anatomy = anatomy_of(model)
    assert anatomy is not None
    for family in PROJECTIONS:
        plain, with_adapters = (anatomy_of(one) for one in (build_model(family), adapted(family)))
        assert plain is not None
        assert with_adapters is not None
        assert mlp_of(with_adapters.blocks[1]) == mlp_of(plain.blocks[1]) is not None


def test_statistics_are_of_the_model_with_its_adapters(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the capital of France is Paris and the old king wrote Hamlet\n\n" * 40)
    options = {"mom2_dataset": str(text), "mom2_n_tokens": 200}
    moments = [
        second_moments(model, build_tokenizer(), hparams_for("llama", **options, stats_dir=str(tmp_path / folder)))
        for model, folder in [
            (build_model("llama"), "plain"),
            (adapted("llama"), "adapted"),
            (adapted("llama").get_base_model(), "adapted"),  # reads what was collected
        ]
    ]
    assert list(moments[0]) == list(moments[1]) == list(moments[2])
    last = list(moments[0])[-1]
    assert not torch.equal(moments[0][last].moment, moments[1][last].moment)
    assert torch.equal(moments[1][last].moment, moments[2][last].moment)
    with pytest.raises(CovarianceError, match="other second moments"):
        second_moments(
            adapted("llama"), build_tokenizer(), hparams_for("llama", **options, stats_dir=str(tmp_path / "plain"))
        )


def test_learned_prompts_are_refused() -> None:
    """Prompt tuning puts tokens in front that no edit can know of."""
    base = build_model("llama")
    model = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    parts = anatomy_of_everything(model)
    hparams = GraceHyperParams(model_name="tiny", inner_params=[FAMILIES["llama"][1]], n_iter=2)
    with pytest.raises(EditError, match="learned tokens"):
        apply_grace_to_model(model, build_tokenizer(), [{"prompt": PROMPTS[0], "target_new": "Rome"}], hparams)
    assert anatomy_of_everything(model) == parts
