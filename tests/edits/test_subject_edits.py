"""Edits found by subject: saved, loaded, removed, merged and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import (
    apply_grace_to_model,
    inspect_edits,
    load_edits,
    merge_edits,
    rollback_case,
    rollback_folder,
    save_edits,
)
from easyedit_lifelong.edits.folder_parts import read_edits, write_edits
from easyedit_lifelong.errors import EditError, RunError
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.methods.grace.serialized import SerializedEdits
from tests.support.coachhook_edits import attributes_and_hooks_of, equal_states
from tests.support.grace_edits import codebook_state_of, codebook_without, editor_of
from tests.support.saved_edits import equal
from tests.support.subject_edits import MODES, PROMPTS, REQUESTS, edited, hparams
from tests.support.thoroughness import default_cases
from tests.support.tiny_models import build_model, build_tokenizer, state_of


def subject_logits(model: Any) -> list[torch.Tensor]:
    """Return a model's logits for the prompts of the edits and for others about their subjects."""
    with torch.no_grad():
        return [model(**build_tokenizer()(prompt, return_tensors="pt")).logits for prompt in PROMPTS]


# ------------------------------------------------------------------ saved and loaded


@pytest.mark.parametrize("mode", MODES)
def test_edits_after_loading_need_no_second_moments(tmp_path: Path, mode: str) -> None:
    """The text of the second moments is gone; the whitening comes from the folder."""
    model, loaded = edited(mode, REQUESTS[:5]), build_model("llama")
    save_edits(model, tmp_path)
    load_edits(loaded, tmp_path, build_tokenizer())
    for edited_model in (model, loaded):
        _, undo = apply_grace_to_model(edited_model, build_tokenizer(), REQUESTS[5:], hparams(mode))
        assert len(undo.results) == len(REQUESTS) - 5
    assert equal_states(state_of(model), state_of(loaded))
    assert equal(subject_logits(model), subject_logits(loaded))


def test_a_folder_holds_the_whitening_and_the_gate_width(tmp_path: Path) -> None:
    for mode in MODES:
        save_edits(edited(mode), tmp_path / mode)
        ((_, part),) = read_edits(tmp_path / mode).parts
        assert ("whitening" in part.tensors) == (MODES[mode].get("whiten", True)), mode
        assert part.state.get("gate_size") == (48 if "gate_eps" in MODES[mode] else None)
        assert ("relation_projection" in part.tensors) == (mode == "late-relations")


def test_serializing_again_keeps_state_and_tensors(tmp_path: Path) -> None:
    """Edits are read and serialized again without a model."""
    save_edits(edited("late"), tmp_path)
    ((_, part),) = read_edits(tmp_path).parts
    again = SerializedEdits.of(part, "here").part()
    assert again.state == part.state
    assert equal_states(again.tensors, part.tensors)


def remove_tensor(part: EditsPart, name: str) -> None:
    del part.tensors[name]


INCONSISTENT: dict[str, Any] = {
    "no whitening": (lambda part: remove_tensor(part, "whitening"), "the whitening is missing with whiten: true"),
    "a narrower whitening": (
        lambda part: part.tensors.update(whitening=part.tensors["whitening"][1:].clone()),
        "isn't one of keys of width 48",
    ),
    "a whitening vector": (
        lambda part: part.tensors.update(whitening=torch.zeros(48)),
        "isn't one of keys of width 48",
    ),
    "a whitening with whiten: false": (
        lambda part: part.hparams.update(whiten=False),
        "the whitening is there with whiten: false",
    ),
    "no gates": (lambda part: part.state.pop("gate_size"), "gates of width 0 with gate_eps: 0.5"),
    "gates too wide": (lambda part: part.state.update(gate_size=1000), "no room for gates of width 1000"),
    "a negative gate size": (lambda part: part.state.update(gate_size=-1), "gate_size -1 is no width"),
    "a gate size of text": (lambda part: part.state.update(gate_size="x"), "gate_size 'x' is no width"),
    "other key templates": (
        lambda part: part.hparams.update(key_templates=["a {prompt}"] * 4),
        "keys of width 96 can't be split into 5 key vectors",
    ),
}


@pytest.mark.parametrize("defect", INCONSISTENT)
def test_an_inconsistent_folder_is_refused_and_changes_no_model(tmp_path: Path, defect: str) -> None:
    save_edits(edited("late", REQUESTS[:2]), tmp_path)
    saved = read_edits(tmp_path)
    ((method, part),) = saved.parts
    change_part, message = INCONSISTENT[defect]
    change_part(part)
    write_edits(tmp_path, saved.model, saved.fingerprint, [(method, part)])
    model = build_model("llama")
    before, parts = state_of(model), attributes_and_hooks_of(model)
    for read in (inspect_edits, lambda folder: load_edits(model, folder)):
        with pytest.raises(RunError, match=f"edits.json: GRACE's edits are incomplete or damaged: .*{message}"):
            read(tmp_path)
    assert equal_states(state_of(model), before)
    assert attributes_and_hooks_of(model) == parts


# ------------------------------------------------------------------ removed


@pytest.mark.parametrize("number", default_cases(range(len(REQUESTS)), 0, 1, 4, 6))
@pytest.mark.parametrize("mode", default_cases(MODES, "late", "subject"))
def test_a_case_is_removed_alike_from_a_model_and_from_a_folder(tmp_path: Path, mode: str, number: int) -> None:
    model, case = edited(mode), f"c{number}"
    save_edits(model, tmp_path / "all")
    expected = codebook_without(editor_of(model), number)
    rollback_case(model, case)
    assert equal_states(codebook_state_of(model), expected)
    assert rollback_folder(tmp_path / "all", cases=[case], out=tmp_path / "removed").left == len(REQUESTS) - 1
    loaded = build_model("llama")
    undo = load_edits(loaded, tmp_path / "removed")
    assert equal_states(state_of(loaded), state_of(model))
    assert equal(subject_logits(loaded), subject_logits(model))
    undo()
    assert equal_states(state_of(loaded), state_of(build_model("llama")))
    assert equal(subject_logits(loaded), subject_logits(build_model("llama")))


# ------------------------------------------------------------------ merged


@pytest.mark.parametrize("mode", default_cases(MODES, "late", "subject"))
def test_merged_folders_equal_the_edits_made_on_one_model(tmp_path: Path, mode: str) -> None:
    """The cuts are where no later edit starts from the value of an earlier one, which another folder can't know."""
    for name, requests in (("a", REQUESTS[:2]), ("b", REQUESTS[2:5]), ("c", REQUESTS[6:8])):
        save_edits(edited(mode, requests, train_batch=1), tmp_path / name)
    expected = edited(mode, [*REQUESTS[:5], *REQUESTS[6:8]], train_batch=1)
    report = merge_edits([tmp_path / "a", tmp_path / "b", tmp_path / "c"], tmp_path / "all")
    model = build_model("llama")
    load_edits(model, tmp_path / "all")
    assert equal_states(state_of(model), state_of(expected))
    assert equal(subject_logits(model), subject_logits(expected))
    assert ("c4", "supersede", "c0") in {
        (conflict.case_id, conflict.decision, conflict.with_case_id) for conflict in report.conflicts
    }
    cases_in_conflict = {conflict.case_id for conflict in report.conflicts}
    assert ("c6" in cases_in_conflict) == (mode != "late") or mode == "subject", (
        "another fact about France conflicts unless a relation gate separates it"
    )


OTHER_SETTINGS: dict[str, Any] = {
    "other second moments": (
        {"seed": 1},
        "its keys have other second moments, or its gates have another relation metric",
    ),
    "other gates": ({"gate_eps": 0.3}, "made with gate_eps=0.3; the folders before it with gate_eps=0.5"),
    "other templates": ({"key_templates": ["old {prompt}"]}, "made with key_templates="),
    "another layer that answers": (
        {"answer_layer": "model.layers.3.mlp.down_proj"},
        "made with answer_layer='model.layers.3.mlp.down_proj'",
    ),
}


@pytest.mark.parametrize("setting", OTHER_SETTINGS)
def test_folders_with_other_settings_are_not_merged(tmp_path: Path, setting: str) -> None:
    options, message = OTHER_SETTINGS[setting]
    save_edits(edited("late", REQUESTS[:2]), tmp_path / "one")
    save_edits(edited("late", REQUESTS[2:4], **options), tmp_path / "two")
    with pytest.raises(RunError, match=f"two.edits.json: {message}"):
        merge_edits([tmp_path / "one", tmp_path / "two"], tmp_path / "all")
    assert not (tmp_path / "all").exists()


# ------------------------------------------------------------------ exported


def test_edits_found_by_subject_cannot_be_exported(tmp_path: Path) -> None:
    from easyedit_lifelong import export_model

    with pytest.raises(EditError, match="can't be put into plain weights"):
        export_model(edited("late", REQUESTS[:1]), build_tokenizer(), tmp_path / "model")


def test_a_whitening_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    save_edits(edited("late", REQUESTS[:2]), tmp_path)
    saved = read_edits(tmp_path)
    ((method, part),) = saved.parts
    part.tensors["whitening"][0, 0] = float("nan")
    write_edits(tmp_path, saved.model, saved.fingerprint, [(method, part)])
    with pytest.raises(RunError, match=r"edits.safetensors: .*whitening' holds NaN"):
        load_edits(build_model("llama"), tmp_path)
