"""Folders of many edits (format version 3): records in columns, keys and values in a memory-mapped file."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from easyedit_lifelong import (
    inspect_edits,
    load_edits,
    merge_edits,
    rollback_folder,
    save_edits,
)
from easyedit_lifelong.digests import chunked_digest, file_digest
from easyedit_lifelong.edits.edits_folder import INDEX, MANY_VERSION, TENSORS, read_index, write_index
from easyedit_lifelong.edits.folder_parts import read_description
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods import edit_stores
from easyedit_lifelong.methods.grace.editor import GraceEditor
from tests.support.coachhook_edits import FACTS, equal_states
from tests.support.saved_edits import METHODS, equal, logits_of
from tests.support.tiny_models import build_model, build_tokenizer, state_of

FAMILY = "llama"


@pytest.fixture(autouse=True)
def few_are_many() -> Iterator[None]:
    with mock.patch.object(edit_stores, "MANY_EDITS", 0):
        yield


def edited_model(method: str = "GRACE") -> Any:
    model = build_model(FAMILY)
    METHODS[method](model, FAMILY)
    return model


def save_as_few(model: Any, folder: Path) -> None:
    with mock.patch.object(edit_stores, "MANY_EDITS", 10_000):
        save_edits(model, folder)


def loaded(folder: Path) -> Any:
    model = build_model(FAMILY)
    load_edits(model, folder, build_tokenizer())
    return model


@pytest.mark.parametrize("method", METHODS)
def test_many_edits_give_bitwise_equal_logits_and_roll_back(tmp_path: Path, method: str) -> None:
    model, other = edited_model(method), build_model(FAMILY)
    before, unedited = state_of(other), logits_of(other)
    save_edits(model, tmp_path / "many")
    save_as_few(model, tmp_path / "few")
    rollback = load_edits(other, tmp_path / "many", build_tokenizer())
    assert read_index(tmp_path / "many")["format_version"] == MANY_VERSION
    assert equal(logits_of(other), logits_of(model))
    assert equal_states(state_of(other), state_of(model))
    saved_edits = [edit for part in read_description(tmp_path / "few")["parts"] for edit in part["edits"]]
    assert list(rollback.results) == saved_edits
    assert [edit for part in read_description(tmp_path / "many")["parts"] for edit in part["edits"]] == saved_edits
    rollback()
    assert equal(logits_of(other), unedited)
    assert equal_states(state_of(other), before)


@pytest.mark.parametrize("method", ["GRACE", "late-relations"])
def test_many_edits_are_inspected_and_rolled_back_as_few_are(tmp_path: Path, method: str) -> None:
    model = edited_model(method)
    save_edits(model, tmp_path / "many")
    save_as_few(model, tmp_path / "few")
    many, few = (dataclasses.asdict(inspect_edits(tmp_path / name)) for name in ("many", "few"))
    for different in ("folder", "format_version", "saved"):
        del many[different], few[different]
    assert many == few
    case = few["parts"][0]["edits"][0]["case_id"]
    for name in ("many", "few"):
        rollback_folder(tmp_path / name, cases=[case])
    assert equal(logits_of(loaded(tmp_path / "many")), logits_of(loaded(tmp_path / "few")))


def test_one_edit_of_a_loaded_model_is_rolled_back_without_reading_those_before_it(tmp_path: Path) -> None:
    model = edited_model()
    save_edits(model, tmp_path)
    other = loaded(tmp_path)
    (editor,) = GraceEditor.all_of(other).values()
    last = editor.records[-1]
    assert len(editor.records) > 1
    with mock.patch.object(editor.records, "_decode", side_effect=AssertionError("a record was read")):
        editor.remove_records([last])
    (expected,) = GraceEditor.all_of(model).values()
    expected.remove_records([expected.records[-1]])
    assert equal(logits_of(other), logits_of(model))
    assert list(editor.records) == expected.records


def test_a_loaded_model_is_edited_and_saved_over_the_folder_that_it_reads(tmp_path: Path) -> None:
    model = edited_model()
    save_edits(model, tmp_path)
    other = loaded(tmp_path)
    for edited in (model, other):
        (editor,) = GraceEditor.all_of(edited).values()
        query = torch.linspace(-3, 3, editor.codebook.key_width)  # type: ignore[union-attr]
        assert editor.codebook is not None
        editor.changes.append(editor.codebook.insert(query, (5, 6), torch.ones(editor.codebook.value_size))[2])
        editor.records.append(editor.records[0])
    save_edits(other, tmp_path)
    again = loaded(tmp_path)
    assert equal_states(state_of(again), state_of(model))
    assert equal(logits_of(again), logits_of(model))


def test_a_write_to_a_loaded_row_does_not_change_the_folder(tmp_path: Path) -> None:
    save_edits(edited_model(), tmp_path)
    digest = file_digest(tmp_path / TENSORS)
    (editor,) = GraceEditor.all_of(loaded(tmp_path)).values()
    assert editor.codebook is not None
    editor.codebook.redo([editor.codebook.row(0)._replace(label=(1,))])
    values = editor.codebook.row(0).tensors
    editor.codebook.redo([editor.codebook.row(0)._replace(tensors=values._replace(value=values.value + 1))])
    assert torch.equal(editor.codebook.row(0).tensors.value, values.value + 1)
    assert file_digest(tmp_path / TENSORS) == digest


def test_a_deep_copy_of_a_loaded_codebook_is_independent(tmp_path: Path) -> None:
    save_edits(edited_model(), tmp_path)
    other = loaded(tmp_path)
    copied, unchanged = copy.deepcopy(other), logits_of(other)
    (editor,) = GraceEditor.all_of(copied).values()
    assert editor.codebook is not None
    editor.codebook._arrays.write_value(0, torch.full((editor.codebook.value_size,), 9.0))
    editor.remove_records([editor.records[-1]])
    assert equal(logits_of(other), unchanged)


def test_folders_of_many_and_of_few_edits_are_merged(tmp_path: Path) -> None:
    model = edited_model()
    save_edits(model, tmp_path / "many")
    save_as_few(model, tmp_path / "few")
    merged = merge_edits([tmp_path / "few", tmp_path / "many"], tmp_path / "merged")
    assert merged.duplicates == len(FACTS) + 1
    assert equal(logits_of(loaded(tmp_path / "merged")), logits_of(model))


def test_a_changed_file_of_many_edits_is_refused(tmp_path: Path) -> None:
    save_edits(edited_model(), tmp_path)
    data = bytearray((tmp_path / TENSORS).read_bytes())
    data[-5] ^= 1
    (tmp_path / TENSORS).write_bytes(data)
    with pytest.raises(RunError, match=r"isn't what edits.json was written with"):
        load_edits(build_model(FAMILY), tmp_path)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("records.0", torch.zeros(7, dtype=torch.uint8), r"records of part 0 do not fit"),
        ("records.0", None, r"lacks 'records.0'"),
        ("record_ends.0", torch.tensor([5, 3]), r"records of part 0 do not fit"),
        ("0.change_lengths", torch.tensor([0]), r"incomplete or damaged: the columns"),
        ("0.keys", None, r"incomplete or damaged: 'keys'"),
        ("0.label_tokens", None, r"incomplete or damaged: 'label_tokens'"),
        ("0.search_table", None, r"incomplete or damaged: 'search_table'"),
    ],
)
def test_incomplete_columns_are_refused_by_name(
    tmp_path: Path, name: str, tensor: torch.Tensor | None, message: str
) -> None:
    save_edits(edited_model(), tmp_path)
    tensors = {key: value.clone() for key, value in load_file(tmp_path / TENSORS).items()}
    assert tensors.pop(name) is not None
    save_file(tensors if tensor is None else {**tensors, name: tensor}, tmp_path / TENSORS)
    index = {**read_index(tmp_path), "tensors": chunked_digest(tmp_path / TENSORS)}
    del index["format"], index["format_version"]
    write_index(tmp_path, MANY_VERSION, index)
    model = build_model(FAMILY)
    with pytest.raises(RunError, match=message):
        load_edits(model, tmp_path)
    assert not GraceEditor.all_of(model)


def test_the_index_of_many_edits_is_short_and_names_no_request(tmp_path: Path) -> None:
    save_edits(edited_model(), tmp_path)
    (part,) = json.loads((tmp_path / INDEX).read_text())["parts"]
    assert set(part) == {"method", "hparams", "state"}
    assert "changed" not in part["state"]
