"""Folders of GRACE edits joined: as if all their edits had been entered in one codebook, one folder after the other."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from easyedit_lifelong import load_edits, merge_edits, rollback_case, save_edits
from easyedit_lifelong.edits.edits_folder import INDEX
from easyedit_lifelong.edits.parts import read_edits, write_edits
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.grace.serialized import SerializedEdits
from tests.support.coachhook_edits import same_tensors
from tests.support.format_1 import FOLDER
from tests.support.grace_edits import EDITS, edited, editor_of
from tests.support.saved_edits import coachhook
from tests.support.serialized_edits import Edit, packed, saved
from tests.support.thoroughness import examples
from tests.support.tiny_models import build_model, state_of

streams = st.lists(st.tuples(st.integers(-10, 10), st.integers(-10, 10), st.integers(0, 2)), min_size=2, max_size=20)


def loaded(folder: Path) -> SerializedEdits:
    ((_, part),) = read_edits(folder).parts
    return SerializedEdits.of(part, str(folder))


@examples(25)
@given(streams, st.sampled_from(["euc", "cos"]), st.sampled_from(["coverage", "moving_average"]), st.data())
def test_a_stream_in_pieces_is_the_stream(stream: list[Edit], dist_fn: str, expand: str, data: st.DataObject) -> None:
    numbered = list(enumerate(stream))
    cuts = sorted(data.draw(st.sets(st.sampled_from(range(1, len(stream))), min_size=1, max_size=3)))
    pieces = [numbered[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        folders = [saved(home / str(n), packed(piece, dist_fn, expand)) for n, piece in enumerate(pieces)]
        report = merge_edits(folders, home / "all")
        merged, whole = loaded(home / "all"), packed(numbered, dist_fn, expand)
    for what in ("keys", "values", "radii"):
        assert torch.equal(getattr(merged.codebook, what), getattr(whole.codebook, what))
    assert merged.codebook.labels == whole.codebook.labels
    assert merged.records == whole.records
    assert merged.part().state == whole.part().state
    assert (report.edits, report.keys, report.renamed, report.duplicates) == (
        len(stream),
        len(whole.codebook),
        [],
        0,
    )


@examples(40)
@given(streams, st.sampled_from(["euc", "cos"]), st.sampled_from(["coverage", "moving_average"]), st.data())
def test_what_is_left_after_a_removal_can_be_packed_unpacked_and_taken_apart_further(
    stream: list[Edit], dist_fn: str, expand: str, data: st.DataObject
) -> None:
    numbered, left = list(enumerate(stream)), packed(list(enumerate(stream)), dist_fn, expand)
    while numbered:
        n = data.draw(st.sampled_from(range(len(numbered))))
        del numbered[n]
        left.remove({n})
        if numbered:
            left = SerializedEdits.of(left.part(), "here")
            expected = packed(numbered, dist_fn, expand)
            assert left.part().state == expected.part().state
            assert same_tensors(left.part().tensors, expected.part().tensors)
            assert left.records == expected.records
    assert len(left.codebook) == 0


def test_what_meets_another_folders_edit_is_told(tmp_path: Path) -> None:
    one = saved(tmp_path / "one", packed([(0, (0, 0, 1)), (1, (40, 0, 1)), (2, (80, 0, 1)), (3, (120, 0, 1))]))
    two = saved(
        tmp_path / "two",
        packed(
            [(4, (5, 0, 1)), (5, (40, 0, 2)), (6, (83, 0, 2)), (7, (121, 0, 1)), (8, (300, 0, 1)), (9, (302, 0, 2))]
        ),
    )
    report = merge_edits([one, two], tmp_path / "all")
    told = {one.case_id: (one.decision, one.with_case_id, round(one.distance, 2)) for one in report.conflicts}
    assert told == {
        "c4": ("expand", "c0", 1.25),
        "c5": ("supersede", "c1", 0),
        "c6": ("split", "c2", 0.75),
        "c7": ("covered", "c3", 0.25),
    }
    assert {one.folder for one in report.conflicts} == {str(two)}
    assert {one.with_folder for one in report.conflicts} == {str(one)}
    assert json.loads(json.dumps(report.to_dict()))["conflicts"][0]["layer"] == "a.1.b"


def test_cases_whose_ids_are_taken_get_others_and_what_is_in_both_is_in_once(tmp_path: Path) -> None:
    first = packed([(0, (0, 0, 1)), (1, (40, 0, 1))])
    one = saved(tmp_path / "one", first)
    other = packed([(0, (0, 0, 1)), (1, (160, 0, 1)), (1, (200, 0, 1)), (2, (240, 0, 1))])  # the first is one's
    two, three = saved(tmp_path / "two", other), saved(tmp_path / "x" / "two", packed([(1, (400, 0, 2))]))
    report = merge_edits([one, two, three], tmp_path / "all")
    assert [record.case_id for record in loaded(tmp_path / "all").records] == [
        "c0",
        "c1",
        "c1@two",
        "c1@two",
        "c2",
        "c1@two-2",
    ]
    assert [(one.before, one.after) for one in report.renamed] == [("c1", "c1@two"), ("c1", "c1@two-2")]
    assert report.duplicates == 1
    assert report.edits == 6


def test_hits_are_joined(tmp_path: Path) -> None:
    one, two = packed([(0, (0, 0, 1))]), packed([(1, (1, 0, 1)), (2, (80, 0, 1))])
    one.codebook.hits[0], two.codebook.hits[0], two.codebook.hits[1] = 3, 4, 5
    merge_edits([saved(tmp_path / "1", one), saved(tmp_path / "2", two)], tmp_path / "all")
    assert loaded(tmp_path / "all").codebook.hits == {0: 7, 1: 5}


def test_on_a_model(tmp_path: Path) -> None:
    whole, _ = edited(EDITS[:4], EDITS[6:])
    for name, group in (("a", EDITS[:4]), ("b", EDITS[6:])):
        save_edits(edited(group)[0], tmp_path / name)
    merge_edits([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    model = build_model("llama")
    load_edits(model, tmp_path / "all")
    assert same_tensors(state_of(model), state_of(whole))
    rollback_case(model, "c0")
    rollback_case(whole, "c0")
    assert same_tensors(state_of(model), state_of(whole))


def test_layers_stay_apart(tmp_path: Path) -> None:
    for name, layer in (("a", 1), ("b", 2)):
        save_edits(edited(EDITS[:2], inner_params=[f"model.layers[{layer}].mlp.down_proj"])[0], tmp_path / name)
    report = merge_edits([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    assert (report.edits, report.keys, len(report.conflicts)) == (4, 4, 0)
    model = build_model("llama")
    load_edits(model, tmp_path / "all")
    assert len(model.state_dict()) == len(build_model("llama").state_dict()) + 6


def test_the_first_folder_may_lack_queries_the_others_may_not(tmp_path: Path) -> None:
    more = read_edits(FOLDER / "GRACE")
    ((_, part),) = more.parts
    edits = SerializedEdits.of(part, "here")
    edits.remove({3, 4})
    write_edits(tmp_path / "some", more.model, more.fingerprint, [("GRACE", edits.part())])
    report = merge_edits([FOLDER / "GRACE", tmp_path / "some"], tmp_path / "all")
    assert (report.edits, report.duplicates) == (5, 3)
    with pytest.raises(RunError, match=r"GRACE.edits\.json: the edit of case 4 isn't known in full.*this folder first"):
        merge_edits([tmp_path / "some", FOLDER / "GRACE"], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_folders_of_before_lack_settings_that_came_later(tmp_path: Path) -> None:
    old = read_edits(FOLDER / "GRACE")
    ((_, part),) = old.parts
    later = {"whiten": False, "key_templates": [], "answer_layer": None, "gate_eps": None, "false_fire_rate": 0.01}
    assert not part.hparams.keys() & later.keys()
    part.hparams.update(later)
    write_edits(tmp_path / "new", old.model, old.fingerprint, [("GRACE", part)])
    report = merge_edits([FOLDER / "GRACE", tmp_path / "new"], tmp_path / "all")
    assert (report.edits, report.duplicates) == (5, 5)


def _coachhook(folder: Path) -> Path:
    model = build_model("llama")
    coachhook(model, "llama")
    save_edits(model, folder)
    return folder


OTHERS: dict[str, Any] = {
    "another model": (lambda f: saved(f, packed([(1, (0, 0, 1))]), "g"), "other weights .the fingerprints differ"),
    "other settings": (lambda f: saved(f, packed([(1, (0, 0, 1))], "cos")), "made with eps=0.05; the folders before"),
    "CoachHook": (_coachhook, "which can't be merged: every batch was solved for with"),
    "another method": (
        lambda f: write_edits(f, "m", "f", [("MINE", packed([(1, (0, 0, 1))]).part())]),
        "edits of MINE, which can't",
    ),
    "nothing": (lambda f: f, "holds no saved edits"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_cannot_be_merged(tmp_path: Path, what: str) -> None:
    one = saved(tmp_path / "one", packed([(0, (0, 0, 1))]))
    make, says = OTHERS[what]
    make(tmp_path / "two")
    with pytest.raises(RunError, match=says):
        merge_edits([one, tmp_path / "two"], tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_where_edits_are_nothing_is_written(tmp_path: Path) -> None:
    one = saved(tmp_path / "one", packed([(0, (0, 0, 1))]))
    before = (one / INDEX).read_bytes()
    with pytest.raises(RunError, match="holds edits already; name another folder"):
        merge_edits([one, one], one)
    with pytest.raises(RunError, match="at least two"):
        merge_edits([one], tmp_path / "all")
    assert (one / INDEX).read_bytes() == before


def test_editor_and_packed_edits_agree() -> None:
    model, _ = edited()
    editor = editor_of(model)
    assert editor.codebook is not None
    edits = SerializedEdits({}, editor.codebook, editor.changes, editor.records, editor.replay_support)
    assert edits.part().state["rounding"] == editor.codebook.rounding
