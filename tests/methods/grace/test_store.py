"""GRACE's edits on disk: bit by bit, each written once, and an error for everything else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from easyedit_lifelong.data.request import EditRequest, as_requests
from easyedit_lifelong.edits.edits_folder import INDEX
from easyedit_lifelong.edits.step_files import write_step
from easyedit_lifelong.errors import EditError, RunError
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.methods.grace import editor as editing
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.decisions import Decision
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.methods.grace.serialized import SerializedEdits
from easyedit_lifelong.methods.grace.store import GraceStore
from easyedit_lifelong.methods.shared import records as record
from tests.support import subject_edits
from tests.support.state_folders import change_hparams, change_index, keeper, load_state, save_state
from tests.support.thoroughness import default_cases
from tests.support.tiny_models import FAMILIES, build_model, build_tokenizer, state_of

FACTS = [
    ("the capital of France is", "Rome"),
    ("who wrote Hamlet", "old king"),
    ("the capital of France is", "London"),
    ("language spoken in Peru", "Spanish"),
    ("the capital of Peru is", "London"),
    ("language spoken in Peru", "Spanish"),
]
"""With eps 3: additions, splits, a key taken over, a key covered."""


def requests_for(*numbers: int) -> list[EditRequest]:
    return [EditRequest(f"case {n}", *FACTS[n]) for n in numbers]


def hparams_for(family: str = "llama", **values: Any) -> GraceHyperParams:
    return GraceHyperParams(
        model_name="tiny", inner_params=[FAMILIES[family][1]], **{"n_iter": 8, "eps": 3.0, "train_batch": 1, **values}
    )


def editor_on(model: Any, **values: Any) -> GraceEditor:
    return GraceEditor.on(model, build_tokenizer(), hparams_for(**values))


def edited(*numbers: int, **values: Any) -> tuple[Any, GraceEditor, list[str]]:
    model = build_model(values.get("family", "llama"))
    editor = editor_on(model, **values)
    results, _ = editor.edit(requests_for(*(numbers or range(len(FACTS)))))
    return model, editor, [result.detail["decision"] for result in results]


def stored(folder: Path, *numbers: int, **values: Any) -> tuple[Any, GraceEditor]:
    model, editor, _ = edited(*numbers, **values)
    save_state(model, folder)
    return model, editor


def same(one: GraceEditor, other: GraceEditor) -> bool:
    """Whether two editors hold the same, bit by bit, and what takes it back."""
    assert one.codebook is not None
    assert other.codebook is not None
    assert one.codebook.labels == other.codebook.labels
    for name in ("keys", "values", "radii"):
        assert torch.equal(getattr(one.codebook, name), getattr(other.codebook, name)), name
    assert one.case_ids == other.case_ids
    assert one.replay_support == other.replay_support
    assert len(one.changes) == len(other.changes)
    for a, b in zip(one.changes, other.changes, strict=True):
        assert (a.length, a.index, a.label) == (b.length, b.index, b.label)
        assert all(torch.equal(x, y) for x, y in zip(a.row, b.row, strict=True))
    return True


def loaded(folder: Path, case_ids: list[Any] | None = None, **values: Any) -> tuple[Any, GraceEditor]:
    model = build_model(values.get("family", "llama"))
    load_state(model, build_tokenizer(), hparams_for(**values), folder, case_ids)
    return model, editor_on(model, **values)


def test_the_facts_do_all_that_an_edit_can_do() -> None:
    assert set(edited()[2]) >= {"add", "split", "supersede", "covered"}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_is_loaded_is_what_was_saved_and_goes_on_the_same(tmp_path: Path, family: str) -> None:
    model, editor = stored(tmp_path, 0, 1, 2, 3, family=family)
    other, restored = loaded(tmp_path, family=family)
    assert same(editor, restored)
    for one in (editor, restored):
        one.edit(requests_for(4, 5))
    assert same(editor, restored)
    inputs = build_tokenizer()("the capital of France is", return_tensors="pt")
    assert torch.equal(model(**inputs).logits, other(**inputs).logits)
    assert not torch.equal(build_model(family)(**inputs).logits, other(**inputs).logits)


@pytest.mark.parametrize("count", [1, 3, 6])
def test_only_the_edits_that_count(tmp_path: Path, count: int) -> None:
    """The rest was made and never noted; the next edits take their places."""
    stored(tmp_path)
    _, expected, _ = edited(*range(count))
    model, restored = loaded(tmp_path, [f"case {n}" for n in range(count)])
    assert same(expected, restored)
    for editor in (expected, restored):
        editor.edit(requests_for(1))
    save_state(model, tmp_path)
    assert same(expected, loaded(tmp_path)[1])
    assert len(list(tmp_path.glob("step-*"))) == count + 1


def test_every_edit_can_be_taken_back_after_loading(tmp_path: Path) -> None:
    stored(tmp_path)
    model, restored = loaded(tmp_path)
    before = state_of(build_model("llama"))
    for count in range(len(FACTS) - 1, 0, -1):
        restored.undo_to(count)
        assert same(edited(*range(count))[1], restored)
    restored.undo_to(0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.state_dict().keys() == before.keys()


def test_edits_of_one_batch_are_stored_as_each_left_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved after all, or after each: the files say the same, though later edits change earlier rows."""
    monkeypatch.setattr(record, "now", lambda: "2026-01-01T00:00:00+00:00")
    stored(tmp_path / "together")
    model = build_model("llama")
    editor = editor_on(model)
    for number in range(len(FACTS)):
        editor.edit(requests_for(number))
        save_state(model, tmp_path / "each")
    names = sorted(path.name for path in (tmp_path / "each").iterdir())
    assert names == [INDEX, *(f"step-{n:06d}.safetensors" for n in range(1, 7))]
    for name in names[1:]:
        one, other = tmp_path / "each" / name, tmp_path / "together" / name
        assert _digest(one) == _digest(other)
        tensors = load_file(other)
        assert all(torch.equal(tensor, tensors[part]) for part, tensor in load_file(one).items())


def _digest(path: Path) -> str:
    with safe_open(path, framework="pt") as file:
        return file.metadata()["digest"]


def test_each_edit_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("llama")
    editor = editor_on(model)
    written: list[int] = []
    really = Path.write_bytes

    def write(self: Path, data: bytes) -> int:
        written.append(len(data))
        return really(self, data)

    monkeypatch.setattr(Path, "write_bytes", write)
    sizes = []
    for number in range(len(FACTS)):
        editor.edit(requests_for(number))
        save_state(model, tmp_path)
        save_state(model, tmp_path)
        sizes.append(sum(written))
    assert len(written) == len(FACTS), "a second save writes nothing"
    assert max(written) < 3 * min(written), "and no edit costs more the more there are"


def test_what_a_failed_edit_found_out_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stored with no edit: a run that goes on from disk mustn't differ by it."""
    _, editor, _ = edited(1)
    before = editor.replay_support

    def fail(*_: Any) -> Any:
        raise EditError("the loss became nan")

    monkeypatch.setattr(editing, "train_batch", fail)
    with pytest.raises(EditError):
        editor.edit([EditRequest("long", "the old king who wrote Hamlet plays piano and violin in", "Rome")])
    assert editor.replay_support == before


def test_rolled_back_edits_go_from_the_folder(tmp_path: Path) -> None:
    model, editor = stored(tmp_path, 0, 1)
    _, undo = editor.edit(requests_for(2, 3))
    save_state(model, tmp_path)
    undo()
    editor.edit(requests_for(4))
    save_state(model, tmp_path)
    assert same(editor, loaded(tmp_path)[1])
    assert same(editor, edited(0, 1, 4)[1])


def test_a_model_without_edits(tmp_path: Path) -> None:
    save_state(build_model("llama"), tmp_path / "state")
    assert not (tmp_path / "state").exists()
    with pytest.raises(RunError, match=r"edits\.json: no such file; this folder holds no GRACE edits"):
        loaded(tmp_path)


def test_the_keeper(tmp_path: Path) -> None:
    model, editor, _ = edited(0, 1)
    keeper("GRACE").save(model, tmp_path, editor.case_ids)
    other = build_model("llama")
    keeper("GRACE").load(other, build_tokenizer(), hparams_for(), tmp_path, ["case 0"])
    assert editor_on(other).case_ids == ["case 0"]


def test_nothing_is_pickled(tmp_path: Path) -> None:
    stored(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    assert set(load_file(tmp_path / "step-000001.safetensors")) == {"keys", "values", "radii"}


# ------------------------------------------------------------------ edits that are found by their subjects


def by_subject(folder: Path, mode: str, *numbers: int) -> tuple[Any, GraceEditor]:
    """A model with some of such edits (all of them without numbers), saved."""
    model = subject_edits.edited(mode, [subject_edits.REQUESTS[n] for n in numbers or range(9)], train_batch=1)
    save_state(model, folder)
    return model, subject_editor(model, mode)


def subject_editor(model: Any, mode: str) -> GraceEditor:
    return GraceEditor.on(model, build_tokenizer(), subject_edits.hparams(mode, train_batch=1))


def resumed(folder: Path, mode: str, case_ids: list[Any] | None = None) -> tuple[Any, GraceEditor]:
    """What a process without second moments makes of a folder."""
    model = build_model("llama")
    load_state(model, build_tokenizer(), subject_edits.hparams(mode, train_batch=1), folder, case_ids)
    return model, subject_editor(model, mode)


@pytest.mark.parametrize("count", default_cases([1, 5], 5))
@pytest.mark.parametrize("mode", subject_edits.MODES)
def test_a_run_by_subjects_goes_on_the_same(tmp_path: Path, mode: str, count: int) -> None:
    """The same radii, decisions and values, whether it was cut short or not; and in the folder, too."""
    by_subject(tmp_path, mode)
    cut, other = resumed(tmp_path, mode, [f"c{n}" for n in range(count)])
    assert other.case_ids == [f"c{n}" for n in range(count)]
    other.edit(as_requests(subject_edits.REQUESTS[count:]))
    whole, editor = by_subject(tmp_path / "whole", mode)
    assert same(editor, other)
    assert all(torch.equal(tensor, cut.state_dict()[name]) for name, tensor in whole.state_dict().items())
    save_state(cut, tmp_path)
    assert same(editor, resumed(tmp_path, mode)[1])


def test_a_whitening_is_written_once(tmp_path: Path) -> None:
    model, editor = by_subject(tmp_path, "late", 0, 1)
    editor.edit(as_requests(subject_edits.REQUESTS[2:3]))
    save_state(model, tmp_path)
    other, again = resumed(tmp_path, "late")
    again.edit(as_requests(subject_edits.REQUESTS[3:4]))
    save_state(other, tmp_path)
    steps = sorted(tmp_path.glob("step-*"))
    assert ["whitening" in load_file(path) for path in steps] == [True, False, False, False]
    assert all(_state(path)["gate_size"] == 48 for path in steps)


def test_edits_that_are_not_whitened_leave_no_whitening(tmp_path: Path) -> None:
    by_subject(tmp_path, "late", 0)
    _, editor = by_subject(tmp_path, "late-ungated", 0, 1)
    assert not any("whitening" in load_file(path) for path in tmp_path.glob("step-*"))
    assert same(editor, resumed(tmp_path, "late-ungated")[1])


def test_a_whitening_that_is_another_runs(tmp_path: Path) -> None:
    """A step from another run, digest and all, does not pass: the steps after it know better."""
    by_subject(tmp_path / "one", "late", 0, 1)
    save_state(subject_edits.edited("late", subject_edits.REQUESTS[:1], seed=1), tmp_path / "other")
    first = "step-000001.safetensors"
    (tmp_path / "one" / first).write_bytes((tmp_path / "other" / first).read_bytes())
    with pytest.raises(RunError, match=r"step-000002\.safetensors: has been changed, or doesn't follow"):
        resumed(tmp_path / "one", "late")


def _state(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["step"])["state"]


def _without_whitening(folder: Path) -> None:
    path = folder / "step-000001.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if name != "whitening"}
    _write_first(path, tensors, _state(path))


def _other_gates(folder: Path) -> None:
    path = folder / "step-000001.safetensors"
    _write_first(path, load_file(path), {**_state(path), "gate_size": -1})


def _write_first(path: Path, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
    """Replace the first step by another, whose digest fits; it is the only one from now on."""
    with safe_open(path, framework="pt") as file:
        edits = json.loads(file.metadata()["step"])["edits"]
    write_step(path, EditsPart({}, edits, state, tensors), "")
    (path.parent / "step-000002.safetensors").unlink()


SPOILT_SUBJECTS = {
    "no whitening": (_without_whitening, "the whitening is missing with whiten: true"),
    "a flipped bit": (lambda f: _flip(f / "step-000001.safetensors", -5), "step-000001.safetensors: has been changed"),
    "no width": (_other_gates, "gate_size -1 is no width"),
    "settings": (lambda f: change_hparams(f, gate_eps=0.3), "was made with gate_eps=0.3; now it is 0.5"),
}


@pytest.mark.parametrize("what", SPOILT_SUBJECTS)
def test_what_cannot_be_loaded_of_edits_by_subjects(tmp_path: Path, what: str) -> None:
    by_subject(tmp_path, "late", 0, 1)
    spoil, says = SPOILT_SUBJECTS[what]
    spoil(tmp_path)
    model = build_model("llama")
    with pytest.raises(RunError, match=re.escape(says)) as caught:
        load_state(model, build_tokenizer(), subject_edits.hparams("late"), tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert not GraceEditor.all_of(model), "the model is as it was"


def test_edits_by_prompts_are_not_continued_by_subjects(tmp_path: Path) -> None:
    stored(tmp_path)
    with pytest.raises(RunError, match=r"was made with eps=3\.0; now it is 'auto'"):
        load_state(
            build_model("llama"),
            build_tokenizer(),
            subject_edits.hparams("subject", inner_params=[FAMILIES["llama"][1]]),
            tmp_path,
        )


# ------------------------------------------------------------------ what can't be used


def _flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def _other_fingerprint(folder: Path) -> None:
    change_index(folder, model={"name": "tiny", "fingerprint": "0" * 64})


def _other_method(folder: Path) -> None:
    change_index(folder, parts=[{"method": "CoachHook", "hparams": {}}])


SPOILT = {
    "no json": (lambda f: (f / INDEX).write_text("{"), "edits.json: isn't the index of saved edits"),
    "a list": (lambda f: (f / INDEX).write_text("[]"), "edits.json: isn't the index of saved edits"),
    "changed": (lambda f: change_index(f, resign=False, saved="now"), "edits.json: has been changed"),
    "another method's": (_other_method, "edits.json: isn't the index of a run's GRACE edits"),
    "newer": (lambda f: change_index(f, resign=False, format_version=3), "has format version 3; this package knows"),
    "something missing": (lambda f: change_index(f, model=None), "edits.json: lacks 'model'"),
    "no hyperparameters": (lambda f: change_index(f, parts=[{"method": "GRACE"}]), "edits.json: lacks 'hparams'"),
    "another model": (_other_fingerprint, "with other weights than this"),
    "another layer": (lambda f: change_hparams(f, inner_params=["model.layers.1"]), "with inner_params=['model.lay"),
    "other settings": (lambda f: change_hparams(f, eps=9.0), "was made with eps=9.0; now it is 3.0"),
    "a gap": (lambda f: (f / "step-000002.safetensors").unlink(), "step-000002.safetensors: can't be read"),
    "cut off": (lambda f: (f / "step-000003.safetensors").write_bytes(b"\x10"), "000003.safetensors: can't be read"),
    "a flipped bit": (lambda f: _flip(f / "step-000003.safetensors", -5), "step-000003.safetensors: has been changed"),
    "others in its place": (
        lambda f: (f / "step-000002.safetensors").write_bytes((f / "step-000003.safetensors").read_bytes()),
        "step-000002.safetensors: has been changed, or doesn't follow the step before it",
    ),
    "a foreign file": (
        lambda f: save_file({"x": torch.zeros(1)}, f / "step-000001.safetensors"),
        "step-000001.safetensors: can't be",
    ),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    stored(folder)
    return folder


@pytest.mark.parametrize("what", SPOILT)
def test_what_cannot_be_loaded(tmp_path: Path, good: Path, what: str) -> None:
    for path in good.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    spoil, says = SPOILT[what]
    spoil(tmp_path)
    model = build_model("llama")
    with pytest.raises(RunError, match=re.escape(says)) as caught:
        load_state(model, build_tokenizer(), hparams_for(), tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert not GraceEditor.all_of(model), "the model is as it was"


def test_a_file_that_is_no_edit_is_left_alone(tmp_path: Path, good: Path) -> None:
    for path in good.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "step-abc.safetensors").write_bytes(b"mine")
    model = build_model("llama")
    load_state(model, build_tokenizer(), hparams_for(), tmp_path)
    assert GraceEditor.all_of(model)


def test_another_runs_edits(good: Path) -> None:
    with pytest.raises(RunError, match=r"step-000002.* is the edit of case case 1, but edit 2 of the run's journal"):
        loaded(good, ["case 0", "case 7"])
    with pytest.raises(RunError, match=r"step-000007\.safetensors: can't be read"):
        loaded(good, [f"case {n}" for n in range(7)])


def test_other_models_and_layers(good: Path) -> None:
    with pytest.raises(RunError, match="with other weights than this"):
        load_state(build_model("gpt2"), build_tokenizer(), hparams_for(), good)
    model, _, _ = edited(0)
    with pytest.raises(RunError, match="carries GRACE edits already"):
        load_state(model, build_tokenizer(), hparams_for(), good)


def test_two_layers_are_too_many(tmp_path: Path) -> None:
    model, _, _ = edited(0)
    hparams = GraceHyperParams(model_name="m", inner_params=["model.layers[1].mlp.down_proj"], n_iter=2)
    GraceEditor.on(model, build_tokenizer(), hparams).edit(requests_for(1))
    with pytest.raises(RunError, match=r"layers\.2.*layers\.1.*only one layer's can be saved"):
        save_state(model, tmp_path)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, editor = stored(tmp_path, 0, 1)
    editor.edit(requests_for(2))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(RunError, match="GRACE's edits can't be written: No space left on device"):
            save_state(model, tmp_path)
    assert same(edited(0, 1)[1], loaded(tmp_path)[1]), "what was written stays"
    save_state(model, tmp_path)
    assert same(editor, loaded(tmp_path)[1])


def test_restoring_upon_edits() -> None:
    model, editor, _ = edited(0)
    (part,) = GraceStore().parts(model)
    with pytest.raises(EditError, match="onto an unedited model only"):
        editor.adopt(SerializedEdits.of(part, "here"))


def test_redo_undoes_undo() -> None:
    """Of every decision, on a codebook of two dimensions."""
    codebook = Codebook(2, 3, eps=1.0)
    steps = [((0.0, 0.0), (1,)), ((1.5, 0.0), (1,)), ((1.0, 0.0), (2,)), ((1.0, 0.0), (3,)), ((0.0, 0.0), (1,))]
    seen = set()
    for n, (query, label) in enumerate(steps):
        decision, index, change = codebook.enter(torch.tensor(query), label, torch.full((3,), float(n)))
        seen.add(decision)
        touched = sorted({index, *([] if change.index is None else [change.index])})
        rows = [codebook.row(at) for at in touched]
        after = [codebook.row(at) for at in range(len(codebook))]
        codebook.undo(change)
        again = codebook.redo(rows)
        assert (again.length, again.index, again.label) == (change.length, change.index, change.label)
        for (_, before, row), (_, now, other) in zip(
            after, [codebook.row(at) for at in range(len(codebook))], strict=True
        ):
            assert before == now
            assert all(torch.equal(x, y) for x, y in zip(row, other, strict=True))
    assert seen == {Decision.ADD, Decision.EXPAND, Decision.SPLIT, Decision.SUPERSEDE, Decision.COVERED}
