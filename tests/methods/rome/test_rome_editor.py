"""The editor of the native ROME: what its updates do, and how it differs from its authors' and EasyEdit's code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml

from easyedit_lifelong import EditError, HyperParameterError, NativeRomeHyperParams, apply_rome_to_model, get_plugins
from easyedit_lifelong.covariance import SecondMoment
from easyedit_lifelong.methods.locate_edit import editor as editing
from easyedit_lifelong.methods.locate_edit.editing_passes import EditingPasses
from easyedit_lifelong.methods.rome.editor import RomeEditor
from tests.support.coachhook_edits import FACTS, TEMPLATES, attributes_and_hooks_of, moments_for, requests_for
from tests.support.easyedit_memit import NAMES
from tests.support.failing_calls import damage_nth_call, nans
from tests.support.tiny_models import build_model, build_tokenizer, state_of

LAYOUT = {name: NAMES["llama"][name] for name in ("rewrite_module_tmp", "layer_module_tmp")}
TARGETS = torch.randn(4, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
ONE_GROUP = [[template for group in TEMPLATES for template in group]]

EASYEDIT_FILE = """
alg_name: "ROME"
model_name: "./hugging_cache/some-model"
stats_dir: "./data/stats"
device: 0
layers: [5]
fact_token: "subject_last"
v_num_grad_steps: 25
v_lr: 5e-1
v_loss_layer: 31
v_weight_decay: 1e-3
clamp_norm_factor: 4
kl_factor: 0.0625
mom2_adjustment: false
context_template_length_params: [[5, 10], [10, 10]]
rewrite_module_tmp: "model.layers.{}.mlp.down_proj"
layer_module_tmp: "model.layers.{}"
mlp_module_tmp: "model.layers.{}.mlp"
attn_module_tmp: "model.layers.{}.self_attn"
ln_f_module: "model.norm"
lm_head_module: "lm_head"
mom2_dataset: "wikipedia"
mom2_n_samples: 100000
mom2_dtype: "float32"
model_parallel: false
fp16: true
"""
"""A file with every key of EasyEdit's ROME."""


def hparams_for(**options: Any) -> NativeRomeHyperParams:
    values = {"layers": [1], "v_num_grad_steps": 4, "context_template_length_params": [[4, 2]], **LAYOUT, **options}
    return NativeRomeHyperParams(model_name="tiny", **values)


def unedited(**options: Any) -> tuple[Any, RomeEditor]:
    """Return a model in float64 and its editor, with second moments of random keys."""
    model, hparams = build_model("llama", torch.float64), hparams_for(**options)
    moments = moments_for(model, hparams) if hparams.mom2_adjustment else None
    return model, RomeEditor.on(model, build_tokenizer(), hparams, moments, ONE_GROUP)


def projection_at(model: Any, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the input and the output of the edited projection at the last token of a text."""
    seen: list[torch.Tensor] = []
    handle = model.model.layers[1].mlp.down_proj.register_forward_hook(
        lambda _, args, output: seen.extend((args[0][0, -1].detach().clone(), output[0, -1].detach().clone()))
    )
    with torch.no_grad():
        model(**build_tokenizer()(text, return_tensors="pt"))
    handle.remove()
    return seen[0], seen[1]


def up_to_subject(number: int) -> str:
    prompt, _, subject = FACTS[number]
    return prompt[: prompt.index(subject) + len(subject)]


@pytest.mark.parametrize("adjusted", [True, False])
def test_each_request_of_a_call_gets_the_rank_one_update_of_the_paper(adjusted: bool) -> None:
    """EasyEdit's ROME edits the first request of a call only."""
    model, editor = unedited(mom2_adjustment=adjusted)
    weight = model.model.layers[1].mlp.down_proj.weight
    expected = weight.detach().clone()
    moment = moments_for(model, editor.hparams)[editor.state.paths[0]].moment.double()
    for number in range(len(FACTS)):  # the keys are below the edited weight, so they do not depend on earlier edits
        contexts = [template.replace("{}", up_to_subject(number)) for template in ONE_GROUP[0]]
        key = torch.stack([projection_at(model, context)[0] for context in contexts]).mean(0)
        plain_key, _ = projection_at(model, up_to_subject(number))
        u = torch.linalg.solve(moment, key) if adjusted else key
        expected += torch.outer(TARGETS[number] - expected @ plain_key, u) / (plain_key @ u)
    results, _ = editor.edit(requests_for(), TARGETS)
    assert [result.detail["batch"] for result in results] == [1, 2, 3, 4]
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(projection_at(model, up_to_subject(3))[1], TARGETS[3], rtol=1e-7, atol=1e-7)


def test_a_target_vector_is_optimised_with_the_earlier_edits_in_place() -> None:
    requests = requests_for(0, 3)
    together, one_by_one = unedited(layers=[0]), unedited(layers=[0])
    together[1].edit(requests)
    for request in requests:
        one_by_one[1].edit([request])
    first, second = (state_of(model) for model, _ in (together, one_by_one))
    assert all(torch.equal(first[name], second[name]) for name in first)
    _, alone = unedited(layers=[0])
    alone.edit(requests[1:])
    residual = [editor.state.batches[-1].layers[editor.state.paths[0]].residual for editor in (alone, together[1])]
    assert not torch.allclose(*residual)


def test_second_moments_belong_to_an_editor_and_not_to_the_models_name() -> None:
    """The authors' code keeps the inverse of a layer by the name of the model, whatever it was computed from."""
    _, first = unedited()
    first.edit(requests_for(0), TARGETS[:1])
    model, hparams = build_model("llama", torch.float64), hparams_for()
    moments = {
        path: SecondMoment(2 * torch.eye(48) - moment.moment / moment.moment.norm(), moment.count, "a test")
        for path, moment in moments_for(model, hparams).items()
    }
    second = RomeEditor.on(model, build_tokenizer(), hparams, moments, ONE_GROUP)
    second.edit(requests_for(0), TARGETS[:1])
    (path,) = hparams.rewrite_modules
    adjusted = [editor.state.batches[0].layers[path].adjusted[:, 0] for editor in (first, second)]
    assert float(torch.nn.functional.cosine_similarity(*adjusted, dim=0)) < 0.99


def test_generated_contexts_are_one_group_of_the_models_own() -> None:
    hparams = hparams_for(context_template_length_params=[[4, 2], [6, 3]])
    groups = [RomeEditor.make_templates(build_model(name), build_tokenizer(), hparams) for name in ("llama", "gpt2")]
    assert [[len(group) for group in templates] for templates in groups] == [[6], [6]]
    assert groups[0][0][0] == groups[1][0][0] == "{}"
    assert groups[0] != groups[1]


def test_no_second_moments_are_collected_without_mom2_adjustment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editing, "second_moments", lambda *_: pytest.fail("second moments were collected"))
    model, tokenizer, hparams = build_model("llama"), build_tokenizer(), hparams_for(mom2_adjustment=False)
    prepare = get_plugins().methods.get("ROME-native").prepare
    assert prepare is not None
    assert prepare(model, tokenizer, hparams, None) == {}
    before = state_of(model)
    _, rollback = apply_rome_to_model(model, tokenizer, requests_for(0, 1), hparams)
    assert not all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    rollback()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("damaged", [0, 1, 2], ids=["k*", "k", "output"])
def test_an_edit_that_is_not_finite_leaves_no_trace(damaged: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, editor = unedited()
    before = state_of(model)

    def damage(values: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(nans(value) if index == damaged else value for index, value in enumerate(values))

    damaged_call = damage_nth_call(EditingPasses.keys_and_plain_values, 2, damage)
    monkeypatch.setattr(EditingPasses, "keys_and_plain_values", damaged_call)
    with pytest.raises(EditError):
        editor.edit(requests_for(0, 1), TARGETS[:2])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert attributes_and_hooks_of(model) == attributes_and_hooks_of(build_model("llama", torch.float64))
    assert not editor.state.batches


def test_a_key_without_a_component_along_u_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _, editor = unedited(mom2_adjustment=False)
    original = EditingPasses.keys_and_plain_values
    monkeypatch.setattr(
        EditingPasses,
        "keys_and_plain_values",
        lambda self, module: tuple(
            value * (index != 1)
            for index, value in enumerate(original(self, module))  # the plain key is 0
        ),
    )
    with pytest.raises(EditError, match=r"case 0.*no component along u"):
        editor.edit(requests_for(0), TARGETS[:1])


def test_easyedits_file_loads_once_its_name_is_changed() -> None:
    values = {**yaml.safe_load(EASYEDIT_FILE), "alg_name": "ROME-native"}
    hparams = NativeRomeHyperParams.from_values(values, "a test")
    assert hparams.edited_layers == [5]
    assert not hparams.mom2_adjustment
    assert hparams.dtype == "float16"
    assert NativeRomeHyperParams.from_values(hparams.to_dict(), "a test") == hparams


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [1, 2]}, r"layers: \[1, 2\] must be a single block"),
        ({"batch_size": 2}, "batch_size: 2 must be 1, since ROME edits one fact at a time"),
        ({"fp16": True, "dtype": "bfloat16"}, "fp16: true contradicts dtype 'bfloat16'"),
    ],
)
def test_settings_that_rome_does_not_have_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperParameterError, match=message):
        hparams_for(**options)
