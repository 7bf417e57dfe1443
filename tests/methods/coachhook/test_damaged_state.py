"""Loading a damaged CoachHook state, or one of another model or other settings, is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from easyedit_lifelong.edits import step_files
from easyedit_lifelong.edits.edits_folder import INDEX
from easyedit_lifelong.edits.step_files import write_step
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor
from easyedit_lifelong.methods.edit_stores import EditsPart
from tests.support.coachhook_edits import attributes_and_hooks_of, equal_states, hparams_for
from tests.support.coachhook_states import edited_and_saved
from tests.support.state_folders import change_index, load_state
from tests.support.tiny_models import build_model, state_of


def damage_index(**changes: Any) -> Any:
    def damage(folder: Path) -> Path:
        change_index(folder, **changes)
        return folder / INDEX

    return damage


def remove_index(folder: Path) -> Path:
    (folder / INDEX).unlink()
    return folder / INDEX


def declare_newer_format(folder: Path) -> Path:
    change_index(folder, resign=False, format_version=99)
    return folder / INDEX


def remove_first_step(folder: Path) -> Path:
    path = step_files.step_file(folder, 1)
    path.unlink()
    return path


def rewrite_last_step(folder: Path, change: Any) -> Path:
    """Change the last step, and write it with digests that fit."""
    (first, last), _ = step_files.read_steps(folder, {})
    batch, tensors = dict(last.state["batches"][0]), dict(last.tensors)
    state = change({"templates": last.state["templates"], "batches": [batch]}, batch, tensors)
    digest = write_step(step_files.step_file(folder, 1), first, "")
    write_step(step_files.step_file(folder, 2), EditsPart({}, last.edits, state, tensors), digest)
    return folder


def change_last_batch(**changes: Any) -> Any:
    def change(state: dict[str, Any], batch: dict[str, Any], tensors: Any) -> dict[str, Any]:
        kept = {name: value for name, value in {**batch, **changes}.items() if value is not None}
        return {**state, "batches": [kept]}

    return lambda folder: rewrite_last_step(folder, change)


def change_last_state(**changes: Any) -> Any:
    def change(state: dict[str, Any], batch: Any, tensors: Any) -> dict[str, Any]:
        return {name: value for name, value in {**state, **changes}.items() if value is not None}

    return lambda folder: rewrite_last_step(folder, change)


def change_shapes(folder: Path) -> Path:
    def change(state: dict[str, Any], batch: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        tensors.update({name: torch.zeros(3, 2) for name in tensors})
        return state

    return rewrite_last_step(folder, change)


def write_index_text(text: str) -> Any:
    def damage(folder: Path) -> Path:
        (folder / INDEX).write_text(text)
        return folder / INDEX

    return damage


def change_last_file(change: Any) -> Any:
    def damage(folder: Path) -> Path:
        path = step_files.step_file(folder, 2)
        change(path)
        return path

    return damage


def flip_one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Any] = {
    "index missing": remove_index,
    "index empty": write_index_text(""),
    "index truncated": write_index_text('{"format_version": 1, "method": "CoachHook", "bat'),
    "index is a list": write_index_text("[]"),
    "index is a number": write_index_text("3"),
    "part of another method": damage_index(parts=[{"method": "GRACE", "hparams": {}}]),
    "two parts": damage_index(parts=[{"method": "CoachHook", "hparams": {}}] * 2),
    "no parts": damage_index(parts=None),
    "parts are a number": damage_index(parts=3),
    "no model": damage_index(model=None),
    "batches are a number": change_last_state(batches=3),
    "no batches": change_last_state(batches=None),
    "batch is a text": change_last_state(batches=["x"]),
    "no templates": change_last_state(templates=None),
    "empty templates": change_last_state(templates=[]),
    "newer format version": declare_newer_format,
    "another model": damage_index(model={"name": "tiny", "fingerprint": "0" * 64}),
    "batch without alphas": change_last_batch(alphas=None),
    "batch without ordinary": change_last_batch(ordinary=None),
    "ordinary of an unedited layer": change_last_batch(ordinary={"model.layers.3.mlp.down_proj": 1.0}),
    "batch without edits": change_last_batch(edits=None),
    "alphas of an unedited layer": change_last_batch(alphas={"model.layers.3.mlp.down_proj": 1.0}),
    "step file truncated": change_last_file(lambda path: path.write_bytes(path.read_bytes()[:-100])),
    "step file missing": remove_first_step,
    "step file of other bytes": change_last_file(lambda path: path.write_bytes(b"garbage")),
    "step file with foreign tensors": change_last_file(lambda path: save_file({"x": torch.zeros(2)}, path)),
    "a flipped bit in a step file": change_last_file(flip_one_bit),
    "step file of another step": change_last_file(
        lambda path: path.write_bytes(step_files.step_file(path.parent, 1).read_bytes())
    ),
    "tensors of other shapes": change_shapes,
}
"""By name: a function that damages a state folder and returns the path that the error must name."""


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_refused_with_its_path_and_leaves_the_model_unchanged(tmp_path: Path, damage: str) -> None:
    _, tokenizer, hparams = edited_and_saved(tmp_path)
    damaged_path = DAMAGES[damage](tmp_path)
    model = build_model("llama")
    state, modules = state_of(model), attributes_and_hooks_of(model)
    with pytest.raises(RunError) as caught:
        load_state(model, tokenizer, hparams, tmp_path)
    assert str(damaged_path) in str(caught.value)
    assert CoachHookEditor.of(model) is None
    assert attributes_and_hooks_of(model) == modules
    assert equal_states(state_of(model), state)


def test_a_state_of_a_newer_format_says_to_update(tmp_path: Path) -> None:
    _, tokenizer, hparams = edited_and_saved(tmp_path)
    declare_newer_format(tmp_path)
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
def test_a_state_of_other_settings_is_refused_with_the_setting(tmp_path: Path, name: str, value: Any) -> None:
    _, tokenizer, _ = edited_and_saved(tmp_path)
    model = build_model("llama")
    with pytest.raises(RunError, match=rf"{INDEX}: was made with {name}="):
        load_state(model, tokenizer, hparams_for("llama", **{name: value}), tmp_path)
    assert CoachHookEditor.of(model) is None


def test_a_state_of_other_weights_is_refused(tmp_path: Path) -> None:
    _, tokenizer, hparams = edited_and_saved(tmp_path)
    model = build_model("llama")
    with torch.no_grad():
        model.lm_head.weight[3, 4] += 1e-3
    with pytest.raises(RunError, match="other weights"):
        load_state(model, tokenizer, hparams, tmp_path)


def test_an_edited_model_loads_no_state_and_stays_as_it_is(tmp_path: Path) -> None:
    model, tokenizer, hparams = edited_and_saved(tmp_path)
    before = state_of(model)
    with pytest.raises(RunError, match="carries CoachHook edits already"):
        load_state(model, tokenizer, hparams, tmp_path)
    assert equal_states(state_of(model), before)
