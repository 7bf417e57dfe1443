"""GRACE edits removed later, from a model or a folder, in any order: as if they had never been made."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong import (
    apply_grace_to_model,
    load_edits,
    rollback_case,
    rollback_folder,
    save_edits,
)
from easyedit_lifelong.edits.folder_parts import read_edits, write_edits
from easyedit_lifelong.errors import EditError, RunError
from easyedit_lifelong.methods.grace.editor import GraceEditor
from tests.support.coachhook_edits import attributes_and_hooks_of, equal_states
from tests.support.format_1 import FOLDER, formula_model
from tests.support.grace_edits import EDITS, codebook_state_of, codebook_without, edited, editor_of, hparams
from tests.support.saved_edits import equal, logits_of
from tests.support.state_folders import load_state, save_state
from tests.support.tiny_models import build_model, build_tokenizer, state_of


def test_the_edits_of_these_tests_cover_every_decision() -> None:
    _, (undo,) = edited()
    assert {result.detail["decision"] for result in undo.results} >= {"add", "split", "supersede", "covered"}


@pytest.mark.parametrize("number", range(len(EDITS)))
def test_a_case_is_removed_alike_from_a_model_and_from_a_folder(tmp_path: Path, number: int) -> None:
    model, _ = edited()
    save_edits(model, tmp_path / "all")
    expected = codebook_without(editor_of(model), number)
    (removed,) = rollback_case(model, f"c{number}")
    assert removed.case_id == f"c{number}"
    assert equal_states(codebook_state_of(model), expected)
    assert editor_of(model).case_ids == [edit["case_id"] for edit in EDITS if edit["case_id"] != f"c{number}"]

    report = rollback_folder(tmp_path / "all", cases=[f"c{number}"], out=tmp_path / "removed")
    assert (report.removed, report.left) == ([removed], len(EDITS) - 1)
    loaded = build_model("llama")
    load_edits(loaded, tmp_path / "removed")
    assert equal_states(state_of(loaded), state_of(model))
    save_edits(model, tmp_path / "again")
    assert read_edits(tmp_path / "again").parts[0][1].state == read_edits(tmp_path / "removed").parts[0][1].state
    assert equal(logits_of(loaded), logits_of(model))

    loaded_before = build_model("llama")
    undo = load_edits(loaded_before, tmp_path / "all")
    assert [edit["case_id"] for edit in undo.results] == [edit["case_id"] for edit in EDITS]
    rollback_case(loaded_before, f"c{number}")
    assert equal_states(state_of(loaded_before), state_of(model))
    undo()
    assert equal_states(state_of(loaded_before), state_of(build_model("llama")))


def test_removing_an_edit_restores_the_radius_that_it_split() -> None:
    model, _ = edited(EDITS[:1])
    before = state_of(model)
    _, undo = apply_grace_to_model(model, build_tokenizer(), EDITS[1:2], hparams())
    assert undo.results[0].detail["decision"] == "split"
    apply_grace_to_model(model, build_tokenizer(), EDITS[6:], hparams())
    rollback_case(model, "c1")
    rollback_case(model, "c6")
    assert equal_states(state_of(model), before)


def case_ids_of(group: list[dict[str, Any]]) -> set[str]:
    return {edit["case_id"] for edit in group}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_rollbacks_in_any_order_remove_only_their_own_edits(order: tuple[int, ...]) -> None:
    unedited, parts = state_of(build_model("llama")), attributes_and_hooks_of(build_model("llama"))
    groups = [EDITS[:2], EDITS[2:5], EDITS[5:]]
    model, undo = edited(*groups)
    kept_cases = {"c0", "c1", "c2", "c3", "c4", "c5", "c6"}
    for number in order:
        expected = codebook_without(
            editor_of(model),
            *(i for i, case_id in enumerate(editor_of(model).case_ids) if case_id in case_ids_of(groups[number])),
        )
        undo[number]()
        undo[number]()
        kept_cases -= case_ids_of(groups[number])
        if kept_cases:
            assert set(editor_of(model).case_ids) == kept_cases
            assert equal_states(codebook_state_of(model), expected)
    assert equal_states(state_of(model), unedited)
    assert attributes_and_hooks_of(model) == parts


def test_a_rollback_skips_removed_cases_and_a_copy_has_its_own_rollback() -> None:
    model, (first, second) = edited(EDITS[:3], EDITS[3:])
    twin, twins_first = copy.deepcopy((model, first))
    rollback_case(model, "c1")
    first()
    assert editor_of(model).case_ids == ["c3", "c4", "c5", "c6"]
    assert editor_of(twin).case_ids == [edit["case_id"] for edit in EDITS]
    twins_first()
    assert equal_states(codebook_state_of(twin), codebook_state_of(model))
    second()
    assert equal_states(state_of(model), state_of(build_model("llama")))
    _, third = apply_grace_to_model(model, build_tokenizer(), EDITS[:3], hparams())
    apply_grace_to_model(model, build_tokenizer(), EDITS[3:], hparams())
    third()
    assert editor_of(model).case_ids == ["c3", "c4", "c5", "c6"]


def test_edits_after_a_removal_are_as_if_the_removed_one_was_never_made(tmp_path: Path) -> None:
    models = [edited(EDITS[:1], EDITS[6:])[0], edited(EDITS[:1], EDITS[1:2], EDITS[6:])[0]]
    rollback_case(models[1], "c1")
    for number, model in enumerate(models):
        apply_grace_to_model(model, build_tokenizer(), EDITS[2:3], hparams())
        save_state(model, tmp_path / str(number))
    assert equal_states(state_of(models[0]), state_of(models[1]))
    restored = build_model("llama")
    load_state(restored, build_tokenizer(), hparams(), tmp_path / "1")
    assert equal_states(state_of(restored), state_of(models[1]))


def test_a_run_state_keeps_the_queries_that_removals_need(tmp_path: Path) -> None:
    model, _ = edited()
    save_state(model, tmp_path)
    restored = build_model("llama")
    load_state(restored, build_tokenizer(), hparams(), tmp_path)
    for each in (model, restored):
        rollback_case(each, "c0")
    assert equal_states(state_of(restored), state_of(model))
    save_state(restored, tmp_path)
    restored_twice = build_model("llama")
    load_state(restored_twice, build_tokenizer(), hparams(), tmp_path)
    assert equal_states(state_of(restored_twice), state_of(model))


def test_a_case_on_two_layers_is_removed_from_both() -> None:
    model = build_model("llama")
    for layer in (1, 2):
        options = hparams(inner_params=[f"model.layers[{layer}].mlp.down_proj"])
        apply_grace_to_model(model, build_tokenizer(), EDITS[:2], options)
    assert len(rollback_case(model, "c0")) == 2
    assert [editor.case_ids for editor in GraceEditor.all_of(model).values()] == [["c1"], ["c1"]]
    assert len(rollback_case(model, "c1")) == 2
    assert equal_states(state_of(model), state_of(build_model("llama")))


def test_all_cases_of_a_folder_can_be_removed_in_place(tmp_path: Path) -> None:
    model, _ = edited(EDITS[:2])
    save_edits(model, tmp_path)
    with pytest.raises(
        RunError,
        match=r"holds no CoachHook, MEMIT-native, .* or ENN edits, so no batches",
    ):
        rollback_folder(tmp_path, batch=1)
    assert rollback_folder(tmp_path, cases=["c1"]).left == 1
    assert rollback_folder(tmp_path, cases=["c0"]).left == 0
    loaded = build_model("llama")
    load_edits(loaded, tmp_path)
    assert equal_states(state_of(loaded), state_of(build_model("llama")))


# ------------------------------------------------------------------ refusals


def test_unknown_and_ambiguous_cases_are_refused() -> None:
    model, _ = edited(EDITS[:1], [{**EDITS[1], "case_id": "c0"}], [{**EDITS[4], "case_id": "c0"}])
    with pytest.raises(EditError, match=r"there is no edit of case 'c00'\. Did you mean 'c0'\?"):
        rollback_case(model, "c00")
    with pytest.raises(EditError, match=r"3 edits are called case 'c0'; say which by its prompt: 'the capital"):
        rollback_case(model, "c0")
    with pytest.raises(EditError, match=r"no edit of case 'c0' has the prompt .* Did you mean 'the capital of Fra"):
        rollback_case(model, "c0", prompt="the capital of Frances is")
    assert len(rollback_case(model, "c0", prompt=EDITS[0]["prompt"])) == 2, (
        "both edits of a corrected fact must be removed"
    )
    assert len(rollback_case(model, "c0")) == 1
    with pytest.raises(EditError, match="carries no edits"):
        rollback_case(model, "c0")


def test_format_1_refuses_removals_that_need_a_missing_query(tmp_path: Path) -> None:
    """Edits 0 to 3 added keys; edit 4 superseded one, and the folder lacks its query."""
    model = formula_model()
    load_edits(model, FOLDER / "GRACE")
    before = state_of(model)
    with pytest.raises(EditError, match="the edit of case 4 came later, and was saved without its query"):
        rollback_case(model, 1)
    with pytest.raises(EditError, match=r"edits\.json: the edit of case 4 came later"):
        rollback_folder(FOLDER / "GRACE", cases=["1"], out=tmp_path / "x")
    assert not (tmp_path / "x").exists()
    assert equal_states(state_of(model), before)
    rollback_case(model, 4)
    rollback_case(model, 1)
    rollback_folder(FOLDER / "GRACE", cases=["4", "1"], out=tmp_path / "removed")
    loaded = formula_model()
    load_edits(loaded, tmp_path / "removed")
    assert equal_states(state_of(loaded), state_of(model))


@pytest.mark.parametrize("query", [-1, 99, True, "0", 0.5])
def test_an_invalid_query_number_in_a_folder_is_refused(tmp_path: Path, query: Any) -> None:
    model, _ = edited()
    save_edits(model, tmp_path)
    saved = read_edits(tmp_path)
    ((method, part),) = saved.parts
    next(change for change in part.state["changed"] if "query" in change)["query"] = query
    write_edits(tmp_path, saved.model, saved.fingerprint, [(method, part)])
    with pytest.raises(RunError, match=r"GRACE's edits are incomplete or damaged: query .* of"):
        load_edits(build_model("llama"), tmp_path)
