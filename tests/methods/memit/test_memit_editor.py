"""The native MEMIT: what it writes, and that it can be rolled back, stored and continued bitwise."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import (
    apply_memit_to_model,
    export_model,
    inspect_edits,
    load_edits,
    merge_edits,
    rollback_case,
    rollback_folder,
    rollback_to_batch,
    run_consecutive,
    save_edits,
)
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.edits.parts import read_edits
from easyedit_lifelong.errors import DataError, EditError, ModelError, RunError
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor
from easyedit_lifelong.methods.locate_edit import editor as editing
from easyedit_lifelong.methods.locate_edit.edited_layers import EditedLayers
from easyedit_lifelong.methods.locate_edit.moments import second_moments
from easyedit_lifelong.methods.locate_edit.passes import EditingPasses
from easyedit_lifelong.methods.locate_edit.update import AccumulatedKeys, LayerUpdate
from easyedit_lifelong.methods.memit.editor import MemitEditor
from easyedit_lifelong.plugins import get_plugins
from tests.support.coachhook_edits import (
    FACTS,
    LEARNABLE,
    TEMPLATES,
    anatomy_of_everything,
    moments_for,
    requests_for,
    same_tensors,
)
from tests.support.coachhook_edits import editor_on as coachhook_on
from tests.support.coachhook_edits import hparams_for as coachhook_hparams
from tests.support.memit_edits import editor_on, hparams_for
from tests.support.registry import replace_method
from tests.support.state_folders import load_state, save_state
from tests.support.tiny_models import build_model, build_tokenizer, state_of

Z = torch.randn(4, 32, generator=torch.Generator().manual_seed(2)) * 3
"""Target vectors of the four facts."""


@pytest.fixture
def given_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editing, "second_moments", lambda model, _, hparams: moments_for(model, hparams))


def start(family: str = "llama", **options: Any) -> tuple[Any, Any, Any]:
    return build_model(family), build_tokenizer(), hparams_for(family, v_num_grad_steps=4, **options)


def edited(*batches: tuple[int, ...], family: str = "llama", **options: Any) -> Any:
    model, tokenizer, hparams = start(family, **options)
    for numbers in batches or ((0, 1), (2, 3)):
        editor_on(model, tokenizer, hparams).edit(requests_for(*numbers), Z[list(numbers)])
    return model


# ------------------------------------------------------------------ what it writes


def hidden(model: Any, prompts: list[str], module: str, side: str) -> list[torch.Tensor]:
    """A module's input or output at every token of each prompt, one prompt at a time."""
    seen: list[torch.Tensor] = []

    def look(_: Any, args: Any, output: Any) -> None:
        value = args[0] if side == "in" else output[0] if isinstance(output, tuple) else output
        seen.append(value[0].detach().clone())

    handle = model.get_submodule(module).register_forward_hook(look)
    with torch.no_grad():
        for prompt in prompts:
            model(**build_tokenizer()(prompt, return_tensors="pt"))
    handle.remove()
    return seen


def plain_memit(model: Any, hparams: Any, numbers: tuple[int, ...], moments: Any) -> None:
    """MEMIT, section 4.3, as one reads it, in a model of whole words."""
    facts = [FACTS[number] for number in numbers]
    block = hparams.layer_module_tmp.format(hparams.layers[-1])
    for index, path in enumerate(hparams.rewrite_modules):
        keys = []
        for prompt, _, subject in facts:
            cut = prompt[: prompt.index(subject) + len(subject)]
            means = [
                torch.stack([x[-1] for x in hidden(model, [t.replace("{}", cut) for t in group], path, "in")]).mean(0)
                for group in TEMPLATES
            ]
            keys.append(torch.stack(means).mean(0))
        k = torch.stack(keys, dim=1)
        cuts = [prompt[: prompt.index(subject) + len(subject)] for prompt, _, subject in facts]
        h = torch.stack([x[-1] for x in hidden(model, cuts, block, "out")], dim=1)
        r = (Z[list(numbers)].double().t() - h) / (len(hparams.layers) - index)
        delta = r @ k.t() @ torch.linalg.inv(hparams.mom2_update_weight * moments[path].moment.double() + k @ k.t())
        weight = model.get_submodule(path).weight
        with torch.no_grad():
            weight += delta if weight.shape == delta.shape else delta.t()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_papers_update_batch_after_batch_without_the_keys_of_earlier_ones(family: str) -> None:
    model, tokenizer, hparams = start(family)
    model.double()
    plain = copy.deepcopy(model)
    moments = moments_for(model, hparams)
    for numbers in ((0, 1), (2, 3)):
        MemitEditor.on(model, tokenizer, hparams, moments, TEMPLATES).edit(requests_for(*numbers), Z[list(numbers)])
        plain_memit(plain, hparams, numbers, moments)
    before = state_of(build_model(family).double())
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weight, rtol=1e-6, atol=1e-8)
    changed = [name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])]
    assert changed == [f"{path}.weight" for path in hparams.rewrite_modules]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_edit_is_learned_and_generated(family: str, dtype: torch.dtype) -> None:
    model, tokenizer = build_model(family, dtype), build_tokenizer()
    prompt, target, subject = LEARNABLE
    hparams = hparams_for(family, layers=[2], mom2_update_weight=1e-3, v_num_grad_steps=30)
    results, _ = editor_on(model, tokenizer, hparams).edit([EditRequest(0, prompt, target, subject)])
    assert results[0].learned
    assert results[0].detail["batch"] == 1
    if family == "gemma2":
        return  # it normalises what its MLP returns
    answer = model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=1, do_sample=False)
    assert tokenizer.decode(answer[0, -1:]) == target


def test_plain_memit_stays_easyedits() -> None:
    methods = get_plugins().methods
    assert "MEMIT" not in methods
    method = get_plugins().method_for(hparams_for("llama"))
    assert method is methods.get("MEMIT-native")
    assert method.batchable
    assert get_plugins().method_for(coachhook_hparams("llama")) is methods.get("CoachHook")


# ------------------------------------------------------------------ all or nothing, and back


def test_rollback_is_bitwise_and_leaves_nothing_behind(family: str, given_moments: None) -> None:
    model, tokenizer, hparams = start(family)
    state, parts = state_of(model), anatomy_of_everything(model)
    result, rollback = apply_memit_to_model(model, tokenizer, requests_for(), hparams)
    assert result is model
    assert [one.case_id for one in rollback.results] == [0, 1, 2, 3]
    assert not same_tensors(state_of(model), state)
    for _ in range(2):
        rollback()
        assert same_tensors(state_of(model), state)
    assert anatomy_of_everything(model) == parts


def test_a_copy_is_edited_and_rolled_back_alone(given_moments: None) -> None:
    model, tokenizer, hparams = start()
    state = state_of(model)
    other, rollback = apply_memit_to_model(model, tokenizer, requests_for(0), hparams, copy=True)
    assert same_tensors(state_of(model), state)
    twin, twins_rollback = copy.deepcopy((other, rollback))
    twins_rollback()
    assert same_tensors(state_of(twin), state)
    assert not same_tensors(state_of(other), state)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_batches_are_rolled_back_from_the_last(family: str) -> None:
    model, tokenizer, hparams = start(family)
    editor = editor_on(model, tokenizer, hparams)
    states, ways_back = [state_of(model)], []
    for number in range(4):
        ways_back.append(editor.edit(requests_for(number))[1])
        states.append(state_of(model))
    with pytest.raises(EditError, match="later MEMIT-native batches"):
        ways_back[1]()
    ways_back[3]()
    assert same_tensors(state_of(model), states[3])
    rollback_to_batch(model, 1)
    assert same_tensors(state_of(model), states[1])
    with pytest.raises(EditError, match="no going back to batch 2"):
        rollback_to_batch(model, 2)
    with pytest.raises(EditError, match="can't be taken back one by one"):
        rollback_case(model, 0)
    ways_back[0]()
    assert same_tensors(state_of(model), states[0])
    assert MemitEditor.of(model) is None
    with pytest.raises(EditError, match=r"get a new one with MemitEditor\.on"):
        editor.edit(requests_for(0))


def nans(tensor: torch.Tensor) -> torch.Tensor:
    return torch.full_like(tensor, float("nan"))


def killed(_: Any) -> Any:
    raise KeyboardInterrupt


STAGES: dict[str, tuple[Any, str, int, Any]] = {
    "the second layer's keys": (EditingPasses, "keys_and_outputs", 2, lambda found: (nans(found[0]), found[1])),
    "the last layer's residual": (EditingPasses, "keys_and_outputs", 3, lambda found: (found[0], nans(found[1]))),
    "the second batch's solve": (AccumulatedKeys, "solve", 5, nans),
    "the second batch's last layer": (EditedLayers, "apply", 6, killed),
    "the second batch's target vectors": (editing, "optimise_targets", 2, killed),
}


@pytest.mark.parametrize("before", [(), (3,)])
@pytest.mark.parametrize("stage", STAGES)
def test_a_batch_that_fails_leaves_no_trace(
    stage: str, before: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer, hparams = start(batch_size=1)
    if before:
        editor_on(model, tokenizer, hparams).edit(requests_for(*before))
    state, parts = state_of(model), anatomy_of_everything(model)
    owner, name, call, spoil = STAGES[stage]
    original, calls = getattr(owner, name), [0]

    def spoiled(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        calls[0] += 1
        return spoil(found) if calls[0] == call else found

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, spoiled)
        with pytest.raises((EditError, KeyboardInterrupt)):
            editor_on(model, tokenizer, hparams).edit(requests_for(0, 1))
    assert same_tensors(state_of(model), state)
    assert anatomy_of_everything(model) == parts
    editor_on(model, tokenizer, hparams).edit(requests_for(0, 1))
    other = build_model("llama")
    if before:
        editor_on(other, tokenizer, hparams).edit(requests_for(*before))
    editor_on(other, tokenizer, hparams).edit(requests_for(0, 1))
    assert same_tensors(state_of(model), state_of(other))


def test_what_cannot_be_edited_is_named() -> None:
    model, tokenizer, hparams = start()
    with pytest.raises(ModelError, match="layers: there is no block 9; the last one is 3"):
        MemitEditor.on(model, tokenizer, hparams_for("llama", layers=[1, 9]))
    check_requests = get_plugins().methods.get("MEMIT-native").check_requests
    assert check_requests is not None
    with pytest.raises(DataError, match=r"record 7 .*field 'subject': is missing"):
        check_requests(model, tokenizer, hparams, [EditRequest(7, "who wrote Hamlet", "Peru", source="record 7")])
    with pytest.raises(ModelError, match="MEMIT-native edits causal language models"):
        MemitEditor.on(torch.nn.Linear(2, 2), tokenizer, hparams)


# ------------------------------------------------------------------ beside other methods


@pytest.mark.parametrize("coachhook_leaves_first", [False, True])
@pytest.mark.parametrize("coachhook_first", [False, True])
def test_beside_the_hook_layers_of_the_same_projections(coachhook_first: bool, coachhook_leaves_first: bool) -> None:
    model, tokenizer, hparams = start()
    state, parts = state_of(model), anatomy_of_everything(model)

    def with_hooks() -> Any:
        return coachhook_on(model, tokenizer, coachhook_hparams("llama", v_num_grad_steps=4)).edit(requests_for(0))[1]

    def with_memit() -> Any:
        return editor_on(model, tokenizer, hparams).edit(requests_for(1))[1]

    if coachhook_first:
        no_hooks, no_memit = with_hooks(), with_memit()
    else:
        no_memit, no_hooks = with_memit(), with_hooks()
    for leave in [no_hooks, no_memit] if coachhook_leaves_first else [no_memit, no_hooks]:
        leave()
    assert same_tensors(state_of(model), state)
    assert anatomy_of_everything(model) == parts


def test_two_methods_cannot_write_into_the_same_weights() -> None:
    """The first to be rolled back would take the other's edits with it."""
    model, tokenizer, hparams = start()
    editor_on(model, tokenizer, hparams).edit(requests_for(0))
    state, parts = state_of(model), anatomy_of_everything(model)
    with pytest.raises(EditError, match=r"weights of model.layers.0.mlp.down_proj carry MEMIT-native edits already"):
        coachhook_on(model, tokenizer, coachhook_hparams("llama", wohk=True))
    assert CoachHookEditor.of(model) is None
    assert same_tensors(state_of(model), state)
    assert anatomy_of_everything(model) == parts
    coachhook_on(model, tokenizer, coachhook_hparams("llama", wohk=True, layers=[3])).edit(requests_for(1))


def test_in_other_weights_both_are_rolled_back_in_any_order_and_get_the_unedited_models_moments(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[bool] = []
    bare = state_of(build_model("llama"))

    def obtain(model: Any, _: Any, paths: Any, **__: Any) -> Any:
        now = state_of(model)
        seen.append(all(torch.equal(now[name], tensor) for name, tensor in bare.items()))
        return {path: moment for path, moment in moments_for(model, hparams_for("llama")).items() if path in paths}

    monkeypatch.setattr("easyedit_lifelong.methods.shared.second_moments.obtain_moments", obtain)
    model, tokenizer, hparams = start(layers=[0, 1], context_template_length_params=[])
    undo = MemitEditor.on(model, tokenizer, hparams).edit(requests_for(0))[1]
    wohk = coachhook_hparams("llama", layers=[2], wohk=True, context_template_length_params=[])
    CoachHookEditor.on(model, tokenizer, wohk).edit(requests_for(1))
    second_moments(model, tokenizer, wohk)  # as a run does before its first edit
    assert seen == [True, True, True]
    edited_here = state_of(model)
    save_edits(model, tmp_path / "both")
    other = build_model("llama")
    load_edits(other, tmp_path / "both")
    assert same_tensors(state_of(other), edited_here)
    undo()
    save_edits(model, tmp_path / "one")  # made on weights that held other edits, and still the unedited model's
    load_edits(build_model("llama"), tmp_path / "one")
    rollback_to_batch(model, 0)
    assert same_tensors(state_of(model), bare)


def test_below_the_hooks_of_another_method(given_moments: None) -> None:
    model, tokenizer, hparams = start(layers=[0, 1])
    hooks = coachhook_hparams("llama", layers=[2], context_template_length_params=[])
    coachhook_on(model, tokenizer, hooks).edit(requests_for(0))
    hooked = state_of(model)
    result, undo = editor_on(model, tokenizer, hparams).edit(requests_for(1))
    assert result[0].steps > 0 and not same_tensors(state_of(model), hooked)
    undo()
    assert same_tensors(state_of(model), hooked)


# ------------------------------------------------------------------ half precision


def test_small_updates_add_up_in_half_precision() -> None:
    module = torch.nn.Linear(16, 16, bias=False, dtype=torch.bfloat16)
    layers = EditedLayers({"l": module}, "a test")
    before, unedited = layers.tensors(), module.weight.detach().clone()
    residual, adjusted = torch.full((16, 1), 1e-2), torch.full((16, 1), 1e-2)
    for _ in range(100):  # each far below what bfloat16 can add to a weight of 0.1
        layers.apply("l", LayerUpdate(adjusted, adjusted, residual))
    torch.testing.assert_close(module.weight.detach(), (unedited.float() + 1e-2).to(torch.bfloat16))
    layers.restore(before)
    assert torch.equal(module.weight, unedited)


def test_a_weight_that_somebody_else_changed_is_edited_as_it_is() -> None:
    module = torch.nn.Linear(2, 2, bias=False, dtype=torch.bfloat16)
    layers, update = EditedLayers({"l": module}, "a test"), LayerUpdate(*[torch.ones(2, 1)] * 3)
    layers.apply("l", update)
    module.weight.data.fill_(3)
    layers.apply("l", update)
    assert module.weight.unique().tolist() == [4]


# ------------------------------------------------------------------ on disk


@pytest.mark.parametrize("templates", [None, "{}", [["no place"]], ["{}"], [[1]]])
def test_damaged_templates_are_refused(tmp_path: Path, given_moments: None, templates: Any) -> None:
    save_edits(edited((0,)), tmp_path)
    (name, part) = read_edits(tmp_path).parts[0]
    part.state["templates"] = templates
    model = build_model("llama")
    with pytest.raises(RunError, match="templates is missing or damaged"):
        get_plugins().methods.get(name).edits.attach(model, None, part, "a file")  # type: ignore[union-attr]
    assert MemitEditor.of(model) is None


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_saved_edits_load_bitwise_and_are_continued(family: str, tmp_path: Path, given_moments: None) -> None:
    model = edited(family=family)
    save_edits(model, tmp_path / "edits")
    other, tokenizer, hparams = start(family)
    before = state_of(other)
    rollback = load_edits(other, tmp_path / "edits", tokenizer)
    assert same_tensors(state_of(other), state_of(model))
    for one in (model, other):
        MemitEditor.on(one, tokenizer, hparams).edit(requests_for(0))
    assert same_tensors(state_of(other), state_of(model))
    rollback_to_batch(other, 2)
    rollback()
    assert same_tensors(state_of(other), before)


def test_a_run_killed_and_resumed_ends_the_same(tmp_path: Path, given_moments: None) -> None:
    tokenizer, hparams = build_tokenizer(), hparams_for("llama", v_num_grad_steps=4, batch_size=1)
    hparams.context_template_length_params = [[5, 2]]

    class Impatient:
        def edited(self, done: int, scores: Mapping[str, float]) -> None:
            if done == 2:
                raise KeyboardInterrupt

    def run(**options: Any) -> Any:
        return run_consecutive(build_model("llama"), tokenizer, requests_for(), hparams, retention=[], **options)

    with pytest.MonkeyPatch.context() as patch:  # a run prepares the statistics, which are not needed here
        replace_method(patch, "MEMIT-native", prepare=None)
        whole = run(out=tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            run(out=tmp_path / "run", progress=Impatient())
        resumed = run(out=tmp_path / "run", resume=True)
    assert resumed.metrics == whole.metrics
    assert same_tensors(state_of(resumed.edited_model), state_of(whole.edited_model))
    assert [entry["status"] for entry in resumed.journal] == ["edited"] * 4
    loaded = build_model("llama")
    load_edits(loaded, tmp_path / "run" / "state")
    assert same_tensors(state_of(loaded), state_of(whole.edited_model))


def test_folders_can_be_inspected_cut_and_not_merged(tmp_path: Path) -> None:
    save_edits(edited(), tmp_path / "edits")
    (part,) = inspect_edits(tmp_path / "edits").parts
    assert (part.method, part.layers) == ("MEMIT-native", [f"model.layers.{n}.mlp.down_proj" for n in range(3)])
    assert part.batches == [{"edits": 2}, {"edits": 2}]
    assert [edit["batch"] for edit in part.edits] == [1, 1, 2, 2]
    assert part.settings == {"mom2_update_weight": 1.0}
    rollback_folder(tmp_path / "edits", batch=1, out=tmp_path / "first")
    model = build_model("llama")
    load_edits(model, tmp_path / "first")
    assert same_tensors(state_of(model), state_of(edited((0, 1))))
    with pytest.raises(EditError, match="already; roll those back first"):
        load_edits(model, tmp_path / "edits", check_weights=False)
    with pytest.raises(RunError, match="can't be merged: every batch"):
        merge_edits([tmp_path / "edits", tmp_path / "first"], tmp_path / "merged")


def test_an_export_is_the_edited_model(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = edited()
    export = export_model(model, build_tokenizer(), tmp_path / "out")
    assert export.lost == ()
    assert export.edits == {"MEMIT-native": 4}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert same_tensors(state_of(loaded), state_of(model))


def test_edits_of_another_shape_are_refused(tmp_path: Path) -> None:
    store = get_plugins().methods.get("MEMIT-native").edits
    assert store is not None
    (part,) = store.parts(edited((0,)))
    model = build_model("llama")
    state = state_of(model)
    tensors = {name: tensor[:5] for name, tensor in part.tensors.items()}
    with pytest.raises(RunError, match=r"here: MEMIT-native's edits don't fit this model: .*but its weight has"):
        store.attach(model, None, type(part)(part.hparams, part.edits, part.state, tensors), "here")
    assert same_tensors(state_of(model), state)
    assert MemitEditor.of(model) is None


def test_other_settings_refuse_to_resume(tmp_path: Path) -> None:
    save_state(edited(), tmp_path, "MEMIT-native")
    model, tokenizer, _ = start()
    with pytest.raises(RunError, match=r"made with mom2_update_weight=1.0; now it is 2.0"):
        load_state(model, tokenizer, hparams_for("llama", mom2_update_weight=2.0), tmp_path)
    load_state(model, tokenizer, hparams_for("llama", v_lr=0.1), tmp_path, [0, 1])
    assert same_tensors(state_of(model), state_of(edited((0, 1))))
