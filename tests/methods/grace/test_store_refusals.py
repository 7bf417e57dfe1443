"""Folders of GRACE's edits that can't be loaded: damaged ones, and those of another run, model or setting."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from easyedit_lifelong.edits.edits_folder import INDEX
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.grace.editor import GraceEditor
from tests.support.state_folders import change_hparams, change_index, load_state
from tests.support.stored_grace_edits import edited, edited_and_saved, flip_bit, hparams_for, loaded
from tests.support.tiny_models import build_model, build_tokenizer

FIRST, SECOND, THIRD = (f"step-{n:06d}.safetensors" for n in (1, 2, 3))


def change_fingerprint(folder: Path) -> None:
    change_index(folder, model={"name": "tiny", "fingerprint": "0" * 64})


def change_method(folder: Path) -> None:
    change_index(folder, parts=[{"method": "CoachHook", "hparams": {}}])


DAMAGES = {
    "index is no JSON": (lambda f: (f / INDEX).write_text("{"), "edits.json: isn't the index of saved edits"),
    "index is a list": (lambda f: (f / INDEX).write_text("[]"), "edits.json: isn't the index of saved edits"),
    "changed index": (lambda f: change_index(f, resign=False, saved="now"), "edits.json: has been changed"),
    "another method": (change_method, "edits.json: isn't the index of a run's GRACE edits"),
    "newer format": (
        lambda f: change_index(f, resign=False, format_version=4),
        "has format version 4; this package knows",
    ),
    "index without model": (lambda f: change_index(f, model=None), "edits.json: lacks 'model'"),
    "index without hyperparameters": (
        lambda f: change_index(f, parts=[{"method": "GRACE"}]),
        "edits.json: lacks 'hparams'",
    ),
    "another model": (change_fingerprint, "with other weights than this"),
    "another layer": (lambda f: change_hparams(f, inner_params=["model.layers.1"]), "with inner_params=['model.lay"),
    "another eps": (lambda f: change_hparams(f, eps=9.0), "was made with eps=9.0; now it is 3.0"),
    "missing step": (lambda f: (f / SECOND).unlink(), "step-000002.safetensors: can't be read"),
    "truncated step": (lambda f: (f / THIRD).write_bytes(b"\x10"), "000003.safetensors: can't be read"),
    "flipped bit in a step": (lambda f: flip_bit(f / THIRD, -5), "step-000003.safetensors: has been changed"),
    "another step in its place": (
        lambda f: (f / SECOND).write_bytes((f / THIRD).read_bytes()),
        "step-000002.safetensors: has been changed, or doesn't follow the step before it",
    ),
    "safetensors of something else": (
        lambda f: save_file({"x": torch.zeros(1)}, f / FIRST),
        "step-000001.safetensors: can't be",
    ),
}
"""What happened to a folder, and what the error says."""


@pytest.fixture(scope="module")
def saved_edits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved-edits")
    edited_and_saved(folder)
    return folder


@pytest.fixture
def copied_edits(tmp_path: Path, saved_edits: Path) -> Path:
    """A copy of the saved edits that a test may change."""
    for path in saved_edits.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_folder_that_cannot_be_used_is_refused_with_its_path(
    copied_edits: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(copied_edits)
    model = build_model("llama")
    with pytest.raises(RunError, match=re.escape(message)) as caught:
        load_state(model, build_tokenizer(), hparams_for(), copied_edits)
    assert str(copied_edits) in str(caught.value)
    assert not GraceEditor.all_of(model), "a failed load left edits on the model"


def test_files_with_other_names_than_steps_are_ignored(copied_edits: Path) -> None:
    (copied_edits / "step-abc.safetensors").write_bytes(b"mine")
    model = build_model("llama")
    load_state(model, build_tokenizer(), hparams_for(), copied_edits)
    assert GraceEditor.all_of(model)


def test_edits_that_differ_from_the_journals_cases_are_refused(saved_edits: Path) -> None:
    with pytest.raises(RunError, match=r"step-000002.* is the edit of case case 1, but edit 2 of the run's journal"):
        loaded(saved_edits, ["case 0", "case 7"])
    with pytest.raises(RunError, match=r"step-000007\.safetensors: can't be read"):
        loaded(saved_edits, [f"case {n}" for n in range(7)])


def test_another_model_and_an_edited_model_are_refused(saved_edits: Path) -> None:
    with pytest.raises(RunError, match="with other weights than this"):
        load_state(build_model("gpt2"), build_tokenizer(), hparams_for(), saved_edits)
    model, _, _ = edited(0)
    with pytest.raises(RunError, match="carries GRACE edits already"):
        load_state(model, build_tokenizer(), hparams_for(), saved_edits)
