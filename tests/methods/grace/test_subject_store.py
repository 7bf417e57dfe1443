"""Edits found by subject in a run's state folder: with their whitening, gates and radii."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from easyedit_lifelong.data.request import as_requests
from easyedit_lifelong.edits.step_files import write_step
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.methods.grace.editor import GraceEditor
from tests.support.state_folders import change_hparams, load_state, save_state
from tests.support.stored_grace_edits import assert_same_edits, edited_and_saved, flip_bit
from tests.support.subject_edits import MODES, REQUESTS, edited, hparams
from tests.support.thoroughness import default_cases
from tests.support.tiny_models import FAMILIES, build_model, build_tokenizer

FIRST, SECOND = (f"step-{n:06d}.safetensors" for n in (1, 2))


def subject_edits_saved(folder: Path, mode: str, *numbers: int) -> tuple[Any, GraceEditor]:
    """Edit the requests with these numbers (without numbers: all requests) and save the edits."""
    model = edited(mode, [REQUESTS[n] for n in numbers or range(9)], train_batch=1)
    save_state(model, folder)
    return model, editor_on(model, mode)


def editor_on(model: Any, mode: str) -> GraceEditor:
    return GraceEditor.on(model, build_tokenizer(), hparams(mode, train_batch=1))


def subject_edits_loaded(folder: Path, mode: str, case_ids: list[Any] | None = None) -> tuple[Any, GraceEditor]:
    """Load a folder's edits into an unedited model, without a corpus for second moments."""
    model = build_model("llama")
    load_state(model, build_tokenizer(), hparams(mode, train_batch=1), folder, case_ids)
    return model, editor_on(model, mode)


@pytest.mark.parametrize("count", default_cases([1, 5], 5))
@pytest.mark.parametrize("mode", MODES)
def test_a_resumed_run_has_the_edits_and_the_folder_of_an_uninterrupted_one(
    tmp_path: Path, mode: str, count: int
) -> None:
    subject_edits_saved(tmp_path, mode)
    resumed_model, resumed = subject_edits_loaded(tmp_path, mode, [f"c{n}" for n in range(count)])
    assert resumed.case_ids == [f"c{n}" for n in range(count)]
    resumed.edit(as_requests(REQUESTS[count:]))
    model, uninterrupted = subject_edits_saved(tmp_path / "uninterrupted", mode)
    assert_same_edits(resumed, uninterrupted)
    assert all(torch.equal(tensor, resumed_model.state_dict()[name]) for name, tensor in model.state_dict().items())
    save_state(resumed_model, tmp_path)
    assert_same_edits(subject_edits_loaded(tmp_path, mode)[1], uninterrupted)


def test_the_first_step_alone_holds_the_whitening(tmp_path: Path) -> None:
    model, editor = subject_edits_saved(tmp_path, "late", 0, 1)
    editor.edit(as_requests(REQUESTS[2:3]))
    save_state(model, tmp_path)
    restored_model, restored = subject_edits_loaded(tmp_path, "late")
    restored.edit(as_requests(REQUESTS[3:4]))
    save_state(restored_model, tmp_path)
    steps = sorted(tmp_path.glob("step-*"))
    assert ["whitening" in load_file(path) for path in steps] == [True, False, False, False]
    assert all(state_in(path)["gate_size"] == 48 for path in steps)


def test_edits_without_whitening_replace_whitened_ones_in_a_folder(tmp_path: Path) -> None:
    subject_edits_saved(tmp_path, "late", 0)
    _, editor = subject_edits_saved(tmp_path, "late-ungated", 0, 1)
    assert not any("whitening" in load_file(path) for path in tmp_path.glob("step-*"))
    assert_same_edits(subject_edits_loaded(tmp_path, "late-ungated")[1], editor)


def test_a_first_step_with_another_runs_whitening_is_refused(tmp_path: Path) -> None:
    """The digest of the other run's step is right, but the next step names the digest of the step it follows."""
    subject_edits_saved(tmp_path / "run", "late", 0, 1)
    save_state(edited("late", REQUESTS[:1], seed=1), tmp_path / "other-run")
    (tmp_path / "run" / FIRST).write_bytes((tmp_path / "other-run" / FIRST).read_bytes())
    with pytest.raises(RunError, match=r"step-000002\.safetensors: has been changed, or doesn't follow"):
        subject_edits_loaded(tmp_path / "run", "late")


def state_in(step: Path) -> dict[str, Any]:
    with safe_open(step, framework="pt") as file:
        return json.loads(file.metadata()["step"])["state"]


def remove_whitening(folder: Path) -> None:
    path = folder / FIRST
    tensors = {name: tensor for name, tensor in load_file(path).items() if name != "whitening"}
    replace_steps(path, tensors, state_in(path))


def make_gate_size_negative(folder: Path) -> None:
    path = folder / FIRST
    replace_steps(path, load_file(path), {**state_in(path), "gate_size": -1})


def replace_steps(path: Path, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
    """Write another first step, whose digest is right, and delete the second."""
    with safe_open(path, framework="pt") as file:
        edits = json.loads(file.metadata()["step"])["edits"]
    write_step(path, EditsPart({}, edits, state, tensors), "")
    (path.parent / SECOND).unlink()


DAMAGES = {
    "missing whitening": (remove_whitening, "the whitening is missing with whiten: true"),
    "flipped bit": (lambda f: flip_bit(f / FIRST, -5), "step-000001.safetensors: has been changed"),
    "negative gate size": (make_gate_size_negative, "gate_size -1 is no width"),
    "another gate_eps": (lambda f: change_hparams(f, gate_eps=0.3), "was made with gate_eps=0.3; now it is 0.5"),
}
"""What happened to a folder, and what the error says."""


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_folder_of_subject_edits_that_cannot_be_used_is_refused_with_its_path(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    subject_edits_saved(tmp_path, "late", 0, 1)
    damage(tmp_path)
    model = build_model("llama")
    with pytest.raises(RunError, match=re.escape(message)) as caught:
        load_state(model, build_tokenizer(), hparams("late"), tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert not GraceEditor.all_of(model), "a failed load left edits on the model"


def test_edits_by_prompt_are_not_continued_by_subject(tmp_path: Path) -> None:
    edited_and_saved(tmp_path)
    with pytest.raises(RunError, match=r"was made with eps=3\.0; now it is 'auto'"):
        load_state(
            build_model("llama"),
            build_tokenizer(),
            hparams("subject", inner_params=[FAMILIES["llama"][1]]),
            tmp_path,
        )
