"""Edits saved to a folder and loaded, in this and in another process: bitwise the same, and removable."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model, load_edits, save_edits
from easyedit_lifelong.edits.edits_folder import INDEX, TENSORS
from easyedit_lifelong.errors import EditError, RunError
from easyedit_lifelong.folder_lock import LOCK
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor, coachhook_editor
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.models.prompt_positions import prompt_lengths
from tests.support import load_in_new_process, subject_edits, thoroughness
from tests.support.architectures import ARCHITECTURES
from tests.support.coachhook_edits import (
    FACTS,
    OTHERS,
    attributes_and_hooks_of,
    equal_states,
    hparams_for,
    moments_for,
    requests_for,
)
from tests.support.format_1 import FOLDER, TOKENS, formula_model
from tests.support.saved_edits import METHODS, coachhook, equal, grace, grace_and_coachhook, logits_of
from tests.support.tiny_models import FAMILIES, build_model, build_tokenizer, state_of

SAVED_FAMILIES = sorted(FAMILIES) if thoroughness.full else ["gpt2", "llama"]


@pytest.fixture(scope="module")
def results_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Save every method's edits of every model; load them in another process, and return what it found."""
    home = tmp_path_factory.mktemp("table")
    expected = dict[str, tuple[torch.Tensor, dict[str, list[torch.Tensor]]]]()
    for family in SAVED_FAMILIES:
        build_model(family).save_pretrained(home / family / "base")
        expected[family] = load_in_new_process.TOKENS, {}
        for method, edit in METHODS.items():
            model = load_in_new_process.unedited_model(home, family)
            edit(model, family)
            model.save_edits(home / family / method)
            expected[family][1][method] = load_in_new_process.answers_of_model(model, load_in_new_process.TOKENS)
    for name, architecture in ARCHITECTURES.items():
        model, tokenizer = architecture.build()
        model.save_pretrained(home / name / "base")
        prompts = [request["prompt"] for request in architecture.requests]
        tokens = tokenizer(prompts, return_tensors="pt", padding=True)["input_ids"]
        model = load_in_new_process.unedited_model(home, name)
        apply_grace_to_model(model, tokenizer, architecture.requests, architecture.hparams(n_iter=5))
        model.save_edits(home / name / "GRACE")
        expected[name] = tokens, {"GRACE": load_in_new_process.answers_of_model(model, tokens)}
    torch.save(expected, home / "expected.pt")
    command = [sys.executable, "-m", "tests.support.load_in_new_process", str(home)]
    process = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    results: dict[str, Any] = json.loads((home / "found.json").read_text())
    return results


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *((family, method) for family in SAVED_FAMILIES for method in METHODS),
        *((name, "GRACE") for name in ARCHITECTURES),
    ],
)
def test_saved_edits_give_equal_logits_in_another_process_and_roll_back(
    results_elsewhere: dict[str, Any], name: str, method: str
) -> None:
    """The other process has no EasyEdit; logits are compared bitwise, also with the base model's after the rollback."""
    result = results_elsewhere[f"{name}/{method}"]
    if name in ARCHITECTURES:
        prompts = [request["prompt"] for request in ARCHITECTURES[name].requests]
    elif method in subject_edits.MODES:
        prompts = [str(request["prompt"]) for request in subject_edits.REQUESTS]
    else:
        prompts = [prompt for prompt, _, _ in (FACTS if method != "GRACE" else [*FACTS[1:], FACTS[0]])]
    assert result.pop("edits")[-len(prompts) :] == prompts
    assert result == {"loaded": True, "rolled back": True, "nothing left": True}


@pytest.mark.parametrize("method", METHODS)
def test_loaded_edits_give_bitwise_equal_logits_and_roll_back(tmp_path: Path, method: str) -> None:
    family = "llama"
    model = build_model(family)
    before, parts, unedited = state_of(model), attributes_and_hooks_of(model), logits_of(model)
    METHODS[method](model, family)
    edited = logits_of(model)
    assert not equal(edited, unedited)
    model.save_edits(tmp_path)

    loaded = build_model(family)
    rollback = load_edits(loaded, tmp_path)
    assert equal(logits_of(loaded), edited)
    assert equal_states(state_of(loaded), state_of(model))
    assert [edit["prompt"] for edit in rollback.results][-len(FACTS) :] == [
        edit["prompt"] for edit in json.loads((tmp_path / INDEX).read_text())["parts"][-1]["edits"]
    ][-len(FACTS) :]

    rollback()
    assert equal_states(state_of(loaded), before)
    assert attributes_and_hooks_of(loaded) == parts
    assert equal(logits_of(loaded), unedited)


def test_edits_after_loading_equal_those_on_the_original_model(tmp_path: Path) -> None:
    models = [build_model("llama"), build_model("llama")]
    grace_and_coachhook(models[0], "llama")
    save_edits(models[0], tmp_path)
    load_edits(models[1], tmp_path, build_tokenizer())
    coachhook_editor(models[1])._moments = moments_for(build_model("llama"), hparams_for("llama"))
    for model in models:
        requests = [{"case_id": 9, "prompt": OTHERS[1], "target_new": "Peru", "subject": "river"}]
        hparams = next(iter(GraceEditor.all_of(model).values())).hparams
        apply_grace_to_model(model, build_tokenizer(), requests, hparams)
        CoachHookEditor.on(model, build_tokenizer(), hparams_for("llama", alpha_z=1.0, v_num_grad_steps=4)).edit(
            requests_for(0)
        )
    assert equal_states(state_of(models[0]), state_of(models[1]))


def test_loaded_edits_can_be_undone_one_by_one(tmp_path: Path) -> None:
    model, snapshots = build_model("llama"), []
    hparams = GraceHyperParams(model_name="tiny", inner_params=[FAMILIES["llama"][1]], n_iter=8, eps=3.0)
    for n, (prompt, target, _) in enumerate([*FACTS, FACTS[0], FACTS[1]]):
        request = {"case_id": n, "prompt": prompt, "target_new": f"{target} snow" if n > 3 else target}
        apply_grace_to_model(model, build_tokenizer(), [request], hparams)
        snapshots.append(state_of(model))
    save_edits(model, tmp_path)
    loaded = build_model("llama")
    load_edits(loaded, tmp_path)
    (editor,) = GraceEditor.all_of(loaded).values()
    assert [record.case_id for record in editor.records] == list(range(6))
    for number in range(5, 0, -1):
        editor.undo_to(number)
        assert equal_states(state_of(loaded), snapshots[number - 1])


def test_saving_again_replaces_the_folder_and_a_copy_saves_its_own_edits(tmp_path: Path) -> None:
    model = build_model("llama")
    _, undo = grace(model, "llama")
    model.save_edits(tmp_path / "a")
    twin = copy.deepcopy(model)
    undo()
    assert not hasattr(model, "save_edits")
    twin.save_edits(tmp_path / "b")
    assert equal_states(load_file(tmp_path / "a" / TENSORS), load_file(tmp_path / "b" / TENSORS))
    coachhook(model, "llama")
    model.save_edits(tmp_path / "a")
    loaded = build_model("llama")
    load_edits(loaded, tmp_path / "a")
    assert GraceEditor.all_of(loaded) == {}
    assert CoachHookEditor.of(loaded) is not None
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [LOCK, INDEX, TENSORS]


def test_the_index_lists_version_methods_edits_and_hyperparameters(tmp_path: Path) -> None:
    model = build_model("llama")
    grace_and_coachhook(model, "llama")
    save_edits(model, tmp_path)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["format_version"] == 1
    assert {part["method"] for part in index["parts"]} == {"GRACE", "CoachHook"}
    first = index["parts"][0]["edits"][0]
    assert {"case_id": 0, "prompt": FACTS[0][0], "target_new": FACTS[0][1]}.items() <= first.items()
    assert first["time"].endswith("+00:00")
    assert index["parts"][0]["hparams"]["inner_params"] == [FAMILIES["llama"][1]]
    assert {"torch", "transformers"} <= index["versions"].keys()


def test_an_unedited_model_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(EditError, match="carries no edits"):
        save_edits(build_model("llama"), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_model_with_other_weights_or_with_edits_is_refused(tmp_path: Path) -> None:
    model = build_model("llama")
    grace_and_coachhook(model, "llama")
    save_edits(model, tmp_path)
    other = build_model("llama")
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    state, parts = state_of(other), attributes_and_hooks_of(other)
    with pytest.raises(RunError, match="fingerprints differ"):
        load_edits(other, tmp_path)
    with pytest.raises(EditError, match="carries GRACE edits already"):
        load_edits(model, tmp_path)
    assert equal_states(state_of(other), state)
    assert attributes_and_hooks_of(other) == parts


@pytest.mark.parametrize("method", ["GRACE", "CoachHook", "CoachHook-weighed", "subject", "late"])
def test_edits_load_in_another_dtype_without_the_weight_check(tmp_path: Path, method: str) -> None:
    model = build_model("llama")
    METHODS[method](model, "llama")
    save_edits(model, tmp_path)
    half = build_model("llama").to(torch.bfloat16)
    with pytest.raises(RunError, match="check_weights=False"):
        load_edits(half, tmp_path)
    unedited = logits_of(half)
    rollback = load_edits(half, tmp_path, check_weights=False)
    edited = logits_of(half)
    assert not equal(edited, unedited)
    assert all(torch.isfinite(logits).all() for logits in edited)
    rollback()
    assert equal(logits_of(half), unedited)


@pytest.mark.parametrize("name", ["GRACE", "CoachHook-weighed"])
def test_folders_of_format_1_give_the_recorded_logits(name: str) -> None:
    model = formula_model()
    with torch.no_grad():
        unedited = model(TOKENS).logits
        rollback = load_edits(model, FOLDER / name)
        with prompt_lengths(model, [TOKENS.shape[1]] * len(TOKENS)):
            edited = model(TOKENS).logits
        expected = [float(line) for line in (FOLDER / name / "logits.txt").read_text().split()]
        torch.testing.assert_close(edited.flatten(), torch.tensor(expected), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(edited, unedited, rtol=1e-2, atol=1e-2)
        rollback()
        assert torch.equal(model(TOKENS).logits, unedited)
