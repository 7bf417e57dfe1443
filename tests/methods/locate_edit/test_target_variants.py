"""BLUE and NAS: their definitions, the settings that are refused, and edits that are saved, loaded and rolled back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from easyedit_lifelong import AlphaEditHyperParams, NativeMemitHyperParams, load_edits, rollback_to_batch, save_edits
from easyedit_lifelong.errors import EditError, HyperParameterError, RunError
from easyedit_lifelong.methods.alphaedit.editor import AlphaEditEditor
from easyedit_lifelong.methods.locate_edit import norm_anchor, target_variants
from easyedit_lifelong.methods.locate_edit.norm_anchor import measured_anchor, scaled_targets
from easyedit_lifelong.methods.locate_edit.target_variants import AnchoredBatch, TargetVariantsEditor
from easyedit_lifelong.methods.memit.editor import MemitEditor
from easyedit_lifelong.models.runner import Runner
from easyedit_lifelong.plugins import get_plugins
from tests.support.coachhook_edits import TEMPLATES, equal_states, moments_for, requests_for
from tests.support.memit_edits import hparams_for
from tests.support.tiny_models import build_model, build_tokenizer, state_of

OPTIONS: dict[str, dict[str, Any]] = {
    "blue": {"blue": True},
    "norm_anchor": {"norm_anchor": 4.0},
    "both": {"blue": True, "norm_anchor": "auto"},
    "evolving": {"projector": "evolving"},
    "accumulate_keys": {"accumulate_keys": True},
}
PATHS = {number: f"model.layers.{number}.mlp.down_proj" for number in range(4)}


FACTS_OF_ANCHOR = 22


@pytest.fixture(autouse=True)
def few_sample_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure norm anchors on fewer facts than the package has."""
    read = norm_anchor.read_counterfact
    monkeypatch.setattr(norm_anchor, "read_counterfact", lambda path: read(path)[:FACTS_OF_ANCHOR])


def make_hparams(**options: Any) -> Any:
    """Return hyperparameters of AlphaEdit, or of MEMIT for an option that AlphaEdit lacks."""
    memit = hparams_for("llama", v_num_grad_steps=4)
    if "accumulate_keys" in options:
        return hparams_for("llama", v_num_grad_steps=4, **options)
    names = ("layers", "clamp_norm_factor", "v_weight_decay", "batch_size", "rewrite_module_tmp", "layer_module_tmp")
    values = {name: getattr(memit, name) for name in names}
    defaults = {"v_num_grad_steps": 4, "nullspace_energy": 0.5, "L2": 0.1}
    return AlphaEditHyperParams(model_name="tiny", **{**defaults, **values, **options})


def editor_on(model: Any, hparams: Any) -> TargetVariantsEditor:
    editor_class = MemitEditor if isinstance(hparams, NativeMemitHyperParams) else AlphaEditEditor
    return editor_class.on(model, build_tokenizer(), hparams, moments_for(model, hparams), TEMPLATES)


# ---------------------------------------------------------------------- BLUE


def test_blue_edits_the_first_and_the_last_layer_each_towards_its_own_targets() -> None:
    """With a key in the null space and a small λ, the output of each edited block at the subject becomes its target."""
    model = build_model("llama").double()
    hparams = make_hparams(blue=True, nullspace_energy=0.999, L2=1e-9, layers=[0, 1, 2])
    before = {number: model.get_submodule(path).weight.clone() for number, path in PATHS.items()}
    z = torch.randn(2, 2, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    editor = AlphaEditEditor.on(model, build_tokenizer(), hparams, moments_for(model, hparams), [["{}"]])
    requests = requests_for(0, 1)
    editor.edit(requests, z)
    changed = [
        number for number, path in PATHS.items() if not torch.equal(model.get_submodule(path).weight, before[number])
    ]
    assert changed == [0, 2]
    for index, request in enumerate(requests):
        words = request.prompt.split()
        ids = torch.tensor([build_tokenizer()(request.prompt)["input_ids"]])
        hidden = model(ids, output_hidden_states=True).hidden_states
        position = words.index(request.subject) - len(words)
        for layer, target in zip((0, 2), z[index], strict=True):
            torch.testing.assert_close(hidden[layer + 1][0, position], target, rtol=1e-4, atol=1e-4)


def test_blue_optimises_the_targets_of_the_last_layer_after_the_first_is_updated() -> None:
    model, hparams = build_model("llama"), make_hparams(blue=True)
    first = model.get_submodule(PATHS[0]).weight.clone()
    seen: list[tuple[int, bool]] = []
    optimise = target_variants.TargetVariantsEditor.target_vectors

    class Watched(AlphaEditEditor):
        def target_vectors(self, facts: Any, known: Any, layer: int) -> Any:
            seen.append((layer, torch.equal(model.get_submodule(PATHS[0]).weight, first)))
            return optimise(self, facts, known, layer)

    editor = Watched.on(model, build_tokenizer(), hparams, moments_for(model, hparams), TEMPLATES)
    results, _ = editor.edit(requests_for(0, 1))
    assert seen == [(0, True), (2, False)]
    assert [result.steps for result in results] == [6, 6], "three steps for each layer"


@pytest.mark.parametrize(
    ("blue", "shape", "expected"),
    [
        (True, (2, 32), r"\(requests, 2, width\), for the layers \[0, 2\]"),
        (True, (2, 3, 32), r"\(requests, 2, width\), for the layers \[0, 2\]"),
        (False, (2, 2, 32), r"\(requests, width\)"),
        (False, (2,), r"\(requests, width\)"),
    ],
)
def test_target_vectors_of_another_shape_are_refused(blue: bool, shape: tuple[int, ...], expected: str) -> None:
    model = build_model("llama")
    with pytest.raises(EditError, match=f"needs target vectors of the shape {expected}; these have the shape"):
        editor_on(model, make_hparams(blue=blue)).edit(requests_for(0, 1), torch.zeros(shape))


# ---------------------------------------------------------------------- NAS


def random_outputs(count: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Return target vectors, and outputs of a block and of its MLP."""
    generator = torch.Generator().manual_seed(3)
    z, h, v = (torch.randn(count, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    return z, h, v


def test_scaled_values_have_the_norm_of_the_anchor_and_keep_their_direction() -> None:
    z, h, v = random_outputs()
    value = v + z - h
    anchor = float(value.norm(dim=1).max())
    scaled = v + scaled_targets(z, h, v, anchor) - h
    torch.testing.assert_close(scaled.norm(dim=1), torch.full((5,), anchor, dtype=torch.float64))
    torch.testing.assert_close(scaled / anchor, value / value.norm(dim=1, keepdim=True))


def test_a_value_above_twice_the_anchor_is_not_written() -> None:
    z, h, v = random_outputs()
    norms = (v + z - h).norm(dim=1)
    anchor = float(norms.sort().values[2]) / 2 + 1e-9  # the two largest are above twice this
    torch.testing.assert_close((scaled_targets(z, h, v, anchor) - h).norm(dim=1) < 1e-12, norms > 2 * anchor)


def test_the_anchor_is_measured_on_the_base_model_before_the_first_batch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model, hparams = build_model("llama"), make_hparams(norm_anchor="auto")
    calls: list[int] = []
    measured = target_variants.measured_anchor

    def count(runner: Any, hparams: Any, layer: int) -> float:
        calls.append(layer)
        return measured(runner, hparams, layer)

    monkeypatch.setattr(target_variants, "measured_anchor", count)
    expected = measured_anchor(Runner(build_model("llama"), build_tokenizer()), hparams, 2)
    editor = editor_on(model, hparams)
    for number in range(3):
        editor.edit(requests_for(number))
    assert calls == [2]
    assert [batch.norm_anchors for batch in editor.state.batches] == [[expected]] * 3
    rollback_to_batch(model, 1)
    editor.edit(requests_for(3))
    assert editor.state.batches[-1].norm_anchors == [expected]


def output_of(model: Any, path: str, ids: Tensor) -> Tensor:
    """Return the output of a module."""
    outputs: list[Any] = []
    handle = model.get_submodule(path).register_forward_hook(lambda _, __, output: outputs.append(output))
    model(ids)
    handle.remove()
    return outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]


def test_a_measured_anchor_is_the_mean_norm_of_the_values_that_give_the_targets() -> None:
    """The norm of v* = v + δ, computed here from the target vectors of all facts but the one with the largest norm."""
    model, hparams = build_model("llama"), make_hparams()
    runner = Runner(model, build_tokenizer())
    deltas: list[Tensor] = []
    values: list[Tensor] = []
    optimise = norm_anchor.optimise_block_targets

    def with_recording(runner: Any, facts: Any, hparams: Any, layer: int) -> Any:
        found = optimise(runner, facts, hparams, layer)
        for fact, z in zip(facts, found.z, strict=True):
            ids = torch.tensor([fact.plain.prompt])
            h, v = (output_of(model, path, ids)[0, fact.plain.lookup].double() for path in ("model.layers.2", PATHS[2]))
            deltas.append((z - h).norm())
            values.append((v + z - h).norm())
        return found

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(norm_anchor, "optimise_block_targets", with_recording)
        anchor = measured_anchor(runner, hparams, 2)
    assert len(values) == FACTS_OF_ANCHOR
    assert min(deltas) > 0.01
    assert anchor == pytest.approx(float(torch.stack(values).sort().values[:-1].mean()), rel=1e-5)


# ---------------------------------------------------------------------- settings and files


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blue": True, "layers": [1]}, "blue: edits the first and the last of layers, which has only"),
        ({"blue": True, "num_layers": 2}, "num_layers: can't be given with blue"),
        ({"norm_anchor": "mean"}, "norm_anchor: 'mean' is neither a number nor 'auto'"),
        ({"norm_anchor": 0}, "norm_anchor: 0.0 must be greater than 0"),
        ({"projector": "evolving", "c0_weight": 1}, "c0_weight: needs projector: fixed"),
        ({"projector": "moving"}, "projector: 'moving' isn't one of fixed, evolving"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperParameterError, match=message):
        make_hparams(**options)


@pytest.mark.parametrize("layers", [[13, 17], [13, 14, 15, 16, 17]])
def test_blue_edits_the_same_layers_whether_its_authors_file_or_memits_names_them(layers: list[int]) -> None:
    hparams = make_hparams(blue=True, layers=layers)
    assert hparams.edited_layers == [13, 17]
    assert hparams.rewrite_modules == ["model.layers.13.mlp.down_proj", "model.layers.17.mlp.down_proj"]


@pytest.mark.parametrize("name", ["blue", "norm_anchor", "projector"])
def test_all_batches_on_a_model_share_the_options(name: str) -> None:
    model = build_model("llama")
    editor_on(model, make_hparams()).edit(requests_for(0))
    value = {"blue": True, "norm_anchor": 1.0, "projector": "evolving"}[name]
    with pytest.raises(EditError, match=f"made with {name}="):
        editor_on(model, make_hparams(**{name: value}))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_edits_that_are_saved_and_loaded_continue_as_those_that_were_not(
    options: dict[str, Any], tmp_path: Path
) -> None:
    model, hparams = build_model("llama"), make_hparams(**options)
    before = state_of(model)
    editor = editor_on(model, hparams)
    for number in range(3):
        editor.edit(requests_for(number))
    rollback_to_batch(model, 2)
    save_edits(model, tmp_path)
    loaded = build_model("llama")
    load_edits(loaded, tmp_path, build_tokenizer())
    assert equal_states(state_of(loaded), state_of(model))
    again = type(editor).require(loaded)
    again._moments = moments_for(loaded, hparams)
    assert again.state.batches[-1].norm_anchors == editor.state.batches[-1].norm_anchors
    for each in (editor, again):
        each.edit(requests_for(3))
    assert equal_states(state_of(loaded), state_of(model))
    rollback_to_batch(model, 0)
    assert equal_states(state_of(model), before)


@pytest.mark.parametrize("damaged", [[], [1.0, 2.0], ["a"], None])
def test_norm_anchors_of_another_structure_are_refused(damaged: Any, tmp_path: Path) -> None:
    model, hparams = build_model("llama"), make_hparams(norm_anchor=2.0)
    editor_on(model, hparams).edit(requests_for(0))
    store = get_plugins().methods.get("AlphaEdit").edits
    assert store is not None
    (part,) = store.parts(model)
    part.state["batches"][0]["norm_anchors"] = damaged
    with pytest.raises((RunError, EditError), match="norm_anchors"):
        store.attach(build_model("llama"), build_tokenizer(), part, "a file")


def test_a_batch_without_options_is_saved_as_before() -> None:
    model = build_model("llama")
    editor_on(model, make_hparams()).edit(requests_for(0))
    store = get_plugins().methods.get("AlphaEdit").edits
    assert store is not None
    (part,) = store.parts(model)
    assert part.state["batches"] == [{"edits": 1}]
    assert AnchoredBatch((), {}).norm_anchors == []
