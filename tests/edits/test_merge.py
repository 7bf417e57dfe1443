"""Merging folders of GRACE edits: as if all edits had been entered in one codebook, folder after folder."""

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
from easyedit_lifelong.edits.folder_parts import read_edits, write_edits
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.grace.serialized import SerializedEdits
from tests.support.coachhook_edits import equal_states
from tests.support.format_1 import FOLDER
from tests.support.grace_edits import EDITS, edited, editor_of
from tests.support.saved_edits import coachhook
from tests.support.serialized_edits import Edit, saved, serialize_edits
from tests.support.thoroughness import examples
from tests.support.tiny_models import build_model, state_of

streams = st.lists(st.tuples(st.integers(-10, 10), st.integers(-10, 10), st.integers(0, 2)), min_size=2, max_size=20)


def read_serialized(folder: Path) -> SerializedEdits:
    ((_, part),) = read_edits(folder).parts
    return SerializedEdits.of(part, str(folder))


@examples(25)
@given(streams, st.sampled_from(["euc", "cos"]), st.sampled_from(["coverage", "moving_average"]), st.data())
def test_merged_pieces_of_a_stream_equal_the_undivided_stream(
    stream: list[Edit], dist_fn: str, expand: str, data: st.DataObject
) -> None:
    numbered = list(enumerate(stream))
    cuts = sorted(data.draw(st.sets(st.sampled_from(range(1, len(stream))), min_size=1, max_size=3)))
    pieces = [numbered[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        folders = [saved(home / str(n), serialize_edits(piece, dist_fn, expand)) for n, piece in enumerate(pieces)]
        report = merge_edits(folders, home / "all")
        merged, undivided = read_serialized(home / "all"), serialize_edits(numbered, dist_fn, expand)
    for tensor_name in ("keys", "values", "radii"):
        assert torch.equal(getattr(merged.codebook, tensor_name), getattr(undivided.codebook, tensor_name))
    assert merged.codebook.labels == undivided.codebook.labels
    assert merged.records == undivided.records
    assert merged.part().state == undivided.part().state
    assert (report.edits, report.keys, report.renamed, report.duplicates) == (
        len(stream),
        len(undivided.codebook),
        [],
        0,
    )


@examples(40)
@given(streams, st.sampled_from(["euc", "cos"]), st.sampled_from(["coverage", "moving_average"]), st.data())
def test_serialized_edits_after_removals_equal_those_made_without_them(
    stream: list[Edit], dist_fn: str, expand: str, data: st.DataObject
) -> None:
    numbered, remaining = list(enumerate(stream)), serialize_edits(list(enumerate(stream)), dist_fn, expand)
    while numbered:
        position = data.draw(st.sampled_from(range(len(numbered))))
        del numbered[position]
        remaining.remove({position})
        if numbered:
            remaining = SerializedEdits.of(remaining.part(), "here")
            expected = serialize_edits(numbered, dist_fn, expand)
            assert remaining.part().state == expected.part().state
            assert equal_states(remaining.part().tensors, expected.part().tensors)
            assert remaining.records == expected.records
    assert len(remaining.codebook) == 0


def test_conflicts_with_edits_of_another_folder_are_reported(tmp_path: Path) -> None:
    first = saved(
        tmp_path / "one", serialize_edits([(0, (0, 0, 1)), (1, (40, 0, 1)), (2, (80, 0, 1)), (3, (120, 0, 1))])
    )
    second = saved(
        tmp_path / "two",
        serialize_edits(
            [(4, (5, 0, 1)), (5, (40, 0, 2)), (6, (83, 0, 2)), (7, (121, 0, 1)), (8, (300, 0, 1)), (9, (302, 0, 2))]
        ),
    )
    report = merge_edits([first, second], tmp_path / "all")
    reported = {
        conflict.case_id: (conflict.decision, conflict.with_case_id, round(conflict.distance, 2))
        for conflict in report.conflicts
    }
    assert reported == {
        "c4": ("expand", "c0", 1.25),
        "c5": ("supersede", "c1", 0),
        "c6": ("split", "c2", 0.75),
        "c7": ("covered", "c3", 0.25),
    }
    assert {conflict.folder for conflict in report.conflicts} == {str(second)}
    assert {conflict.with_folder for conflict in report.conflicts} == {str(first)}
    assert json.loads(json.dumps(report.to_dict()))["conflicts"][0]["layer"] == "a.1.b"


def test_duplicate_case_ids_are_renamed_and_equal_edits_are_merged_once(tmp_path: Path) -> None:
    first_edits = serialize_edits([(0, (0, 0, 1)), (1, (40, 0, 1))])
    first = saved(tmp_path / "one", first_edits)
    # The first of these edits is also in the first folder.
    second_edits = serialize_edits([(0, (0, 0, 1)), (1, (160, 0, 1)), (1, (200, 0, 1)), (2, (240, 0, 1))])
    second, third = (
        saved(tmp_path / "two", second_edits),
        saved(tmp_path / "x" / "two", serialize_edits([(1, (400, 0, 2))])),
    )
    report = merge_edits([first, second, third], tmp_path / "all")
    assert [record.case_id for record in read_serialized(tmp_path / "all").records] == [
        "c0",
        "c1",
        "c1@two",
        "c1@two",
        "c2",
        "c1@two-2",
    ]
    assert [(rename.before, rename.after) for rename in report.renamed] == [("c1", "c1@two"), ("c1", "c1@two-2")]
    assert report.duplicates == 1
    assert report.edits == 6


def test_the_hits_of_merged_keys_are_added(tmp_path: Path) -> None:
    first, second = serialize_edits([(0, (0, 0, 1))]), serialize_edits([(1, (1, 0, 1)), (2, (80, 0, 1))])
    first.codebook.hits[0], second.codebook.hits[0], second.codebook.hits[1] = 3, 4, 5
    merge_edits([saved(tmp_path / "1", first), saved(tmp_path / "2", second)], tmp_path / "all")
    assert read_serialized(tmp_path / "all").codebook.hits == {0: 7, 1: 5}


def test_merged_edits_equal_those_made_on_one_model(tmp_path: Path) -> None:
    expected, _ = edited(EDITS[:4], EDITS[6:])
    for name, group in (("a", EDITS[:4]), ("b", EDITS[6:])):
        save_edits(edited(group)[0], tmp_path / name)
    merge_edits([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    model = build_model("llama")
    load_edits(model, tmp_path / "all")
    assert equal_states(state_of(model), state_of(expected))
    rollback_case(model, "c0")
    rollback_case(expected, "c0")
    assert equal_states(state_of(model), state_of(expected))


def test_edits_at_different_layers_stay_in_separate_codebooks(tmp_path: Path) -> None:
    for name, layer in (("a", 1), ("b", 2)):
        save_edits(edited(EDITS[:2], inner_params=[f"model.layers[{layer}].mlp.down_proj"])[0], tmp_path / name)
    report = merge_edits([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    assert (report.edits, report.keys, len(report.conflicts)) == (4, 4, 0)
    model = build_model("llama")
    load_edits(model, tmp_path / "all")
    assert len(model.state_dict()) == len(build_model("llama").state_dict()) + 6


def test_only_the_first_folder_may_lack_queries(tmp_path: Path) -> None:
    saved_edits = read_edits(FOLDER / "GRACE")
    ((_, part),) = saved_edits.parts
    edits = SerializedEdits.of(part, "here")
    edits.remove({3, 4})
    write_edits(tmp_path / "some", saved_edits.model, saved_edits.fingerprint, [("GRACE", edits.part())])
    report = merge_edits([FOLDER / "GRACE", tmp_path / "some"], tmp_path / "all")
    assert (report.edits, report.duplicates) == (5, 3)
    with pytest.raises(
        RunError, match=r"GRACE.edits\.json: the edit of case 4 was saved without its query.*this folder first"
    ):
        merge_edits([tmp_path / "some", FOLDER / "GRACE"], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_defaults_stand_in_for_settings_that_older_folders_lack(tmp_path: Path) -> None:
    old = read_edits(FOLDER / "GRACE")
    ((_, part),) = old.parts
    later_settings = {
        "whiten": False,
        "key_templates": [],
        "answer_layer": None,
        "gate_eps": None,
        "false_fire_rate": 0.01,
    }
    assert not part.hparams.keys() & later_settings.keys()
    part.hparams.update(later_settings)
    write_edits(tmp_path / "new", old.model, old.fingerprint, [("GRACE", part)])
    report = merge_edits([FOLDER / "GRACE", tmp_path / "new"], tmp_path / "all")
    assert (report.edits, report.duplicates) == (5, 5)


def save_coachhook_edits(folder: Path) -> Path:
    model = build_model("llama")
    coachhook(model, "llama")
    save_edits(model, folder)
    return folder


UNFIT_FOLDERS: dict[str, Any] = {
    "another model": (
        lambda f: saved(f, serialize_edits([(1, (0, 0, 1))]), "g"),
        "other weights .the fingerprints differ",
    ),
    "other settings": (
        lambda f: saved(f, serialize_edits([(1, (0, 0, 1))], "cos")),
        "made with eps=0.05; the folders before",
    ),
    "CoachHook": (save_coachhook_edits, "which can't be merged: every batch was computed with"),
    "another method": (
        lambda f: write_edits(f, "m", "f", [("MINE", serialize_edits([(1, (0, 0, 1))]).part())]),
        "edits of MINE, which can't",
    ),
    "nothing": (lambda f: f, "holds no saved edits"),
}


@pytest.mark.parametrize("case", UNFIT_FOLDERS)
def test_folders_that_do_not_fit_are_refused(tmp_path: Path, case: str) -> None:
    first = saved(tmp_path / "one", serialize_edits([(0, (0, 0, 1))]))
    make_folder, message = UNFIT_FOLDERS[case]
    make_folder(tmp_path / "two")
    with pytest.raises(RunError, match=message):
        merge_edits([first, tmp_path / "two"], tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_an_output_folder_with_edits_is_refused_and_unchanged(tmp_path: Path) -> None:
    folder = saved(tmp_path / "one", serialize_edits([(0, (0, 0, 1))]))
    before = (folder / INDEX).read_bytes()
    with pytest.raises(RunError, match="holds edits already; name another folder"):
        merge_edits([folder, folder], folder)
    with pytest.raises(RunError, match="at least two"):
        merge_edits([folder], tmp_path / "all")
    assert (folder / INDEX).read_bytes() == before


def test_serialized_edits_keep_the_rounding_of_the_codebook() -> None:
    model, _ = edited()
    editor = editor_of(model)
    assert editor.codebook is not None
    edits = SerializedEdits({}, editor.codebook, editor.changes, editor.records, editor.replay_support)
    assert edits.part().state["rounding"] == editor.codebook.rounding
