"""Edits that are appended to a folder of many edits: nothing else is written, and they load as if saved together."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model, inspect_edits, load_edits, save_edits
from easyedit_lifelong.edits import folder_parts, load, save
from easyedit_lifelong.edits.edits_folder import MANY_VERSION, TENSORS, read_index, write_index
from easyedit_lifelong.edits.folder_parts import read_description, read_edits, write_edits
from easyedit_lifelong.edits.remove import rollback_folder
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods import edit_stores
from easyedit_lifelong.methods.grace.editor import GraceEditor
from tests.support.coachhook_edits import FACTS, equal_states
from tests.support.saved_edits import coachhook, equal, logits_of
from tests.support.tiny_models import FAMILIES, build_model, build_tokenizer, state_of

FAMILY = "llama"
HPARAMS = GraceHyperParams(
    model_name="tiny", inner_params=[FAMILIES[FAMILY][1]], n_iter=8, eps=3.0, tokens_per_key=1, edit_lr=1.0
)
REQUESTS = [
    {"case_id": number, "prompt": prompt, "target_new": target}
    for number, (prompt, target) in enumerate([*((p, t) for p, t, _ in FACTS), (FACTS[0][0], "London moon")])
]
"""The last of them supersedes the first."""


@pytest.fixture(autouse=True)
def few_are_many() -> Iterator[None]:
    """Let three edits be many."""
    with mock.patch.object(edit_stores, "MANY_EDITS", 2):
        yield


def edit(model: Any, requests: list[dict[str, Any]]) -> Any:
    return apply_grace_to_model(model, build_tokenizer(), requests, HPARAMS)[1]


def model_with(requests: list[dict[str, Any]]) -> Any:
    model = build_model(FAMILY)
    edit(model, requests)
    return model


def model_with_all() -> Any:
    """Return a model with all edits, made in the same calls as those of the folder."""
    model = model_with(REQUESTS[:3])
    for request in REQUESTS[3:]:
        edit(model, [request])
    return model


def loaded(folder: Path) -> Any:
    model = build_model(FAMILY)
    load_edits(model, folder)
    return model


def appended(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("appended-*"))


def assert_loads_as(folder: Path, model: Any) -> None:
    other = loaded(folder)
    assert equal(logits_of(other), logits_of(model))
    assert equal_states(state_of(other), state_of(model))
    (editor,), (expected,) = (list(GraceEditor.all_of(each).values()) for each in (other, model))
    assert list(editor.records) == list(expected.records)
    assert str(list(editor.changes)) == str(list(expected.changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of three edits, to which two more were appended by a process that had loaded it."""
    save_edits(model_with(REQUESTS[:3]), tmp_path)
    model = loaded(tmp_path)
    for request in REQUESTS[3:]:
        edit(model, [request])
        save_edits(model, tmp_path)
    return tmp_path


def test_new_edits_are_appended_and_the_other_files_are_not_written_again(tmp_path: Path) -> None:
    model = model_with(REQUESTS[:3])
    save_edits(model, tmp_path)
    files = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    edit(model, REQUESTS[3:4])
    save_edits(model, tmp_path)
    edit(model, REQUESTS[4:])
    save_edits(model, tmp_path)
    assert len(appended(tmp_path)) == 2
    for name, before in files.items():
        assert ((tmp_path / name).stat().st_ino, (tmp_path / name).stat().st_mtime_ns) == before
    assert_loads_as(tmp_path, model)


def test_edits_appended_after_loading_equal_those_saved_together(folder: Path) -> None:
    assert len(appended(folder)) == 2
    model = loaded(folder)
    (editor,) = GraceEditor.all_of(model).values()
    assert editor.codebook is not None
    assert len(editor.records) == len(REQUESTS)
    assert editor.codebook.further_keys is not None
    assert len(editor.codebook) == len(REQUESTS) - 1, "the last edit added a key"
    assert equal(logits_of(model), logits_of(model_with_all()))
    assert [edit["case_id"] for edit in read_description(folder)["parts"][0]["edits"]] == [0, 1, 2, 3, 4]


def test_a_folder_with_appended_edits_is_inspected_rolled_back_and_written_as_a_whole(folder: Path) -> None:
    together = model_with_all()
    saved = read_edits(folder)
    write_edits(folder / "copy", saved.model, saved.fingerprint, saved.parts)
    assert not appended(folder / "copy")
    descriptions = [dataclasses.asdict(inspect_edits(each))["parts"] for each in (folder, folder / "copy")]
    assert descriptions[0] == descriptions[1]
    copied = loaded(folder / "copy")
    edit(copied, REQUESTS[1:2])
    save_edits(copied, folder / "copy")
    assert len(appended(folder / "copy")) == 1
    assert_loads_as(folder / "copy", copied)
    rollback_folder(folder, cases=[4])
    assert not appended(folder)
    edits_of(together).remove(4)
    assert equal(logits_of(loaded(folder)), logits_of(together))


def edits_of(model: Any) -> GraceEditor:
    (editor,) = GraceEditor.all_of(model).values()
    return editor


@pytest.mark.parametrize("case", [0, 3, 4])
def test_after_a_rollback_the_folder_is_written_as_a_whole(folder: Path, case: int) -> None:
    model = loaded(folder)
    edits_of(model).remove(case)
    edit(model, REQUESTS[2:3])
    save_edits(model, folder)
    assert not appended(folder)
    assert_loads_as(folder, model)
    edit(model, REQUESTS[1:2])
    save_edits(model, folder)
    assert len(appended(folder)) == 1
    assert_loads_as(folder, model)


def test_edits_are_not_appended_to_a_folder_that_another_process_has_changed(folder: Path) -> None:
    first, second = loaded(folder), loaded(folder)
    edit(first, REQUESTS[1:2])
    edit(second, REQUESTS[2:3])
    with mock.patch.object(edit_stores, "MANY_EDITS", 3):
        save_edits(first, folder)
        assert len(appended(folder)) == 3
        save_edits(second, folder)
    assert not appended(folder)
    assert_loads_as(folder, second)


def test_an_edit_that_another_thread_makes_during_a_save_is_in_the_next_one(tmp_path: Path) -> None:
    model = model_with(REQUESTS[:3])
    editing = threading.Thread(target=edit, args=(model, REQUESTS[3:4]))

    def write_while_editing(*args: Any) -> Any:
        editing.start()
        editing.join(2)  # longer than an edit takes; a save keeps it waiting
        return write_edits(*args)

    with mock.patch.object(save, "write_edits", write_while_editing):
        save_edits(model, tmp_path)
    editing.join()
    save_edits(model, tmp_path)
    assert [edit["case_id"] for edit in read_description(tmp_path)["parts"][0]["edits"]] == [0, 1, 2, 3]
    assert_loads_as(tmp_path, model)


def test_edits_are_not_appended_to_those_that_another_process_wrote_while_they_were_loaded(tmp_path: Path) -> None:
    other = model_with(REQUESTS[1:4])
    save_edits(model_with(REQUESTS[:3]), tmp_path)

    def read_before_another_save(folder: Path) -> Any:
        saved = read_edits(folder)
        save_edits(other, folder)
        return saved

    with mock.patch.object(load, "read_edits", read_before_another_save):
        model = loaded(tmp_path)
    edit(model, REQUESTS[4:])
    save_edits(model, tmp_path)
    assert not appended(tmp_path)
    assert_loads_as(tmp_path, model)


def test_edits_are_not_appended_if_another_method_or_setting_made_some(folder: Path) -> None:
    model = loaded(folder)
    apply_grace_to_model(model, build_tokenizer(), REQUESTS[1:2], dataclasses.replace(HPARAMS, n_iter=7))
    save_edits(model, folder)
    assert not appended(folder)
    assert_loads_as(folder, model)
    coachhook(model, FAMILY)
    save_edits(model, folder)
    assert not appended(folder)
    assert equal(logits_of(loaded(folder)), logits_of(model))


def test_many_appended_edits_are_written_as_a_whole(folder: Path) -> None:
    model = loaded(folder)
    edit(model, REQUESTS[1:2])
    save_edits(model, folder)
    assert not appended(folder)  # three would be many
    assert_loads_as(folder, model)


def test_files_that_a_killed_process_left_behind_do_not_count(folder: Path) -> None:
    model = loaded(folder)
    edits_of(model).remove(4)
    with mock.patch.object(folder_parts, "delete_other_steps"):
        save_edits(model, folder)
    assert len(appended(folder)) == 2
    assert_loads_as(folder, model)


@pytest.mark.parametrize("damage", ["changed", "missing", "exchanged"])
def test_damaged_appended_files_are_refused(folder: Path, damage: str) -> None:
    first, second = (folder / name for name in appended(folder))
    if damage == "missing":
        first.unlink()
    else:
        data = bytearray((second if damage == "exchanged" else first).read_bytes())
        data[-1] ^= damage == "changed"
        first.write_bytes(data)
    with pytest.raises(RunError, match=r"appended-\w+-000001.safetensors: (has been changed|can't be read)"):
        load_edits(build_model(FAMILY), folder)


def test_an_index_that_names_files_elsewhere_is_refused(folder: Path) -> None:
    index = {**read_index(folder), "appended": "../other"}
    del index["format"], index["format_version"]
    write_index(folder, MANY_VERSION, index)
    with pytest.raises(RunError, match=r"appended files begin with '\.\./other'"):
        load_edits(build_model(FAMILY), folder)
    assert (folder / TENSORS).exists()
