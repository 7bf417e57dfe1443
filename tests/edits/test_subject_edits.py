"""Edits that are found by their subjects live as all others do: edited on, taken back, merged, inspected, explained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import (
    apply_grace_to_model,
    explain,
    inspect_edits,
    load_edits,
    merge_edits,
    rollback_case,
    rollback_folder,
    save_edits,
)
from easyedit_lifelong.edits.parts import read_edits, write_edits
from easyedit_lifelong.errors import EditError, RunError
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.neighbours import neighbours_of
from easyedit_lifelong.methods.grace.serialized import SerializedEdits
from tests.support.coachhook_edits import anatomy_of_everything, same_tensors
from tests.support.grace_edits import book_of, editor_of, entered_without
from tests.support.subject_edits import MODES, PROMPTS, REQUESTS, edited, hparams
from tests.support.thoroughness import default_cases
from tests.support.tiny_models import build_model, build_tokenizer, state_of

LATE = ["late", "late-ungated"]


def said(model: Any) -> list[torch.Tensor]:
    """What a model says to the prompts: the edits', and others on their subjects."""
    with torch.no_grad():
        return [model(**build_tokenizer()(prompt, return_tensors="pt")).logits for prompt in PROMPTS]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def outputs_of(model: Any, path: str, prompt: str) -> torch.Tensor:
    """What a layer returns in a pass over a prompt."""
    found: list[torch.Tensor] = []
    handle = model.get_submodule(path).register_forward_hook(lambda _m, _a, out: found.append(out[0]))
    with torch.no_grad():
        model(**build_tokenizer()(prompt, return_tensors="pt"))
    handle.remove()
    return found[0]


# ------------------------------------------------------------------ saved, and edited on


@pytest.mark.parametrize("mode", MODES)
def test_editing_goes_on_where_it_was(tmp_path: Path, mode: str) -> None:
    """No second moments are there any more: what whitens comes out of the folder."""
    model, other = edited(mode, REQUESTS[:5]), build_model("llama")
    save_edits(model, tmp_path)
    load_edits(other, tmp_path, build_tokenizer())
    for one in (model, other):
        _, undo = apply_grace_to_model(one, build_tokenizer(), REQUESTS[5:], hparams(mode))
        assert len(undo.results) == len(REQUESTS) - 5
    assert same_tensors(state_of(model), state_of(other))
    assert equal(said(model), said(other))


def test_a_folder_holds_what_whitens_and_the_gates_width(tmp_path: Path) -> None:
    for mode in MODES:
        save_edits(edited(mode), tmp_path / mode)
        ((_, part),) = read_edits(tmp_path / mode).parts
        assert ("whitening" in part.tensors) == (MODES[mode].get("whiten", True)), mode
        assert part.state.get("gate_size") == (48 if mode == "late" else None)


def _without(part: EditsPart, name: str) -> None:
    del part.tensors[name]


SPOILT: dict[str, Any] = {
    "no whitening": (lambda part: _without(part, "whitening"), "the whitening is missing with whiten: true"),
    "a narrower one": (
        lambda part: part.tensors.update(whitening=part.tensors["whitening"][1:].clone()),
        "isn't one of keys of width 48",
    ),
    "a vector": (lambda part: part.tensors.update(whitening=torch.zeros(48)), "isn't one of keys of width 48"),
    "NaN": (lambda part: part.tensors["whitening"].fill_(float("nan")), "isn't one of keys of width 48"),
    "an unasked one": (lambda part: part.hparams.update(whiten=False), "the whitening is there with whiten: false"),
    "no gates": (lambda part: part.state.pop("gate_size"), "gates of width 0 with gate_eps: 0.5"),
    "gates too wide": (lambda part: part.state.update(gate_size=1000), "no room for gates of width 1000"),
    "no width": (lambda part: part.state.update(gate_size=-1), "gate_size -1 is no width"),
    "no number": (lambda part: part.state.update(gate_size="x"), "gate_size 'x' is no width"),
    "other views": (
        lambda part: part.hparams.update(key_templates=["a {prompt}"] * 4),
        "keys of width 96 aren't of 5 views",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_what_is_not_whole(tmp_path: Path, what: str) -> None:
    save_edits(edited("late", REQUESTS[:2]), tmp_path)
    saved = read_edits(tmp_path)
    ((method, part),) = saved.parts
    spoil, says = SPOILT[what]
    spoil(part)
    write_edits(tmp_path, saved.model, saved.fingerprint, [(method, part)])
    model = build_model("llama")
    before, parts = state_of(model), anatomy_of_everything(model)
    for look in (inspect_edits, lambda folder: load_edits(model, folder)):
        with pytest.raises(RunError, match=f"edits.json: GRACE's edits aren't whole: .*{says}"):
            look(tmp_path)
    assert same_tensors(state_of(model), before)
    assert anatomy_of_everything(model) == parts


# ------------------------------------------------------------------ taken back


@pytest.mark.parametrize("number", default_cases(range(len(REQUESTS)), 0, 1, 4, 6))
@pytest.mark.parametrize("mode", default_cases(MODES, "late", "subject"))
def test_a_case_goes_from_a_model_and_from_a_folder_alike(tmp_path: Path, mode: str, number: int) -> None:
    model, case = edited(mode), f"c{number}"
    save_edits(model, tmp_path / "whole")
    expected = entered_without(editor_of(model), number)
    rollback_case(model, case)
    assert same_tensors(book_of(model), expected)
    assert rollback_folder(tmp_path / "whole", cases=[case], out=tmp_path / "less").left == len(REQUESTS) - 1
    other = build_model("llama")
    undo = load_edits(other, tmp_path / "less")
    assert same_tensors(state_of(other), state_of(model))
    assert equal(said(other), said(model))
    undo()
    assert same_tensors(state_of(other), state_of(build_model("llama")))
    assert equal(said(other), said(build_model("llama")))


# ------------------------------------------------------------------ merged


@pytest.mark.parametrize("mode", default_cases(MODES, "late", "subject"))
def test_a_stream_in_two_folders_is_the_stream(tmp_path: Path, mode: str) -> None:
    """Cut where no later edit goes on with an earlier one's value, which it couldn't know."""
    for name, some in (("a", REQUESTS[:2]), ("b", REQUESTS[2:5]), ("c", REQUESTS[6:8])):
        save_edits(edited(mode, some, train_batch=1), tmp_path / name)
    whole = edited(mode, [*REQUESTS[:5], *REQUESTS[6:8]], train_batch=1)
    report = merge_edits([tmp_path / "a", tmp_path / "b", tmp_path / "c"], tmp_path / "all")
    model = build_model("llama")
    load_edits(model, tmp_path / "all")
    assert same_tensors(state_of(model), state_of(whole))
    assert equal(said(model), said(whole))
    assert ("c4", "supersede", "c0") in {(one.case_id, one.decision, one.with_case_id) for one in report.conflicts}
    met = {one.case_id for one in report.conflicts}
    assert ("c6" in met) == (mode != "late") or mode == "subject", "another fact about France, behind a gate of its own"


OTHERS: dict[str, Any] = {
    "other second moments": ({"seed": 1}, "its keys are whitened otherwise than those of the folders before it"),
    "other gates": ({"gate_eps": 0.3}, "made with gate_eps=0.3; the folders before it with gate_eps=0.5"),
    "other templates": ({"key_templates": ["old {prompt}"]}, "made with key_templates="),
    "another layer that answers": (
        {"answer_layer": "model.layers.3.mlp.down_proj"},
        "made with answer_layer='model.layers.3.mlp.down_proj'",
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_cannot_be_merged(tmp_path: Path, what: str) -> None:
    options, says = OTHERS[what]
    save_edits(edited("late", REQUESTS[:2]), tmp_path / "one")
    save_edits(edited("late", REQUESTS[2:4], **options), tmp_path / "two")
    with pytest.raises(RunError, match=f"two.edits.json: {says}"):
        merge_edits([tmp_path / "one", tmp_path / "two"], tmp_path / "all")
    assert not (tmp_path / "all").exists()


# ------------------------------------------------------------------ inspected


@pytest.mark.parametrize("mode", MODES)
def test_a_folder_says_what_it_holds(tmp_path: Path, mode: str) -> None:
    model = edited(mode)
    save_edits(model, tmp_path)
    (part,) = inspect_edits(tmp_path, nearly=1e9).parts
    codebook, options = editor_of(model).codebook, hparams(mode)
    assert codebook is not None
    named = ("query_token", "whiten", "key_templates", "answer_layer", "gate_eps")
    assert part.settings == {
        "eps": options.eps,
        "dist_fn": "cos",
        "eps_expand": "coverage",
        "replacement": "replace_last",
        **{name: getattr(options, name) for name in named if getattr(options, name)},
    }
    assert [edit["case_id"] for edit in part.edits] == [request["case_id"] for request in REQUESTS]
    assert [edit["radius"] for edit in part.edits] == [codebook.radii[edit["key"]].item() for edit in part.edits]
    for entry in part.edits:
        wanted = _nearest_rival(codebook, entry["key"])
        assert (entry["neighbour"], entry["nearness"]) == (wanted[0], wanted[1] and pytest.approx(wanted[1], rel=1e-4))
    assert json.loads(json.dumps(part.settings)) == part.settings


def _nearest_rival(codebook: Codebook, key: int) -> tuple[int | None, float | None]:
    """The neighbour as a loop over all pairs of keys and views finds it."""
    found: list[tuple[float, int]] = []
    views = codebook.key_vectors.view(len(codebook), codebook.views, -1)
    for other in range(len(codebook)):
        apart = 1 - torch.cosine_similarity(codebook.gates[key], codebook.gates[other], dim=0)
        if other == key or (codebook.gate_eps is not None and apart > codebook.gate_eps):
            continue
        pairs = [1 - torch.cosine_similarity(a, b, dim=0).item() for a in views[key] for b in views[other]]
        found.append((min(pairs) / float(codebook.radii[key] + codebook.radii[other]), other))
    return (min(found)[1], min(found)[0]) if found else (None, None)


@pytest.mark.parametrize("dist_fn", ["euc", "cos"])
@pytest.mark.parametrize("gates", [False, True])
@pytest.mark.parametrize("count", [2, 40])
def test_neighbours_are_the_nearest_views_of_rivals(
    dist_fn: str, gates: bool, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from easyedit_lifelong.methods.grace.codebook import neighbours

    monkeypatch.setattr(neighbours, "_PAIRS_AT_ONCE", 70 * count)
    draw = torch.Generator().manual_seed(count)
    book = Codebook(
        8,
        1,
        eps=0.1,
        dist_fn=dist_fn,
        views=3,
        gate_size=4 if gates else 0,
        gate_eps=0.6 if gates else None,
        per_edit_eps=True,
    )
    for n in range(count):
        value = torch.cat([torch.randn(1 + book.gate_size, generator=draw), torch.rand(1, generator=draw)])
        book._append(torch.randn(24, generator=draw), (n,), value, float(value[-1]))
    views = book.key_vectors.view(count, 3, 8)
    nearness = torch.full((count, count), float("inf"))
    for one in range(count):
        for other in range(count):
            far = gates and 1 - torch.cosine_similarity(book.gates[one], book.gates[other], dim=0) > 0.6
            if one != other and not far:
                if dist_fn == "euc":
                    pairs = torch.cdist(views[one], views[other])
                else:
                    pairs = 1 - torch.cosine_similarity(views[one].unsqueeze(1), views[other], dim=-1)
                nearness[one, other] = pairs.min() / (book.radii[one] + book.radii[other])
    found = neighbours_of(book)
    for key, neighbour in enumerate(found):
        if nearness[key].isinf().all():
            assert neighbour is None
        else:
            assert neighbour is not None
            assert neighbour.nearness == pytest.approx(float(nearness[key].min()), rel=1e-3)
            assert neighbour.nearness == pytest.approx(float(nearness[key, neighbour.key]), rel=1e-3)


def test_edits_behind_gates_far_apart_have_no_neighbour() -> None:
    book = Codebook(2, 1, eps=1.0, gate_size=2, gate_eps=0.5)
    for gate in ((1.0, 0.0), (0.0, 1.0)):
        book.enter(torch.zeros(2), (1,), torch.tensor([5.0, *gate]))
    assert len(book) == 2
    assert neighbours_of(book) == [None, None]
    book.enter(torch.tensor([0.0, 3.0]), (2,), torch.tensor([5.0, 1.0, 0.0]))
    assert [one and one.key for one in neighbours_of(book)] == [2, None, 0]


# ------------------------------------------------------------------ explained


@pytest.mark.parametrize("mode", ["subject", "subject-plain"])
def test_what_is_explained_is_what_the_layer_returns_at_subjects(mode: str) -> None:
    model, unedited, answered = edited(mode), build_model("llama"), set()
    editor = editor_of(model)
    assert editor.codebook is not None
    for prompt in PROMPTS:
        (layer,) = explain(model, build_tokenizer(), prompt).grace
        now = outputs_of(model, editor.path, prompt)
        changed = (outputs_of(unedited, editor.path, prompt) != now).any(dim=-1).tolist()
        assert [token.replaced for token in layer.tokens] == changed
        assert [token.fired for token in layer.tokens] == changed
        assert all(token.looked_up and token.gate_distance is None for token in layer.tokens)
        for column, token in enumerate(layer.tokens):
            assert token.within == (token.distance <= token.radius * 1.001)
            if token.replaced:
                assert torch.equal(now[column], editor.codebook.values[token.key])
        assert layer.answered_by == next((token.case_id for token in layer.tokens if token.replaced), None)
        answered.add(layer.answered_by)
    assert {None, "c4", "c7"} <= answered


@pytest.mark.parametrize("mode", LATE)
def test_what_is_explained_of_late_answers(mode: str) -> None:
    """Found at one token, answered at another, and kept back by the gate: each as the model's pass has it."""
    model, unedited, answered, kept_back = edited(mode), build_model("llama"), set(), 0
    editor = editor_of(model)
    assert editor.codebook is not None
    cases = {record.case_id: key for key, record in editor.record_of_key().items()}
    path = "model.layers.2.mlp.down_proj"
    for prompt in PROMPTS:
        told = explain(model, build_tokenizer(), prompt)
        (layer,) = told.grace
        assert (layer.layer, layer.gate_eps) == (editor.path, MODES[mode].get("gate_eps"))
        now = outputs_of(model, path, prompt)
        changed = (outputs_of(unedited, path, prompt) != now).any(dim=-1).tolist()
        assert [token.replaced for token in layer.tokens] == changed
        assert not any(changed[:-1])
        assert changed[-1] == (layer.answered_by is not None)
        found = [token for token in layer.tokens if token.fired]
        for token in found:
            assert token.distance <= token.radius * 1.001
            assert (token.gate_distance is not None) == (layer.gate_eps is not None)
        if layer.answered_by is not None:
            assert torch.equal(now[-1], editor.codebook.values[cases[layer.answered_by]])
            assert layer.tokens[-1].case_id == layer.answered_by
            assert "replaced" in str(told).splitlines()[-1]
        elif found:
            assert layer.gate_eps is not None
            assert all(token.gate_distance > layer.gate_eps for token in found if token.gate_distance is not None)
            kept_back += 1
        assert str(told).count("  found") == len(found)
        assert ("kept back" in str(told)) >= (layer.answered_by is None and bool(found))
        answered.add(layer.answered_by)
        json.dumps(told.to_dict())
    assert {None, "c4", "c7"} <= answered
    assert bool(kept_back) == (mode == "late")


def test_an_answer_is_looked_up_at_its_subject_but_answers_nothing_late() -> None:
    """Teacher-forced tokens behind the prompt aren't the prompt's."""
    model = edited("late")
    (layer,) = explain(model, build_tokenizer(), REQUESTS[0]["prompt"], "London France").grace
    assert [token.looked_up for token in layer.tokens] == [True] * 5 + [False] * 2
    assert [token.replaced for token in layer.tokens] == [False] * 4 + [True] + [False] * 2
    assert layer.answered_by == "c4"


# ------------------------------------------------------------------ the rest


def test_no_weights_do_what_they_do(tmp_path: Path) -> None:
    from easyedit_lifelong import export_model

    with pytest.raises(EditError, match="can't be put into plain weights"):
        export_model(edited("late", REQUESTS[:1]), build_tokenizer(), tmp_path / "model")


def test_packed_edits_keep_their_space(tmp_path: Path) -> None:
    """Unpacked and packed again without a model, nothing is lost."""
    save_edits(edited("late"), tmp_path)
    ((_, part),) = read_edits(tmp_path).parts
    again = SerializedEdits.of(part, "here").part()
    assert again.state == part.state
    assert same_tensors(again.tensors, part.tensors)
