"""Saved edits of NeuralDB: inspect, merge, and refuse what cannot be loaded."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import EditError, RunError, export_model, inspect_edits, load_edits, merge_edits, save_edits
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.methods.neuraldb.store import NeuralDBStore
from easyedit_lifelong.plugins import get_plugins
from tests.methods.neuraldb.edits_of_tiny_model import CORRECTED, FRANCE, HAMLET, OTHER_RELATION, PIANO, edit, next_word
from tests.support.tiny_models import build_model, build_tokenizer


def saved(folder: Path, *requests: dict[str, Any], **settings: Any) -> Path:
    model = build_model("llama")
    edit(model, *requests, **settings)
    save_edits(model, folder)
    return folder


def test_inspect_shows_replaced_edits_and_near_keys(tmp_path: Path) -> None:
    saved(tmp_path, FRANCE, HAMLET, OTHER_RELATION, PIANO)
    (part,) = inspect_edits(tmp_path, nearly=100).parts
    assert [entry["replaced_by"] for entry in part.edits] == [3, None, None, None]
    assert part.layers == ["model.layers.1.mlp.down_proj"]
    assert part.settings["gamma"] == 0.9
    model = build_model("llama")
    load_edits(model, tmp_path)
    keys = {edit.record.case_id: edit.tensors["key"].double() for edit in NeuralDBStore().history(model)}
    cosine = float(torch.cosine_similarity(keys["hamlet"], keys["piano"], dim=0))
    hamlet = part.edits[1]
    assert hamlet["cosine"] >= cosine - 1e-6
    assert hamlet["nearness"] == pytest.approx((1 - hamlet["cosine"]) / 0.2)
    assert part.near
    assert part.near == sorted(part.near, key=lambda pair: pair["nearness"])
    assert all(1 not in pair["edits"] for pair in part.near)
    assert not inspect_edits(tmp_path, nearly=0).parts[0].near


def test_a_gamma_of_one_can_be_inspected() -> None:
    part = _part()
    data = [{**entry, "gamma": 1.0} for entry in part.state["data"]]
    described = NeuralDBStore().describe(EditsPart(part.hparams, part.edits, {"data": data}, part.tensors), "", 1.25)
    assert all(entry["nearness"] > 1.25 for entry in described.edits)
    assert not described.near


def test_a_merged_table_answers_as_its_folders_do_and_the_later_folder_wins(tmp_path: Path) -> None:
    corrected = {**CORRECTED, "case_id": "france"}
    one, two = saved(tmp_path / "one", FRANCE, HAMLET), saved(tmp_path / "two", corrected, PIANO)
    report = merge_edits([one, two], tmp_path / "all")
    assert (report.edits, report.keys, report.duplicates) == (4, 3, 0)
    (conflict,) = report.conflicts
    assert (conflict.case_id, conflict.with_case_id, conflict.decision) == ("france@two", "france", "supersede")
    assert conflict.distance == pytest.approx(0, abs=1e-6)
    assert [(case.before, case.after) for case in report.renamed] == [("france", "france@two")]
    model = build_model("llama")
    load_edits(model, tmp_path / "all")
    assert next_word(model, FRANCE["prompt"]) == "song"
    assert next_word(model, HAMLET["prompt"]) == "Peru"
    assert next_word(model, PIANO["prompt"]) == "winter"


def test_a_state_folder_without_its_steps_is_refused(tmp_path: Path) -> None:
    model = build_model("llama")
    edit(model, FRANCE)
    state = get_plugins().methods.get("NeuralDB").state
    assert state is not None
    state.save(model, tmp_path)
    (tmp_path / "step-000001.safetensors").unlink()
    for read in (inspect_edits, functools.partial(load_edits, build_model("llama"))):
        with pytest.raises(RunError, match=r"step-000001.safetensors and so on, are missing"):
            read(tmp_path)


def test_edits_that_both_folders_have_are_merged_once(tmp_path: Path) -> None:
    one = saved(tmp_path / "one", FRANCE)
    model = build_model("llama")
    load_edits(model, one)
    edit(model, HAMLET)
    save_edits(model, tmp_path / "two")
    report = merge_edits([one, tmp_path / "two"], tmp_path / "all")
    assert (report.edits, report.duplicates, report.conflicts, report.renamed) == (2, 1, [], [])


def test_folders_with_another_gamma_are_not_merged(tmp_path: Path) -> None:
    one, two = saved(tmp_path / "one", FRANCE), saved(tmp_path / "two", HAMLET, gamma=0.8)
    with pytest.raises(RunError, match=r"two.*made with gamma=0\.8; the folders before it with gamma=0\.9"):
        merge_edits([one, two], tmp_path / "all")


def _part() -> EditsPart:
    model = build_model("llama")
    edit(model, FRANCE, HAMLET)
    (part,) = NeuralDBStore().parts(model)
    return EditsPart(part.hparams, part.edits, json.loads(json.dumps(part.state)), part.tensors)


def test_a_damaged_part_is_refused_and_leaves_no_trace() -> None:
    part, model = _part(), build_model("llama")
    damaged = [
        (
            EditsPart(part.hparams, part.edits, {"data": part.state["data"][:1]}, part.tensors),
            "as many entries of data",
        ),
        (EditsPart(part.hparams, part.edits, part.state, {"key": part.tensors["key"]}), "needs gamma, key_tokens and"),
        (
            EditsPart(part.hparams, part.edits, part.state, {**part.tensors, "key": part.tensors["key"][:1]}),
            "as many rows of the tensor 'key'",
        ),
        (
            EditsPart(part.hparams, part.edits, part.state, {**part.tensors, "key": part.tensors["key"][:, :5]}),
            "has 48 inputs and 32 outputs",
        ),
        (EditsPart(part.hparams, part.edits, {"data": [{}, {}]}, part.tensors), "needs gamma, key_tokens and"),
    ]
    for broken, message in damaged:
        with pytest.raises(RunError, match=message):
            NeuralDBStore().attach(model, None, broken, "a test")
        assert not NeuralDBStore().history(model)


def test_plain_weights_are_refused_with_the_reason(tmp_path: Path) -> None:
    model = build_model("llama")
    edit(model, FRANCE)
    with pytest.raises(EditError, match="its gate compares each token with every key"):
        export_model(model, build_tokenizer(), tmp_path)
