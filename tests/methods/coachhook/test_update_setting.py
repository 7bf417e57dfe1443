"""CoachHook's ``update``: hook layers decide where updates act, and another method's equation can give the updates."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from easyedit_lifelong import AlphaEditHyperParams, CoachHookHyperParams, NativeMemitHyperParams
from easyedit_lifelong.errors import EditError, HyperParameterError
from easyedit_lifelong.methods.alphaedit.editor import AlphaEditEditor
from easyedit_lifelong.methods.memit.editor import MemitEditor
from tests.support.coachhook_edits import TEMPLATES, editor_on, hparams_for, moments_for, requests_for
from tests.support.tiny_models import build_model, build_tokenizer

NULL_SPACE: dict[str, Any] = {"nullspace_energy": 0.5, "L2": 0.1}
UPDATES: dict[str, tuple[dict[str, Any], Any, type, dict[str, Any]]] = {
    "memit": ({}, MemitEditor, NativeMemitHyperParams, {"accumulate_keys": True}),
    "alphaedit": ({"update": "alphaedit", **NULL_SPACE}, AlphaEditEditor, AlphaEditHyperParams, NULL_SPACE),
    "alphaedit with c0_weight": (
        {"update": "alphaedit", "c0_weight": 2.0, **NULL_SPACE},
        AlphaEditEditor,
        AlphaEditHyperParams,
        {"c0_weight": 2.0, **NULL_SPACE},
    ),
    "alphaedit, evolving": (
        {"update": "alphaedit", "projector": "evolving", **NULL_SPACE},
        AlphaEditEditor,
        AlphaEditHyperParams,
        {"projector": "evolving", **NULL_SPACE},
    ),
}
"""By name: CoachHook's settings, and the editor, the hyperparameter class and the settings of the same equation."""
SHARED = ("layers", "mom2_update_weight", "batch_size", "rewrite_module_tmp", "layer_module_tmp")


@pytest.mark.parametrize("wohk", [False, True])
@pytest.mark.parametrize("update", UPDATES)
def test_hook_layers_that_act_everywhere_hold_the_updates_of_the_method_of_that_equation(
    update: str, wohk: bool
) -> None:
    settings, editor_class, hparams_class, its_settings = UPDATES[update]
    hparams = hparams_for("llama", batch_size=4, wohk=wohk, **settings)
    hparams.alpha_z = -100.0  # hooks act at every token; files can't have an α below 0
    shared = {name: getattr(hparams, name) for name in SHARED}
    its_hparams = hparams_class(model_name="tiny", **shared, **its_settings)
    models = [build_model("llama", torch.float64) for _ in range(2)]
    before = models[0].state_dict()
    before = {path: before[f"{path}.weight"].clone() for path in hparams.rewrite_modules}
    ours = editor_on(models[0], build_tokenizer(), hparams)
    moments = moments_for(models[1], hparams)
    theirs = editor_class.on(models[1], build_tokenizer(), its_hparams, moments, TEMPLATES)
    z = torch.randn(4, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 3
    for numbers in ([0, 1], [2], [3]):
        for editor in (ours, theirs):
            editor.edit(requests_for(*numbers), z[numbers])
    for path, weight in ours.plain_weights().items():
        change = weight - before[path.removesuffix(".weight")]
        expected = theirs.plain_weights()[path] - before[path.removesuffix(".weight")]
        largest = float(expected.abs().max())
        assert largest > 0.01
        torch.testing.assert_close(change, expected, rtol=0, atol=1e-8 * largest)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nullspace_threshold", 0.5),
        ("nullspace_energy", 0.2),
        ("L2", 1),
        ("c0_weight", 1),
        ("projector", "evolving"),
    ],
)
def test_settings_of_the_null_space_need_the_update_that_uses_them(name: str, value: Any) -> None:
    with pytest.raises(HyperParameterError, match=f"{name}: needs update: alphaedit"):
        hparams_for("llama", **{name: value})
    hparams = hparams_for("llama", update="alphaedit", **{name: value})
    assert getattr(hparams, name) == value
    assert CoachHookHyperParams(**hparams.to_dict()) == hparams


def test_an_unknown_update_is_refused() -> None:
    with pytest.raises(HyperParameterError, match="update: 'alpha' isn't one of memit, alphaedit"):
        hparams_for("llama", update="alpha")


def test_all_batches_on_a_model_have_the_same_update() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    editor_on(model, tokenizer, hparams_for("llama", v_num_grad_steps=2)).edit(requests_for(0))
    with pytest.raises(EditError, match="made with update='memit'; they can't be continued with update='alphaedit'"):
        editor_on(model, tokenizer, hparams_for("llama", update="alphaedit"))
