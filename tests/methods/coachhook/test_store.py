"""CoachHook's state on disk: whole, bit by bit, and an error for everything else."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from easyedit_lifelong.edits import state_folder, step_files
from easyedit_lifelong.edits.edits_folder import INDEX
from easyedit_lifelong.edits.step_files import write_step
from easyedit_lifelong.errors import LifelongError, RunError
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor, coachhook_editor
from easyedit_lifelong.methods.edit_stores import EditsPart
from tests.support import state_folders
from tests.support.coachhook_edits import (
    TEMPLATES,
    anatomy_of_everything,
    editor_on,
    hparams_for,
    moments_for,
    requests_for,
    same_tensors,
)
from tests.support.state_folders import change_index, keeper, load_state
from tests.support.tiny_models import build_model, build_tokenizer, state_of


def save_state(model: Any, folder: Path) -> None:
    state_folders.save_state(model, folder, "CoachHook")


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
    (one, digest), (two, other_digest) = (step_files.read_steps(tmp_path / name, {}) for name in ("a", "b"))
    assert digest == other_digest
    assert [(part.edits, part.state) for part in one] == [(part.edits, part.state) for part in two]
    indexes = [json.loads((tmp_path / name / INDEX).read_text()) for name in ("a", "b")]
    assert indexes[0]["parts"] == indexes[1]["parts"]
    assert indexes[0]["model"] == indexes[1]["model"]
    coachhook_editor(other)._moments = moments_for(build_model("llama"), hparams)
    _, undo = coachhook_editor(other).edit(requests_for(0))
    undo()
    assert same_tensors(state_of(other), state_of(model))
    assert not same_tensors(before, state_of(other))


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


@pytest.mark.parametrize("stage", ["before", "after"])
def test_a_save_that_is_killed_leaves_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    model, tokenizer, hparams = start()
    editor = editor_on(model, tokenizer, hparams)
    editor.edit(requests_for(0))
    save_state(model, tmp_path)
    before = state_of(model)
    editor.edit(requests_for(1))
    real = step_files.write_step

    def killed(*arguments: Any) -> str:
        if stage == "after":
            real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(state_folder, "write_step", killed)
        with pytest.raises(KeyboardInterrupt):
            save_state(model, tmp_path)
    other = build_model("llama")
    load_state(other, tokenizer, hparams, tmp_path, [0])  # what the journal lists
    assert same_tensors(state_of(other), before)
    save_state(model, tmp_path)  # and the next one mends it
    load_state(build_model("llama"), tokenizer, hparams, tmp_path)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".safetensors", ".safetensors"]


def test_a_folder_that_cant_be_written_is_named(tmp_path: Path) -> None:
    model, _, _ = stored(tmp_path / "state", (0,))
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=f"{tmp_path / 'file'}"):
        save_state(model, tmp_path / "file")


def spoil_index(**changes: Any) -> Any:
    def spoil(folder: Path) -> Path:
        change_index(folder, **changes)
        return folder / INDEX

    return spoil


def rewrite_last(folder: Path, change: Any) -> Path:
    """Write the last step again, changed, with digests that fit."""
    (first, last), _ = step_files.read_steps(folder, {})
    batch, tensors = dict(last.state["batches"][0]), dict(last.tensors)
    state = change({"templates": last.state["templates"], "batches": [batch]}, batch, tensors)
    digest = write_step(step_files.step_file(folder, 1), first, "")
    write_step(step_files.step_file(folder, 2), EditsPart({}, last.edits, state, tensors), digest)
    return folder


def in_batches(**changes: Any) -> Any:
    def change(state: dict[str, Any], batch: dict[str, Any], tensors: Any) -> dict[str, Any]:
        kept = {name: value for name, value in {**batch, **changes}.items() if value is not None}
        return {**state, "batches": [kept]}

    return lambda folder: rewrite_last(folder, change)


def in_state(**changes: Any) -> Any:
    def change(state: dict[str, Any], batch: Any, tensors: Any) -> dict[str, Any]:
        return {name: value for name, value in {**state, **changes}.items() if value is not None}

    return lambda folder: rewrite_last(folder, change)


def other_shapes(folder: Path) -> Path:
    def change(state: dict[str, Any], batch: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        tensors.update({name: torch.zeros(3, 2) for name in tensors})
        return state

    return rewrite_last(folder, change)


def write(text: str) -> Any:
    def spoil(folder: Path) -> Path:
        (folder / INDEX).write_text(text)
        return folder / INDEX

    return spoil


def in_last_file(change: Any) -> Any:
    def spoil(folder: Path) -> Path:
        path = step_files.step_file(folder, 2)
        change(path)
        return path

    return spoil


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


BROKEN: dict[str, Any] = {
    "not there": lambda folder: [(folder / INDEX).unlink(), folder / INDEX][1],
    "empty": write(""),
    "cut off": write('{"format_version": 1, "method": "CoachHook", "bat'),
    "a list": write("[]"),
    "a number": write("3"),
    "another's": spoil_index(parts=[{"method": "GRACE", "hparams": {}}]),
    "two parts": spoil_index(parts=[{"method": "CoachHook", "hparams": {}}] * 2),
    "no parts": spoil_index(parts=None),
    "parts of another kind": spoil_index(parts=3),
    "no model": spoil_index(model=None),
    "batches of another kind": in_state(batches=3),
    "no batches": in_state(batches=None),
    "batch of another kind": in_state(batches=["x"]),
    "no templates": in_state(templates=None),
    "newer": lambda folder: [change_index(folder, resign=False, format_version=99), folder / INDEX][1],
    "another model": spoil_index(model={"name": "tiny", "fingerprint": "0" * 64}),
    "batch without alphas": in_batches(alphas=None),
    "batch without ordinary": in_batches(ordinary=None),
    "ordinary of nobody's": in_batches(ordinary={"model.layers.3.mlp.down_proj": 1.0}),
    "batch without edits": in_batches(edits=None),
    "other layers": in_batches(alphas={"model.layers.3.mlp.down_proj": 1.0}),
    "file truncated": in_last_file(lambda path: path.write_bytes(path.read_bytes()[:-100])),
    "file gone": lambda folder: [step_files.step_file(folder, 1).unlink(), step_files.step_file(folder, 1)][1],
    "file garbage": in_last_file(lambda path: path.write_bytes(b"garbage")),
    "file of others": in_last_file(lambda path: save_file({"x": torch.zeros(2)}, path)),
    "a flipped bit": in_last_file(flip),
    "swapped files": in_last_file(lambda path: path.write_bytes(step_files.step_file(path.parent, 1).read_bytes())),
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
    change_index(tmp_path, resign=False, format_version=99)
    with pytest.raises(RunError, match=r"format version 99; .*Update"):
        load_state(build_model("llama"), tokenizer, hparams, tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers", [1, 2]),
        ("num_layers", 2),
        ("alpha_z", 1.5),
        ("wohk", True),
        ("mom2_update_weight", 2.0),
        ("fact_token", "last"),
        ("mom2_n_tokens", 7),
    ],
)
def test_other_settings_are_named(tmp_path: Path, name: str, value: Any) -> None:
    _, tokenizer, _ = stored(tmp_path)
    model = build_model("llama")
    with pytest.raises(RunError, match=rf"{INDEX}: was made with {name}="):
        load_state(model, tokenizer, hparams_for("llama", **{name: value}), tmp_path)
    assert CoachHookEditor.of(model) is None


def test_whether_a_model_carries_edits(tmp_path: Path) -> None:
    model, _, _ = stored(tmp_path)
    assert keeper("CoachHook").carries(model)
    assert not keeper("CoachHook").carries(build_model("llama"))


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

    monkeypatch.setattr("easyedit_lifelong.methods.shared.second_moments.obtain_moments", obtain)
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
