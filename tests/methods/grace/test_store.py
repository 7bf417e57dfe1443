"""GRACE's edits in a run's state folder: they are restored bitwise, and each edit is written once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.edits.edits_folder import INDEX
from easyedit_lifelong.errors import EditError, RunError
from easyedit_lifelong.methods.grace import trained_edits
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.methods.grace.serialized import SerializedEdits
from easyedit_lifelong.methods.grace.store import GraceStore
from easyedit_lifelong.methods.shared import records
from tests.support.state_folders import save_state, state_keeper
from tests.support.stored_grace_edits import (
    FACTS,
    assert_same_edits,
    edited,
    edited_and_saved,
    editor_on,
    hparams_for,
    loaded,
    requests_for,
)
from tests.support.tiny_models import build_model, build_tokenizer, state_of


def test_the_facts_of_these_tests_lead_to_four_different_decisions() -> None:
    assert set(edited()[2]) >= {"add", "split", "supersede", "covered"}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_loaded_edits_equal_the_saved_ones_and_so_do_later_edits(tmp_path: Path, family: str) -> None:
    model, editor = edited_and_saved(tmp_path, 0, 1, 2, 3, family=family)
    restored_model, restored = loaded(tmp_path, family=family)
    assert_same_edits(restored, editor)
    for either in (editor, restored):
        either.edit(requests_for(4, 5))
    assert_same_edits(restored, editor)
    inputs = build_tokenizer()("the capital of France is", return_tensors="pt")
    assert torch.equal(model(**inputs).logits, restored_model(**inputs).logits)
    assert not torch.equal(build_model(family)(**inputs).logits, restored_model(**inputs).logits)


@pytest.mark.parametrize("count", [1, 3, 6])
def test_only_edits_of_the_given_cases_are_loaded_and_later_ones_replace_the_rest(tmp_path: Path, count: int) -> None:
    """The folder can hold edits that the journal does not have, since an edit is saved before its journal line."""
    edited_and_saved(tmp_path)
    _, expected, _ = edited(*range(count))
    model, restored = loaded(tmp_path, [f"case {n}" for n in range(count)])
    assert_same_edits(restored, expected)
    for editor in (expected, restored):
        editor.edit(requests_for(1))
    save_state(model, tmp_path)
    assert_same_edits(loaded(tmp_path)[1], expected)
    assert len(list(tmp_path.glob("step-*"))) == count + 1


def test_every_loaded_edit_can_be_undone(tmp_path: Path) -> None:
    edited_and_saved(tmp_path)
    model, restored = loaded(tmp_path)
    unedited = state_of(build_model("llama"))
    for count in range(len(FACTS) - 1, 0, -1):
        restored.undo_to(count)
        assert_same_edits(restored, edited(*range(count))[1])
    restored.undo_to(0)
    assert all(torch.equal(tensor, unedited[name]) for name, tensor in model.state_dict().items())
    assert model.state_dict().keys() == unedited.keys()


def test_a_batch_is_saved_as_if_each_of_its_edits_had_been_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later edits of the batch change rows of earlier ones; an earlier step must hold the row before that change."""
    monkeypatch.setattr(records, "now", lambda: "2026-01-01T00:00:00+00:00")
    edited_and_saved(tmp_path / "batch")
    model = build_model("llama")
    editor = editor_on(model)
    for number in range(len(FACTS)):
        editor.edit(requests_for(number))
        save_state(model, tmp_path / "single")
    names = sorted(path.name for path in (tmp_path / "single").iterdir())
    assert names == [INDEX, *(f"step-{n:06d}.safetensors" for n in range(1, 7))]
    for name in names[1:]:
        single, batch = tmp_path / "single" / name, tmp_path / "batch" / name
        assert digest_of(single) == digest_of(batch)
        tensors = load_file(batch)
        assert all(torch.equal(tensor, tensors[part]) for part, tensor in load_file(single).items())


def digest_of(step: Path) -> str:
    with safe_open(step, framework="pt") as file:
        return file.metadata()["digest"]


def test_each_edit_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("llama")
    editor = editor_on(model)
    sizes: list[int] = []
    write_bytes = Path.write_bytes

    def recording_write(self: Path, data: bytes) -> int:
        sizes.append(len(data))
        return write_bytes(self, data)

    monkeypatch.setattr(Path, "write_bytes", recording_write)
    for number in range(len(FACTS)):
        editor.edit(requests_for(number))
        save_state(model, tmp_path)
        save_state(model, tmp_path)
    assert len(sizes) == len(FACTS), "saving a second time wrote a step again"
    assert max(sizes) < 3 * min(sizes), "the size of a step grows with the number of edits"


def test_what_a_failed_edit_learned_about_the_model_is_discarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No saved edit records it, so a resumed run does not have it."""
    _, editor, _ = edited(1)
    before = editor.replay_support

    def fail(*_: Any) -> Any:
        raise EditError("the loss became nan")

    monkeypatch.setattr(trained_edits, "train_batch", fail)
    with pytest.raises(EditError):
        editor.edit([EditRequest("long", "the old king who wrote Hamlet plays piano and violin in", "Rome")])
    assert editor.replay_support == before


def test_edits_that_were_rolled_back_are_removed_from_the_folder(tmp_path: Path) -> None:
    model, editor = edited_and_saved(tmp_path, 0, 1)
    _, undo = editor.edit(requests_for(2, 3))
    save_state(model, tmp_path)
    undo()
    editor.edit(requests_for(4))
    save_state(model, tmp_path)
    assert_same_edits(loaded(tmp_path)[1], editor)
    assert_same_edits(editor, edited(0, 1, 4)[1])


def test_an_unedited_model_is_not_saved_and_an_empty_folder_is_refused(tmp_path: Path) -> None:
    save_state(build_model("llama"), tmp_path / "state")
    assert not (tmp_path / "state").exists()
    with pytest.raises(RunError, match=r"edits\.json: no such file; this folder holds no GRACE edits"):
        loaded(tmp_path)


def test_the_state_keeper_of_grace_saves_edits_and_loads_a_part_of_them(tmp_path: Path) -> None:
    model, editor, _ = edited(0, 1)
    state_keeper("GRACE").save(model, tmp_path, editor.case_ids)
    restored_model = build_model("llama")
    state_keeper("GRACE").load(restored_model, build_tokenizer(), hparams_for(), tmp_path, ["case 0"])
    assert editor_on(restored_model).case_ids == ["case 0"]


def test_a_folder_holds_json_and_safetensors_files_only(tmp_path: Path) -> None:
    edited_and_saved(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    assert set(load_file(tmp_path / "step-000001.safetensors")) == {"keys", "values", "radii"}


def test_edits_at_two_layers_are_not_saved(tmp_path: Path) -> None:
    model, _, _ = edited(0)
    hparams = GraceHyperParams(model_name="m", inner_params=["model.layers[1].mlp.down_proj"], n_iter=2)
    GraceEditor.on(model, build_tokenizer(), hparams).edit(requests_for(1))
    with pytest.raises(RunError, match=r"layers\.2.*layers\.1.*only one layer's can be saved"):
        save_state(model, tmp_path)


def test_a_full_disk_is_reported_and_saving_succeeds_once_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, editor = edited_and_saved(tmp_path, 0, 1)
    editor.edit(requests_for(2))

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail)
        with pytest.raises(RunError, match="GRACE's edits can't be written: No space left on device"):
            save_state(model, tmp_path)
    assert_same_edits(loaded(tmp_path)[1], edited(0, 1)[1])  # the edits that were saved before
    save_state(model, tmp_path)
    assert_same_edits(loaded(tmp_path)[1], editor)


def test_saved_edits_are_not_restored_onto_an_edited_model() -> None:
    model, editor, _ = edited(0)
    (part,) = GraceStore().parts(model)
    with pytest.raises(EditError, match="onto an unedited model only"):
        editor.adopt(SerializedEdits.of(part, "here"))


def test_a_state_that_vanishes_is_an_error_at_the_next_edit(tmp_path: Path) -> None:
    model, editor = edited_and_saved(tmp_path / "state", 0)
    (tmp_path / "state").rename(tmp_path / "elsewhere")
    editor.edit(requests_for(1))
    with pytest.raises(RunError, match=r"edits.json: has been deleted since this run wrote it"):
        save_state(model, tmp_path / "state")
    assert not (tmp_path / "state").exists()
