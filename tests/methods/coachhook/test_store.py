"""CoachHook's state on disk: whole, bit by bit, and an error for everything else."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from easyedit_lifelong.errors import LifelongError, RunError
from easyedit_lifelong.methods.coachhook import store
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor, coachhook_editor
from easyedit_lifelong.methods.coachhook.store import INDEX, CoachHookKeeper, load_state, save_state
from tests.conftest import build_model, build_tokenizer, state_of
from tests.methods.coachhook.support import (
    TEMPLATES,
    anatomy_of_everything,
    editor_on,
    hparams_for,
    moments_for,
    requests_for,
    same_tensors,
)


def start(family: str = "llama", **options: Any) -> tuple[Any, Any, Any]:
    return build_model(family), build_tokenizer(), hparams_for(family, v_num_grad_steps=4, **options)


def stored(folder: Path, *batches: tuple[int, ...], **options: Any) -> tuple[Any, Any, Any]:
    model, tokenizer, hparams = start(**options)
    editor = editor_on(model, tokenizer, hparams)
    for numbers in batches or ((0, 1), (2, 3)):
        editor.edit(requests_for(*numbers))
    save_state(model, folder)
    return model, tokenizer, hparams


def tensors_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != INDEX}


@pytest.mark.parametrize("options", [{}, {"wohk": True}, {"scope_score": "weighed", "alpha_z": 1.0}])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_is_loaded_is_what_was_saved_and_goes_on_the_same(
    tmp_path: Path, family: str, options: dict[str, Any]
) -> None:
    model, tokenizer, hparams = stored(tmp_path, (0, 1), (2,), family=family, **options)
    other = build_model(family)
    load_state(other, tokenizer, hparams, tmp_path)
    assert same_tensors(state_of(other), state_of(model))
    one, two = coachhook_editor(model), coachhook_editor(other)
    assert two.alphas == one.alphas
    assert two.state.templates == one.state.templates == TEMPLATES
    assert [batch.case_ids for batch in two.state.batches] == [(0, 1), (2,)]
    two._moments = moments_for(build_model(family), hparams)
    for editor in (one, two):
        editor.edit(requests_for(3))
    assert same_tensors(state_of(other), state_of(model))
    assert two.alphas == one.alphas
    for path, accumulated in one._solvers.items():
        assert torch.equal(two._solvers[path].matrix(), accumulated.matrix())


def test_earlier_prompts_are_kept_in_scope_after_loading_too(tmp_path: Path) -> None:
    options = {"alpha_model": "edited", "alpha_prompts": "all", "z_tokens": "others", "alpha_z": 50.0, "batch_size": 1}
    model, tokenizer, hparams = stored(tmp_path, (0,), (1,), **options)
    other = build_model("llama")
    load_state(other, tokenizer, hparams, tmp_path)
    coachhook_editor(other)._moments = moments_for(build_model("llama"), hparams)
    for one in (model, other):
        coachhook_editor(one).edit(requests_for(2, 3))
    assert coachhook_editor(other).alphas == coachhook_editor(model).alphas
    assert same_tensors(state_of(other), state_of(model))


def test_more_keys_than_dimensions_go_on_the_same(tmp_path: Path) -> None:
    # 48 dimensions: C_accu is folded on the way, in both runs at the same place.
    model, tokenizer, hparams = start(batch_size=4, layers=[1])
    editor = editor_on(model, tokenizer, hparams)
    for _ in range(13):
        editor.edit(requests_for())
    save_state(model, tmp_path)
    other = build_model("llama")
    load_state(other, tokenizer, hparams, tmp_path)
    coachhook_editor(other)._moments = moments_for(build_model("llama"), hparams)
    for one in (model, other):
        coachhook_editor(one).edit(requests_for())
    assert same_tensors(state_of(other), state_of(model))


def test_a_loaded_state_can_be_saved_again_and_taken_back(tmp_path: Path) -> None:
    model, tokenizer, hparams = stored(tmp_path / "a")
    other = build_model("llama")
    before = state_of(other)
    load_state(other, tokenizer, hparams, tmp_path / "a")
    save_state(other, tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        if file.name != INDEX:
            assert (tmp_path / "b" / file.name).read_bytes() == file.read_bytes()
    assert json.loads((tmp_path / "b" / INDEX).read_text()) == json.loads((tmp_path / "a" / INDEX).read_text())
    coachhook_editor(other)._moments = moments_for(build_model("llama"), hparams)
    _, undo = coachhook_editor(other).edit(requests_for(0))
    undo()
    assert same_tensors(state_of(other), state_of(model))
    assert not same_tensors(before, state_of(other))


def test_no_edits_are_a_state_too(tmp_path: Path) -> None:
    model, tokenizer, hparams = start()
    CoachHookKeeper().save(model, tmp_path)
    before = anatomy_of_everything(model)
    CoachHookKeeper().load(model, tokenizer, hparams, tmp_path)
    assert anatomy_of_everything(model) == before


def test_a_run_writes_each_batch_once(tmp_path: Path) -> None:
    model, tokenizer, hparams = start()
    editor = editor_on(model, tokenizer, hparams)
    editor.edit(requests_for(0))
    save_state(model, tmp_path)
    (first,) = tensors_in(tmp_path)
    written = (tmp_path / first).stat()
    editor.edit(requests_for(1))
    save_state(model, tmp_path)
    assert (tmp_path / first).stat() == written
    assert len(tensors_in(tmp_path)) == 2
    load_state(build_model("llama"), tokenizer, hparams, tmp_path)


def test_batches_that_were_taken_back_go_from_the_folder(tmp_path: Path) -> None:
    model, tokenizer, hparams = start()
    editor = editor_on(model, tokenizer, hparams)
    _, undo_first = editor.edit(requests_for(0))
    _, undo = editor.edit(requests_for(1))
    save_state(model, tmp_path)
    both = tensors_in(tmp_path)
    undo()
    save_state(model, tmp_path)
    assert len(tensors_in(tmp_path)) == 1
    assert tensors_in(tmp_path) < both
    undo_first()
    save_state(model, tmp_path)
    assert not tensors_in(tmp_path)


@pytest.mark.parametrize("stage", ["save_file", "replace_text"])
def test_a_save_that_is_killed_leaves_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    model, tokenizer, hparams = start()
    editor = editor_on(model, tokenizer, hparams)
    editor.edit(requests_for(0))
    save_state(model, tmp_path)
    before = state_of(model)
    editor.edit(requests_for(1))
    real = getattr(store, stage)

    def killed(first: Any, second: Any) -> None:
        if stage == "save_file":
            real(first, second)  # whole, but under its temporary name
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, stage, killed)
        with pytest.raises(KeyboardInterrupt):
            save_state(model, tmp_path)
    other = build_model("llama")
    load_state(other, tokenizer, hparams, tmp_path)
    assert same_tensors(state_of(other), before)
    save_state(model, tmp_path)  # and the next one mends it
    load_state(build_model("llama"), tokenizer, hparams, tmp_path)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".safetensors", ".safetensors"]


def test_a_folder_that_cant_be_written_is_named(tmp_path: Path) -> None:
    model, _, _ = start()
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=f"{tmp_path / 'file'}"):
        save_state(model, tmp_path / "file")


def spoil_index(**changes: Any) -> Any:
    def spoil(folder: Path) -> Path:
        index = json.loads((folder / INDEX).read_text())
        for name, value in changes.items():
            if value is None:
                del index[name]
            else:
                index[name] = value
        (folder / INDEX).write_text(json.dumps(index))
        return folder / INDEX

    return spoil


def in_batches(**changes: Any) -> Any:
    def spoil(folder: Path) -> Path:
        index = json.loads((folder / INDEX).read_text())
        for name, value in changes.items():
            if value is None:
                del index["batches"][-1][name]
            else:
                index["batches"][-1][name] = value
        (folder / INDEX).write_text(json.dumps(index))
        return folder

    return spoil


def write(text: str) -> Any:
    def spoil(folder: Path) -> Path:
        (folder / INDEX).write_text(text)
        return folder / INDEX

    return spoil


def last_file(folder: Path) -> Path:
    return folder / json.loads((folder / INDEX).read_text())["batches"][-1]["file"]


def truncate(folder: Path) -> Path:
    path = last_file(folder)
    path.write_bytes(path.read_bytes()[:-100])
    return path


def remove(folder: Path) -> Path:
    path = last_file(folder)
    path.unlink()
    return path


def garbage(folder: Path) -> Path:
    path = last_file(folder)
    path.write_bytes(b"garbage")
    return path


def other_tensors(folder: Path) -> Path:
    path = last_file(folder)
    save_file({"x": torch.zeros(2)}, path)
    return path


def other_shapes(folder: Path) -> Path:
    path = last_file(folder)
    index = json.loads((folder / INDEX).read_text())
    save_file(
        {f"{layer}.{name}": torch.zeros(3, 2) for layer in index["paths"] for name in ("keys", "adjusted", "residual")},
        path,
    )
    return folder


BROKEN: dict[str, Any] = {
    "not there": lambda folder: [(folder / INDEX).unlink(), folder / INDEX][1],
    "empty": write(""),
    "cut off": write('{"format_version": 1, "method": "CoachHook", "bat'),
    "a list": write("[]"),
    "a number": write("3"),
    "another's": write('{"format_version": 1, "method": "GRACE", "batches": []}'),
    "no batches": spoil_index(batches=None),
    "batches of another kind": spoil_index(batches=3),
    "batch of another kind": spoil_index(batches=["x"]),
    "no fingerprint": spoil_index(fingerprint=None),
    "no settings": spoil_index(settings=None),
    "no templates": spoil_index(templates=None),
    "a setting nobody knows": spoil_index(settings={"strange": 1}),
    "newer": spoil_index(format_version=99),
    "version of another kind": spoil_index(format_version="one"),
    "another model": spoil_index(fingerprint="0" * 64),
    "batch without file": in_batches(file=None),
    "batch without alphas": in_batches(alphas=None),
    "batch without ordinary": in_batches(ordinary=None),
    "ordinary of nobody's": in_batches(ordinary={"model.layers.3.mlp.down_proj": 1.0}),
    "batch without edits": in_batches(edits=None),
    "other layers": in_batches(alphas={"model.layers.3.mlp.down_proj": 1.0}),
    "file truncated": truncate,
    "file gone": remove,
    "file garbage": garbage,
    "file of others": other_tensors,
    "file of other shapes": other_shapes,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_folder_that_is_no_use_is_named_and_the_model_left_alone(tmp_path: Path, kind: str) -> None:
    _, tokenizer, hparams = stored(tmp_path)
    named = BROKEN[kind](tmp_path)
    model = build_model("llama")
    state, parts = state_of(model), anatomy_of_everything(model)
    with pytest.raises(RunError) as caught:
        load_state(model, tokenizer, hparams, tmp_path)
    assert str(named) in str(caught.value)
    assert CoachHookEditor.of(model) is None
    assert anatomy_of_everything(model) == parts
    assert same_tensors(state_of(model), state)


def test_a_newer_state_says_to_update(tmp_path: Path) -> None:
    _, tokenizer, hparams = stored(tmp_path)
    spoil_index(format_version=99)(tmp_path)
    with pytest.raises(RunError, match=r"format version 99; .*Update"):
        load_state(build_model("llama"), tokenizer, hparams, tmp_path)


@pytest.mark.parametrize(("name", "value"), [
    ("layers", [1, 2]), ("num_layers", 2), ("alpha_z", 1.5), ("wohk", True), ("mom2_update_weight", 2.0),
    ("fact_token", "last"), ("mom2_n_tokens", 7),
])  # fmt: skip
def test_other_settings_are_named(tmp_path: Path, name: str, value: Any) -> None:
    _, tokenizer, _ = stored(tmp_path)
    model = build_model("llama")
    with pytest.raises(RunError, match=rf"{INDEX}: was made with {name}="):
        load_state(model, tokenizer, hparams_for("llama", **{name: value}), tmp_path)
    assert CoachHookEditor.of(model) is None


def test_whether_a_model_carries_edits(tmp_path: Path) -> None:
    model, _, _ = stored(tmp_path)
    assert CoachHookKeeper().carries(model)
    assert not CoachHookKeeper().carries(build_model("llama"))


def test_another_model_is_named(tmp_path: Path) -> None:
    _, tokenizer, hparams = stored(tmp_path)
    model = build_model("llama")
    with torch.no_grad():
        model.lm_head.weight[3, 4] += 1e-3
    with pytest.raises(RunError, match="other weights"):
        load_state(model, tokenizer, hparams, tmp_path)


def test_an_edited_model_is_refused(tmp_path: Path) -> None:
    model, tokenizer, hparams = stored(tmp_path)
    before = state_of(model)
    with pytest.raises(RunError, match="carries CoachHook edits already"):
        load_state(model, tokenizer, hparams, tmp_path)
    assert same_tensors(state_of(model), before)


@pytest.mark.parametrize("wohk", [False, True])
def test_second_moments_are_had_from_the_unedited_model_after_loading(
    tmp_path: Path, wohk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On the weights, as without hooks, or with validated hooks in place, they would be other statistics.
    _, tokenizer, hparams = stored(tmp_path, wohk=wohk)
    model, bare = build_model("llama"), state_of(build_model("llama"))
    inputs = tokenizer(requests_for(0)[0].prompt, return_tensors="pt")
    logits = build_model("llama")(**inputs).logits
    seen: list[bool] = []

    def obtain(model: Any, *_: Any, **__: Any) -> Any:
        now = state_of(model)
        seen.append(all(torch.equal(now[name], tensor) for name, tensor in bare.items()))
        seen.append(torch.equal(model(**inputs).logits, logits))
        return moments_for(model, hparams)

    monkeypatch.setattr("easyedit_lifelong.methods.locate_edit.editor.second_moments", obtain)
    load_state(model, tokenizer, hparams, tmp_path)
    before = copy.deepcopy(state_of(model))
    _, undo = coachhook_editor(model).edit(requests_for(0))
    assert seen
    assert all(seen)
    undo()
    assert same_tensors(state_of(model), before)


def test_nothing_is_pickled(tmp_path: Path) -> None:
    stored(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    with pytest.raises(LifelongError):
        load_state(build_model("gpt2"), build_tokenizer(), hparams_for("gpt2"), tmp_path)
