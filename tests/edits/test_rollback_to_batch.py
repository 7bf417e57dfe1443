"""Batches removed later, from a model or a folder: what is left is as it was after the earlier batches."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong import (
    load_edits,
    rollback_case,
    rollback_folder,
    rollback_to_batch,
    save_edits,
)
from easyedit_lifelong.edits.edits_folder import INDEX
from easyedit_lifelong.edits.folder_parts import read_edits, write_edits
from easyedit_lifelong.errors import EditError, RunError
from easyedit_lifelong.methods.coachhook.editor import coachhook_editor
from tests.support.coachhook_edits import attributes_and_hooks_of, equal_states, requests_for
from tests.support.saved_edits import coachhook, equal, grace_and_coachhook, logits_of
from tests.support.tiny_models import build_model, state_of


@pytest.mark.parametrize("options", [{}, {"wohk": True}, {"scope_score": "weighed", "z_tokens": "others"}])
def test_rollback_to_any_batch_restores_its_state_and_logits(tmp_path: Path, options: dict[str, Any]) -> None:
    model = build_model("llama")
    snapshots, undo = [(state_of(model), logits_of(model))], []
    for number in range(3):
        undo.append(
            coachhook(model, "llama", batch_size=4, **options)[1]
            if number == 0
            else coachhook_editor(model).edit(requests_for(number))[1]
        )
        snapshots.append((state_of(model), logits_of(model)))
    save_edits(model, tmp_path / "all")
    twin, twins_undo = copy.deepcopy((model, undo))
    with pytest.raises(
        EditError, match=r"can't roll back to batch 4: the model has 3 batches\. Choose a number from 0 to 3"
    ):
        rollback_to_batch(model, 4)
    for batch in (3, 2, 1, 0):
        rollback_to_batch(model, batch)
        assert equal_states(state_of(model), snapshots[batch][0])
        assert equal(logits_of(model), snapshots[batch][1])
        rollback_folder(tmp_path / "all", batch=batch, out=tmp_path / str(batch))
        loaded = build_model("llama")
        load_edits(loaded, tmp_path / str(batch))
        assert equal_states(state_of(loaded), snapshots[batch][0])
    assert attributes_and_hooks_of(model) == attributes_and_hooks_of(build_model("llama"))
    for undo_call in undo:
        undo_call()  # must change nothing: all batches are removed already
    assert equal_states(state_of(model), snapshots[0][0])

    rollback_to_batch(twin, 2)
    with pytest.raises(EditError, match="later CoachHook batches"):
        twins_undo[0]()
    twins_undo[2]()
    assert equal_states(state_of(twin), snapshots[2][0])
    twins_undo[1]()
    assert equal_states(state_of(twin), snapshots[1][0])
    coachhook_editor(twin).edit(requests_for(1))
    assert equal_states(state_of(twin), snapshots[2][0]), "a new batch must be as if the removed ones had never been"


@pytest.mark.parametrize("wohk", [False, True])
def test_the_rollback_of_a_call_removes_the_batches_that_are_left(wohk: bool) -> None:
    model = build_model("llama")
    _, undo = coachhook(model, "llama", wohk=wohk)  # two batches
    rollback_to_batch(model, 1)
    undo()
    assert equal_states(state_of(model), state_of(build_model("llama")))


@pytest.mark.parametrize("wohk", [False, True])
def test_rollback_to_a_batch_works_on_loaded_edits(tmp_path: Path, wohk: bool) -> None:
    model = build_model("llama")
    coachhook(model, "llama", wohk=wohk)
    save_edits(model, tmp_path)
    rollback_to_batch(model, 1)
    loaded = build_model("llama")
    undo = load_edits(loaded, tmp_path)
    rollback_to_batch(loaded, 1)
    assert equal_states(state_of(loaded), state_of(model))
    undo()
    assert equal_states(state_of(loaded), state_of(build_model("llama")))


def test_removing_all_batches_keeps_the_edits_of_grace(tmp_path: Path) -> None:
    model = build_model("llama")
    grace_and_coachhook(model, "llama")
    save_edits(model, tmp_path)
    rollback_folder(tmp_path, batch=0)
    assert [part["method"] for part in json.loads((tmp_path / INDEX).read_text())["parts"]] == ["GRACE"]
    rollback_to_batch(model, 0)
    loaded = build_model("llama")
    load_edits(loaded, tmp_path)
    assert equal_states(state_of(loaded), state_of(model))
    save_edits(model, tmp_path / "taken")
    with pytest.raises(RunError, match="holds edits already"):
        rollback_folder(tmp_path, cases=["0"], out=tmp_path / "taken")


# ------------------------------------------------------------------ refusals


def test_rollbacks_that_do_not_fit_the_method_are_refused(tmp_path: Path) -> None:
    model = build_model("llama")
    coachhook(model, "llama")
    with pytest.raises(
        EditError, match=r"each batch was computed with the batches before it in place.*rollback_to_batch"
    ):
        rollback_case(model, 0)
    save_edits(model, tmp_path)
    before = (tmp_path / INDEX).read_bytes()
    with pytest.raises(
        RunError,
        match=r"holds no GRACE, NeuralDB, IKE-native or SERAC-native edits\. CoachHook's edits can't be rolled back",
    ):
        rollback_folder(tmp_path, cases=["0"])
    with pytest.raises(EditError, match="can't roll back to batch 5: the folder has 2 batches"):
        rollback_folder(tmp_path, batch=5)
    with pytest.raises(EditError, match="name the case, too"):
        rollback_folder(tmp_path, batch=1, prompt="x")
    assert (tmp_path / INDEX).read_bytes() == before
    with pytest.raises(
        EditError,
        match=r"carries no CoachHook, MEMIT-native, .* or ENN edits",
    ):
        rollback_to_batch(build_model("llama"), 0)


def test_a_folder_with_two_methods_that_have_batches_is_refused(tmp_path: Path) -> None:
    model = build_model("llama")
    coachhook(model, "llama")
    save_edits(model, tmp_path)
    index = json.loads((tmp_path / INDEX).read_text())
    doubled_parts = [*read_edits(tmp_path).parts, *read_edits(tmp_path).parts]
    write_edits(tmp_path / "two", "m", index["model"]["fingerprint"], doubled_parts)
    with pytest.raises(RunError, match="holds edits of CoachHook and CoachHook, each with its own batches"):
        rollback_folder(tmp_path / "two", batch=1)
