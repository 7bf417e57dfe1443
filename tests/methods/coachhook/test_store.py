"""CoachHook's state in a run's folder: saved after each batch, loaded bitwise, continued and rolled back."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong.edits import state_folder, step_files
from easyedit_lifelong.edits.edits_folder import INDEX
from easyedit_lifelong.errors import LifelongError, RunError
from easyedit_lifelong.methods.coachhook.editor import coachhook_editor
from tests.support.coachhook_edits import TEMPLATES, editor_on, equal_states, hparams_for, moments_for, requests_for
from tests.support.coachhook_states import edited_and_saved, save_state, unedited
from tests.support.state_folders import load_state, state_keeper
from tests.support.tiny_models import build_model, build_tokenizer, state_of


def tensor_files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != INDEX}


@pytest.mark.parametrize(
    "options",
    [{}, {"wohk": True}, {"scope_score": "weighed", "alpha_z": 1.0}],
    ids=["hooks", "without hooks", "weighed scores"],
)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_loaded_state_equals_the_saved_one_and_so_do_later_edits(
    tmp_path: Path, family: str, options: dict[str, Any]
) -> None:
    model, tokenizer, hparams = edited_and_saved(tmp_path, (0, 1), (2,), family=family, **options)
    loaded = build_model(family)
    load_state(loaded, tokenizer, hparams, tmp_path)
    assert equal_states(state_of(loaded), state_of(model))
    editor, loaded_editor = coachhook_editor(model), coachhook_editor(loaded)
    assert loaded_editor.alphas == editor.alphas
    assert loaded_editor.state.templates == editor.state.templates == TEMPLATES
    assert [batch.case_ids for batch in loaded_editor.state.batches] == [(0, 1), (2,)]
    loaded_editor._moments = moments_for(build_model(family), hparams)
    for each in (editor, loaded_editor):
        each.edit(requests_for(3))
    assert equal_states(state_of(loaded), state_of(model))
    assert loaded_editor.alphas == editor.alphas
    for path, accumulated in editor._solvers.items():
        assert torch.equal(loaded_editor._solvers[path].matrix(), accumulated.matrix())


def test_a_loaded_state_keeps_earlier_prompts_in_scope_at_later_edits(tmp_path: Path) -> None:
    options = {"alpha_model": "edited", "alpha_prompts": "all", "z_tokens": "others", "alpha_z": 50.0, "batch_size": 1}
    model, tokenizer, hparams = edited_and_saved(tmp_path, (0,), (1,), **options)
    loaded = build_model("llama")
    load_state(loaded, tokenizer, hparams, tmp_path)
    coachhook_editor(loaded)._moments = moments_for(build_model("llama"), hparams)
    for each in (model, loaded):
        coachhook_editor(each).edit(requests_for(2, 3))
    assert coachhook_editor(loaded).alphas == coachhook_editor(model).alphas
    assert equal_states(state_of(loaded), state_of(model))


def test_edits_after_loading_more_keys_than_dimensions_equal_those_without_loading(tmp_path: Path) -> None:
    # A layer has 48 dimensions and gets 52 keys, so that they are folded into the factor of C_accu.
    model, tokenizer, hparams = unedited(batch_size=4, layers=[1])
    editor = editor_on(model, tokenizer, hparams)
    for _ in range(13):
        editor.edit(requests_for())
    save_state(model, tmp_path)
    loaded = build_model("llama")
    load_state(loaded, tokenizer, hparams, tmp_path)
    coachhook_editor(loaded)._moments = moments_for(build_model("llama"), hparams)
    for each in (model, loaded):
        coachhook_editor(each).edit(requests_for())
    assert equal_states(state_of(loaded), state_of(model))


def test_a_loaded_state_is_saved_again_unchanged_and_its_edits_are_rolled_back(tmp_path: Path) -> None:
    model, tokenizer, hparams = edited_and_saved(tmp_path / "first")
    loaded = build_model("llama")
    before = state_of(loaded)
    load_state(loaded, tokenizer, hparams, tmp_path / "first")
    save_state(loaded, tmp_path / "again")
    (saved, digest), (resaved, new_digest) = (step_files.read_steps(tmp_path / name, {}) for name in ("first", "again"))
    assert new_digest == digest
    assert [(part.edits, part.state) for part in resaved] == [(part.edits, part.state) for part in saved]
    indexes = [json.loads((tmp_path / name / INDEX).read_text()) for name in ("first", "again")]
    assert indexes[0]["parts"] == indexes[1]["parts"]
    assert indexes[0]["model"] == indexes[1]["model"]
    coachhook_editor(loaded)._moments = moments_for(build_model("llama"), hparams)
    _, undo = coachhook_editor(loaded).edit(requests_for(0))
    undo()
    assert equal_states(state_of(loaded), state_of(model))
    assert not equal_states(state_of(loaded), before)


def test_saving_again_writes_the_new_batch_only(tmp_path: Path) -> None:
    model, tokenizer, hparams = unedited()
    editor = editor_on(model, tokenizer, hparams)
    editor.edit(requests_for(0))
    save_state(model, tmp_path)
    (first_file,) = tensor_files_in(tmp_path)
    written = (tmp_path / first_file).stat()
    editor.edit(requests_for(1))
    save_state(model, tmp_path)
    assert (tmp_path / first_file).stat() == written
    assert len(tensor_files_in(tmp_path)) == 2
    load_state(build_model("llama"), tokenizer, hparams, tmp_path)


def test_saving_removes_the_files_of_rolled_back_batches(tmp_path: Path) -> None:
    model, tokenizer, hparams = unedited()
    editor = editor_on(model, tokenizer, hparams)
    _, undo_first = editor.edit(requests_for(0))
    _, undo_second = editor.edit(requests_for(1))
    save_state(model, tmp_path)
    both_files = tensor_files_in(tmp_path)
    undo_second()
    save_state(model, tmp_path)
    assert len(tensor_files_in(tmp_path)) == 1
    assert tensor_files_in(tmp_path) < both_files
    undo_first()
    save_state(model, tmp_path)
    assert not tensor_files_in(tmp_path)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_save_killed_before_or_after_writing_a_step_leaves_the_state_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    model, tokenizer, hparams = unedited()
    editor = editor_on(model, tokenizer, hparams)
    editor.edit(requests_for(0))
    save_state(model, tmp_path)
    before = state_of(model)
    editor.edit(requests_for(1))
    write = step_files.write_step

    def killed(*arguments: Any) -> str:
        if moment == "after":
            write(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(state_folder, "write_step", killed)
        with pytest.raises(KeyboardInterrupt):
            save_state(model, tmp_path)
    loaded = build_model("llama")
    load_state(loaded, tokenizer, hparams, tmp_path, [0])  # the cases that the journal lists
    assert equal_states(state_of(loaded), before)
    save_state(model, tmp_path)
    load_state(build_model("llama"), tokenizer, hparams, tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors", ".safetensors"]


def test_a_folder_that_cannot_be_written_is_refused_with_its_path(tmp_path: Path) -> None:
    model, _, _ = edited_and_saved(tmp_path / "state", (0,))
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=f"{tmp_path / 'file'}"):
        save_state(model, tmp_path / "file")


def test_the_state_keeper_tells_edited_models_from_unedited_ones(tmp_path: Path) -> None:
    model, _, _ = edited_and_saved(tmp_path)
    assert state_keeper("CoachHook").carries(model)
    assert not state_keeper("CoachHook").carries(build_model("llama"))


@pytest.mark.parametrize("wohk", [False, True])
def test_second_moments_after_loading_are_those_of_the_unedited_model(
    tmp_path: Path, wohk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Edited weights (without hooks) or validated hooks would change the statistics.
    _, tokenizer, hparams = edited_and_saved(tmp_path, wohk=wohk)
    model, unedited_state = build_model("llama"), state_of(build_model("llama"))
    inputs = tokenizer(requests_for(0)[0].prompt, return_tensors="pt")
    unedited_logits = build_model("llama")(**inputs).logits
    unchanged: list[bool] = []

    def obtain(model: Any, *_: Any, **__: Any) -> Any:
        now = state_of(model)
        unchanged.append(all(torch.equal(now[name], tensor) for name, tensor in unedited_state.items()))
        unchanged.append(torch.equal(model(**inputs).logits, unedited_logits))
        return moments_for(model, hparams)

    monkeypatch.setattr("easyedit_lifelong.methods.shared.second_moments.obtain_moments", obtain)
    load_state(model, tokenizer, hparams, tmp_path)
    before = copy.deepcopy(state_of(model))
    _, undo = coachhook_editor(model).edit(requests_for(0))
    assert unchanged
    assert all(unchanged)
    undo()
    assert equal_states(state_of(model), before)


def test_a_state_holds_json_and_safetensors_only_and_is_refused_by_another_family(tmp_path: Path) -> None:
    edited_and_saved(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    with pytest.raises(LifelongError):
        load_state(build_model("gpt2"), build_tokenizer(), hparams_for("gpt2"), tmp_path)
