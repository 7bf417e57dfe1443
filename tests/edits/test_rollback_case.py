"""Edits taken back later: on a model or in a folder, in any order, it is as if they had never been made."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong import (
    apply_grace_to_model,
    load_edits,
    rollback_case,
    rollback_folder,
    rollback_to_batch,
    save_edits,
)
from easyedit_lifelong.edits.edits_folder import INDEX
from easyedit_lifelong.edits.parts import read_edits, write_edits
from easyedit_lifelong.errors import EditError, RunError
from easyedit_lifelong.methods.coachhook.editor import coachhook_editor
from easyedit_lifelong.methods.grace.editor import GraceEditor
from tests.support.coachhook_edits import anatomy_of_everything, requests_for, same_tensors
from tests.support.format_1 import FOLDER, formula_model
from tests.support.grace_edits import EDITS, book_of, edited, editor_of, entered_without, hparams
from tests.support.saved_edits import both, coachhook, equal, logits_of
from tests.support.state_folders import load_state, save_state
from tests.support.tiny_models import build_model, build_tokenizer, state_of


def test_the_edits_do_all_that_an_edit_can_do() -> None:
    _, (undo,) = edited()
    assert {result.detail["decision"] for result in undo.results} >= {"add", "split", "supersede", "covered"}


@pytest.mark.parametrize("number", range(len(EDITS)))
def test_a_case_goes_from_a_model_and_from_a_folder_alike(tmp_path: Path, number: int) -> None:
    model, _ = edited()
    save_edits(model, tmp_path / "whole")
    expected = entered_without(editor_of(model), number)
    (removed,) = rollback_case(model, f"c{number}")
    assert removed.case_id == f"c{number}"
    assert same_tensors(book_of(model), expected)
    assert editor_of(model).case_ids == [edit["case_id"] for edit in EDITS if edit["case_id"] != f"c{number}"]

    done = rollback_folder(tmp_path / "whole", cases=[f"c{number}"], out=tmp_path / "less")
    assert (done.removed, done.left) == ([removed], len(EDITS) - 1)
    other = build_model("llama")
    load_edits(other, tmp_path / "less")
    assert same_tensors(state_of(other), state_of(model))
    save_edits(model, tmp_path / "again")
    assert read_edits(tmp_path / "again").parts[0][1].state == read_edits(tmp_path / "less").parts[0][1].state
    assert equal(logits_of(other), logits_of(model))

    again = build_model("llama")
    undo = load_edits(again, tmp_path / "whole")
    assert [edit["case_id"] for edit in undo.results] == [edit["case_id"] for edit in EDITS]
    rollback_case(again, f"c{number}")
    assert same_tensors(state_of(again), state_of(model))
    undo()
    assert same_tensors(state_of(again), state_of(build_model("llama")))


def test_a_split_radius_comes_back() -> None:
    model, _ = edited(EDITS[:1])
    before = state_of(model)
    _, undo = apply_grace_to_model(model, build_tokenizer(), EDITS[1:2], hparams())
    assert undo.results[0].detail["decision"] == "split"
    apply_grace_to_model(model, build_tokenizer(), EDITS[6:], hparams())
    rollback_case(model, "c1")
    rollback_case(model, "c6")
    assert same_tensors(state_of(model), before)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_rollbacks_in_any_order_each_take_just_their_own(order: tuple[int, ...]) -> None:
    unedited, parts = state_of(build_model("llama")), anatomy_of_everything(build_model("llama"))
    groups = [EDITS[:2], EDITS[2:5], EDITS[5:]]
    model, undo = edited(*groups)
    kept = {"c0", "c1", "c2", "c3", "c4", "c5", "c6"}
    for n in order:
        pictures = entered_without(
            editor_of(model), *(i for i, case in enumerate(editor_of(model).case_ids) if case in _cases(groups[n]))
        )
        undo[n]()
        undo[n]()
        kept -= _cases(groups[n])
        if kept:
            assert set(editor_of(model).case_ids) == kept
            assert same_tensors(book_of(model), pictures)
    assert same_tensors(state_of(model), unedited)
    assert anatomy_of_everything(model) == parts


def _cases(group: list[dict[str, Any]]) -> set[str]:
    return {edit["case_id"] for edit in group}


def test_a_rollback_skips_what_has_gone_by_case_and_a_copy_has_its_own() -> None:
    model, (first, second) = edited(EDITS[:3], EDITS[3:])
    twin, twins_first = copy.deepcopy((model, first))
    rollback_case(model, "c1")
    first()
    assert editor_of(model).case_ids == ["c3", "c4", "c5", "c6"]
    assert editor_of(twin).case_ids == [edit["case_id"] for edit in EDITS]
    twins_first()
    assert same_tensors(book_of(twin), book_of(model))
    second()
    assert same_tensors(state_of(model), state_of(build_model("llama")))
    _, third = apply_grace_to_model(model, build_tokenizer(), EDITS[:3], hparams())
    apply_grace_to_model(model, build_tokenizer(), EDITS[3:], hparams())
    third()
    assert editor_of(model).case_ids == ["c3", "c4", "c5", "c6"]


def test_editing_goes_on_after_a_removal_as_if_it_had_never_been(tmp_path: Path) -> None:
    models = [edited(EDITS[:1], EDITS[6:])[0], edited(EDITS[:1], EDITS[1:2], EDITS[6:])[0]]
    rollback_case(models[1], "c1")
    for number, model in enumerate(models):
        apply_grace_to_model(model, build_tokenizer(), EDITS[2:3], hparams())
        save_state(model, tmp_path / str(number))
    assert same_tensors(state_of(models[0]), state_of(models[1]))
    restored = build_model("llama")
    load_state(restored, build_tokenizer(), hparams(), tmp_path / "1")
    assert same_tensors(state_of(restored), state_of(models[1]))


def test_a_run_s_state_keeps_queries_too(tmp_path: Path) -> None:
    model, _ = edited()
    save_state(model, tmp_path)
    restored = build_model("llama")
    load_state(restored, build_tokenizer(), hparams(), tmp_path)
    for one in (model, restored):
        rollback_case(one, "c0")
    assert same_tensors(state_of(restored), state_of(model))
    save_state(restored, tmp_path)
    again = build_model("llama")
    load_state(again, build_tokenizer(), hparams(), tmp_path)
    assert same_tensors(state_of(again), state_of(model))


def test_a_case_on_two_layers_goes_from_both() -> None:
    model = build_model("llama")
    for layer in (1, 2):
        one = hparams(inner_params=[f"model.layers[{layer}].mlp.down_proj"])
        apply_grace_to_model(model, build_tokenizer(), EDITS[:2], one)
    assert len(rollback_case(model, "c0")) == 2
    assert [editor.case_ids for editor in GraceEditor.all_of(model).values()] == [["c1"], ["c1"]]
    assert len(rollback_case(model, "c1")) == 2
    assert same_tensors(state_of(model), state_of(build_model("llama")))


def test_which_case_is_meant() -> None:
    model, _ = edited(EDITS[:1], [{**EDITS[1], "case_id": "c0"}], [{**EDITS[4], "case_id": "c0"}])
    with pytest.raises(EditError, match=r"there is no edit of case 'c00'\. Did you mean 'c0'\?"):
        rollback_case(model, "c00")
    with pytest.raises(EditError, match=r"3 edits are called case 'c0'; say which by its prompt: 'the capital"):
        rollback_case(model, "c0")
    with pytest.raises(EditError, match=r"no edit of case 'c0' has the prompt .* Did you mean 'the capital of Fra"):
        rollback_case(model, "c0", prompt="the capital of Frances is")
    assert len(rollback_case(model, "c0", prompt=EDITS[0]["prompt"])) == 2, "a fact that was corrected goes whole"
    assert len(rollback_case(model, "c0")) == 1
    with pytest.raises(EditError, match="carries no edits"):
        rollback_case(model, "c0")


def test_folders_of_the_first_format_lack_queries(tmp_path: Path) -> None:
    """Edits 0 to 3 added keys; edit 4 took over a key, and how it was asked for isn't in the folder."""
    model = formula_model()
    load_edits(model, FOLDER / "GRACE")
    before = state_of(model)
    with pytest.raises(EditError, match=r"the edit of case 4 came later, and isn't known in full: .* their queries"):
        rollback_case(model, 1)
    with pytest.raises(EditError, match=r"edits\.json: the edit of case 4 came later"):
        rollback_folder(FOLDER / "GRACE", cases=["1"], out=tmp_path / "x")
    assert not (tmp_path / "x").exists()
    assert same_tensors(state_of(model), before)
    rollback_case(model, 4)
    rollback_case(model, 1)
    rollback_folder(FOLDER / "GRACE", cases=["4", "1"], out=tmp_path / "less")
    other = formula_model()
    load_edits(other, tmp_path / "less")
    assert same_tensors(state_of(other), state_of(model))


def test_a_folder_in_place_down_to_nothing(tmp_path: Path) -> None:
    model, _ = edited(EDITS[:2])
    save_edits(model, tmp_path)
    with pytest.raises(RunError, match="holds no CoachHook or MEMIT-native edits, so no batches"):
        rollback_folder(tmp_path, batch=1)
    assert rollback_folder(tmp_path, cases=["c1"]).left == 1
    assert rollback_folder(tmp_path, cases=["c0"]).left == 0
    other = build_model("llama")
    load_edits(other, tmp_path)
    assert same_tensors(state_of(other), state_of(build_model("llama")))


@pytest.mark.parametrize("spoilt", [-1, 99, True, "0", 0.5])
def test_a_query_that_is_not_there(tmp_path: Path, spoilt: Any) -> None:
    model, _ = edited()
    save_edits(model, tmp_path)
    saved = read_edits(tmp_path)
    ((method, part),) = saved.parts
    next(change for change in part.state["changed"] if "query" in change)["query"] = spoilt
    write_edits(tmp_path, saved.model, saved.fingerprint, [(method, part)])
    with pytest.raises(RunError, match=r"GRACE's edits aren't whole: query .* of"):
        load_edits(build_model("llama"), tmp_path)


# ------------------------------------------------------------------ CoachHook


@pytest.mark.parametrize("options", [{}, {"wohk": True}, {"scope_score": "weighed", "z_tokens": "others"}])
def test_back_to_any_batch(tmp_path: Path, options: dict[str, Any]) -> None:
    model = build_model("llama")
    pictures, undo = [(state_of(model), logits_of(model))], []
    for number in range(3):
        undo.append(
            coachhook(model, "llama", batch_size=4, **options)[1]
            if number == 0
            else coachhook_editor(model).edit(requests_for(number))[1]
        )
        pictures.append((state_of(model), logits_of(model)))
    save_edits(model, tmp_path / "whole")
    twin, twins_undo = copy.deepcopy((model, undo))
    with pytest.raises(EditError, match="no going back to batch 4: the model carries 3, so 0 to 3"):
        rollback_to_batch(model, 4)
    for batch in (3, 2, 1, 0):
        rollback_to_batch(model, batch)
        assert same_tensors(state_of(model), pictures[batch][0])
        assert equal(logits_of(model), pictures[batch][1])
        rollback_folder(tmp_path / "whole", batch=batch, out=tmp_path / str(batch))
        loaded = build_model("llama")
        load_edits(loaded, tmp_path / str(batch))
        assert same_tensors(state_of(loaded), pictures[batch][0])
    assert anatomy_of_everything(model) == anatomy_of_everything(build_model("llama"))
    for call in undo:
        call()  # nothing is left to undo
    assert same_tensors(state_of(model), pictures[0][0])

    rollback_to_batch(twin, 2)
    with pytest.raises(EditError, match="later CoachHook batches"):
        twins_undo[0]()
    twins_undo[2]()
    assert same_tensors(state_of(twin), pictures[2][0])
    twins_undo[1]()
    assert same_tensors(state_of(twin), pictures[1][0])
    coachhook_editor(twin).edit(requests_for(1))
    assert same_tensors(state_of(twin), pictures[2][0]), "editing goes on as if the others had never been"


@pytest.mark.parametrize("wohk", [False, True])
def test_back_into_the_middle_of_a_call_and_its_rollback_takes_the_rest(wohk: bool) -> None:
    model = build_model("llama")
    _, undo = coachhook(model, "llama", wohk=wohk)  # two batches
    rollback_to_batch(model, 1)
    undo()
    assert same_tensors(state_of(model), state_of(build_model("llama")))


@pytest.mark.parametrize("wohk", [False, True])
def test_back_after_loading(tmp_path: Path, wohk: bool) -> None:
    model = build_model("llama")
    coachhook(model, "llama", wohk=wohk)
    save_edits(model, tmp_path)
    rollback_to_batch(model, 1)
    other = build_model("llama")
    undo = load_edits(other, tmp_path)
    rollback_to_batch(other, 1)
    assert same_tensors(state_of(other), state_of(model))
    undo()
    assert same_tensors(state_of(other), state_of(build_model("llama")))


def test_each_method_says_what_the_other_is_for(tmp_path: Path) -> None:
    model = build_model("llama")
    coachhook(model, "llama")
    with pytest.raises(EditError, match=r"each batch was solved for with those before it in place.*rollback_to_batch"):
        rollback_case(model, 0)
    save_edits(model, tmp_path)
    before = (tmp_path / INDEX).read_bytes()
    with pytest.raises(RunError, match=r"holds no GRACE edits\. CoachHook's edits can't be taken back one by one"):
        rollback_folder(tmp_path, cases=["0"])
    with pytest.raises(EditError, match="no going back to batch 5: the folder has 2 batches"):
        rollback_folder(tmp_path, batch=5)
    with pytest.raises(EditError, match="name the case, too"):
        rollback_folder(tmp_path, batch=1, prompt="x")
    assert (tmp_path / INDEX).read_bytes() == before
    with pytest.raises(EditError, match="carries no CoachHook or MEMIT-native edits"):
        rollback_to_batch(build_model("llama"), 0)


def test_of_two_methods_with_batches_it_is_not_clear_which_are_meant(tmp_path: Path) -> None:
    model = build_model("llama")
    coachhook(model, "llama")
    save_edits(model, tmp_path)
    index = json.loads((tmp_path / INDEX).read_text())
    twice = [*read_edits(tmp_path).parts, *read_edits(tmp_path).parts]
    write_edits(tmp_path / "two", "m", index["model"]["fingerprint"], twice)
    with pytest.raises(RunError, match="holds edits of CoachHook and CoachHook, each with its own batches"):
        rollback_folder(tmp_path / "two", batch=1)


def test_of_both_methods_one_stays(tmp_path: Path) -> None:
    model = build_model("llama")
    both(model, "llama")
    save_edits(model, tmp_path)
    rollback_folder(tmp_path, batch=0)
    assert [part["method"] for part in json.loads((tmp_path / INDEX).read_text())["parts"]] == ["GRACE"]
    rollback_to_batch(model, 0)
    other = build_model("llama")
    load_edits(other, tmp_path)
    assert same_tensors(state_of(other), state_of(model))
    with pytest.raises(RunError, match="holds edits already"):
        rollback_folder(tmp_path, cases=["0"], out=_saved(model, tmp_path / "there"))


def _saved(model: Any, folder: Path) -> Path:
    save_edits(model, folder)
    return folder
