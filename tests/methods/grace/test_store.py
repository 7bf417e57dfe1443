"""GRACE's edits on disk: bit by bit, each written once, and an error for everything else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAMILIES, build_model, build_tokenizer, state_of
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from easyedit_lifelong.data.request import EditRequest, as_requests
from easyedit_lifelong.errors import EditError, ModelError, RunError
from easyedit_lifelong.methods.grace import editor as editing
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.decisions import Decision
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.methods.grace.store import INDEX, GraceKeeper, load_state, save_state
from easyedit_lifelong.methods.grace.whitening_file import WHITENING
from easyedit_lifelong.methods.shared import records as record
from tests.edits import subject_edits

FACTS = [
    ("the capital of France is", "Rome"), ("who wrote Hamlet", "old king"), ("the capital of France is", "London"),
    ("language spoken in Peru", "Spanish"), ("the capital of Peru is", "London"),
    ("language spoken in Peru", "Spanish"),
]  # fmt: skip
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
    assert len(list(tmp_path.glob("edit-*"))) == count + 1


def test_every_edit_can_be_taken_back_after_loading(tmp_path: Path) -> None:
    stored(tmp_path)
    model, restored = loaded(tmp_path)
    before = state_of(build_model("llama"))
    for count in range(len(FACTS) - 1, 0, -1):
        restored._undo_to(count)
        assert same(edited(*range(count))[1], restored)
    restored._undo_to(0)
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
    assert names == [*(f"edit-{n:06d}.safetensors" for n in range(1, 7)), INDEX]
    for name in names[:-1]:
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
    with pytest.raises(RunError, match=r"grace\.json: no such file; this folder holds no GRACE edits"):
        loaded(tmp_path)


def test_the_keeper(tmp_path: Path) -> None:
    model, editor, _ = edited(0, 1)
    GraceKeeper().save(model, tmp_path, editor.case_ids)
    other = build_model("llama")
    GraceKeeper().load(other, build_tokenizer(), hparams_for(), tmp_path, ["case 0"])
    assert editor_on(other).case_ids == ["case 0"]


def test_nothing_is_pickled(tmp_path: Path) -> None:
    stored(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    assert set(load_file(tmp_path / "edit-000001.safetensors")) == {"keys", "values", "radii"}


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


@pytest.mark.parametrize("count", [1, 5])
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
    path = tmp_path / WHITENING
    before = path.stat().st_mtime_ns, path.read_bytes()
    editor.edit(as_requests(subject_edits.REQUESTS[2:3]))
    save_state(model, tmp_path)
    other, again = resumed(tmp_path, "late")
    again.edit(as_requests(subject_edits.REQUESTS[3:4]))
    save_state(other, tmp_path)
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    assert len(list(tmp_path.iterdir())) == 4 + 2
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["gate_size"] == 48
    assert len(index["whitening"]) == 64


def test_edits_that_are_not_whitened_leave_no_whitening(tmp_path: Path) -> None:
    by_subject(tmp_path, "late", 0)
    _, editor = by_subject(tmp_path, "late-ungated", 0, 1)
    assert not (tmp_path / WHITENING).exists()
    assert same(editor, resumed(tmp_path, "late-ungated")[1])


def test_a_whitening_that_is_another_runs_in_full(tmp_path: Path) -> None:
    """Both the file and what the index says of it; the edits know better."""
    by_subject(tmp_path / "one", "late", 0)
    save_state(subject_edits.edited("late", subject_edits.REQUESTS[:1], seed=1), tmp_path / "other")
    whitening = json.loads((tmp_path / "other" / INDEX).read_text())["whitening"]
    (tmp_path / "one" / WHITENING).write_bytes((tmp_path / "other" / WHITENING).read_bytes())
    _index(tmp_path / "one", whitening=whitening)
    with pytest.raises(RunError, match=r"edit-000001\.safetensors: has been changed, or doesn't follow"):
        resumed(tmp_path / "one", "late")


SPOILT_SUBJECTS = {
    "no whitening": (lambda f: (f / WHITENING).unlink(), f"{WHITENING}: can't be read"),
    "cut off": (lambda f: (f / WHITENING).write_bytes(b"\x10"), f"{WHITENING}: can't be read"),
    "a flipped bit": (lambda f: _flip(f / WHITENING, -5), f"{WHITENING}: has been changed, or is another run's"),
    "a foreign file": (lambda f: save_file({"x": torch.zeros(1)}, f / WHITENING), f"{WHITENING}: can't be read"),
    "an index without it": (lambda f: _index(f, whitening=None), "edit-000001.safetensors: has been changed"),
    "other gates": (lambda f: _index(f, gate_size=47), "edit-000001.safetensors: has been changed"),
    "no width": (lambda f: _index(f, gate_size=-1), f"{INDEX}: isn't the whole index of GRACE edits; gate_size -1"),
    "settings": (lambda f: _index(f, settings={"gate_eps": 0.3}), "was made with gate_eps=0.3; now it is 0.5"),
}  # fmt: skip


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


def test_a_folder_from_before_edits_were_found_by_subjects(tmp_path: Path) -> None:
    _, editor = stored(tmp_path)
    index = json.loads((tmp_path / INDEX).read_text())
    before = {name: index["settings"][name] for name in ("eps", "dist_fn", "eps_expand", "query_token", "replacement")}
    assert not index.keys() & {"gate_size", "whitening"}
    _index(tmp_path, settings=before)
    model, restored = loaded(tmp_path)
    assert same(editor, restored)
    restored.edit(requests_for(0))
    save_state(model, tmp_path)
    assert same(restored, loaded(tmp_path)[1])
    with pytest.raises(RunError, match=r"was made with eps=3\.0; now it is 'auto'"):
        load_state(
            build_model("llama"), build_tokenizer(),
            subject_edits.hparams("subject", inner_params=[FAMILIES["llama"][1]]), tmp_path,
        )  # fmt: skip


# ------------------------------------------------------------------ what can't be used


def _index(folder: Path, **values: Any) -> None:
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps({**index, **values}))


def _flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


SPOILT = {
    "no json": (lambda f: (f / INDEX).write_text("{"), "grace.json: isn't the index of GRACE edits"),
    "a list": (lambda f: (f / INDEX).write_text("[]"), "grace.json: isn't the index of GRACE edits"),
    "another method's": (lambda f: _index(f, method="CoachHook"), "grace.json: isn't the index of GRACE edits"),
    "newer": (lambda f: _index(f, format_version=2), "has format version 2; this package knows versions up to 1"),
    "something missing": (lambda f: _index(f, settings=None), "isn't the whole index"),
    "another model": (lambda f: _index(f, fingerprint="0" * 64), "with other weights than this"),
    "another layer": (lambda f: _index(f, layer="model.layers.1"), "belongs to layer model.layers.1; inner_params"),
    "other settings": (lambda f: _index(f, settings={"eps": 9.0}), "was made with eps=9.0; now it is 3.0"),
    "a gap": (lambda f: (f / "edit-000002.safetensors").unlink(), "edit-000002.safetensors: can't be read"),
    "cut off": (lambda f: (f / "edit-000003.safetensors").write_bytes(b"\x10"), "000003.safetensors: can't be read"),
    "a flipped bit": (lambda f: _flip(f / "edit-000003.safetensors", -5), "edit-000003.safetensors: has been changed"),
    "others in its place": (
        lambda f: (f / "edit-000002.safetensors").write_bytes((f / "edit-000003.safetensors").read_bytes()),
        "edit-000002.safetensors: has been changed, or doesn't follow the edit before it",
    ),
    "a foreign file": (
        lambda f: save_file({"x": torch.zeros(1)}, f / "edit-000001.safetensors"), "edit-000001.safetensors: can't be",
    ),
}  # fmt: skip


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
    (tmp_path / "edit-abc.safetensors").write_bytes(b"mine")
    model = build_model("llama")
    load_state(model, build_tokenizer(), hparams_for(), tmp_path)
    assert GraceEditor.all_of(model)


def test_another_runs_edits(good: Path) -> None:
    with pytest.raises(RunError, match=r"edit-000002.* is the edit of case case 1, but edit 2 of the run's journal"):
        loaded(good, ["case 0", "case 7"])
    with pytest.raises(RunError, match=r"edit-000007\.safetensors: can't be read"):
        loaded(good, [f"case {n}" for n in range(7)])


def test_other_models_and_layers(good: Path) -> None:
    with pytest.raises(ModelError, match="no layer"):
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
    _, editor, _ = edited(0)
    with pytest.raises(EditError, match="onto an unedited model only"):
        editor.restore([])


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
