"""Looking at edits: what a folder holds, how often keys answered, which edit answers a prompt and why."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import apply_grace_to_model, explain, inspect_edits, load_edits, rollback_case, save_edits
from easyedit_lifelong.edits.parts import read_edits, write_edits
from easyedit_lifelong.errors import DataError, EditError, RunError
from easyedit_lifelong.methods.coachhook.editor import coachhook_editor
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.neighbours import neighbours_of
from tests.support.coachhook_edits import FACTS, OTHERS
from tests.support.grace_edits import EDITS, edited, editor_of, hparams
from tests.support.saved_edits import METHODS, both, coachhook
from tests.support.tiny_models import FAMILIES, build_model, build_tokenizer

PROMPTS = [*(prompt for prompt, _, _ in FACTS), *OTHERS]


def outputs_of(model: Any, paths: list[str], prompt: str) -> dict[str, torch.Tensor]:
    """What the layers return in a pass over a prompt."""
    found: dict[str, torch.Tensor] = {}
    handles = [
        model.get_submodule(path).register_forward_hook(lambda _m, _a, out, path=path: found.update({path: out[0]}))
        for path in paths
    ]
    with torch.no_grad():
        model(**build_tokenizer()(prompt, return_tensors="pt"))
    for handle in handles:
        handle.remove()
    return found


# ------------------------------------------------------------------ explain


@pytest.mark.parametrize("replacement", ["replace_last", "replace_all", "replace_prompt"])
def test_what_is_explained_of_a_codebook_is_what_the_layer_returns(family: str, replacement: str) -> None:
    model = build_model(family)
    options = hparams(inner_params=[FAMILIES[family][1]], replacement=replacement, eps=2.0)
    apply_grace_to_model(model, build_tokenizer(), EDITS, options)
    (editor,), unedited = [editor_of(model)], build_model(family)
    assert editor.codebook is not None
    answered = set()
    for prompt in PROMPTS:
        told = explain(model, build_tokenizer(), prompt)
        (layer,) = told.grace
        assert layer.layer == editor.path
        assert [token.looked_up for token in layer.tokens] == [False] * (len(layer.tokens) - 1) + [True]
        before = outputs_of(unedited, [editor.path], prompt)[editor.path]
        now = outputs_of(model, [editor.path], prompt)[editor.path]
        changed = (before != now).any(dim=-1).tolist()
        assert [token.replaced for token in layer.tokens] == changed
        last = layer.tokens[-1]
        answered.add(layer.answered_by)
        assert (layer.answered_by is not None) == last.fired
        if last.fired and changed[-1]:
            assert torch.equal(now[-1], editor.codebook.values[last.key])
        assert last.fired == (last.distance <= last.radius * 1.001)
        told_words = [token.token for token in layer.tokens]
        assert [word for word in told_words if word != "<unk>"] == [
            word for word, told_word in zip(prompt.split(), told_words, strict=True) if told_word != "<unk>"
        ]
        assert str(layer.answered_by or "deferred") in str(told)
    assert None in answered
    assert len(answered) > 3


def test_a_case_that_was_corrected_is_answered_by_the_later_one() -> None:
    model, _ = edited()
    (layer,) = explain(model, build_tokenizer(), FACTS[0][0]).grace
    assert layer.answered_by == "c4"
    assert layer.tokens[-1].distance < 1e-4  # a batch rounds otherwise than a prompt alone


def test_an_answer_moves_no_prompts_end() -> None:
    model, _ = edited()
    told = explain(model, build_tokenizer(), FACTS[1][0], "blue sea")
    (layer,) = told.grace
    assert [token.token for token in layer.tokens][-2:] == ["blue", "sea"]
    assert [token.looked_up for token in layer.tokens][-3:] == [True, False, False]
    assert layer.answered_by == "c5"
    assert json.loads(json.dumps(told.to_dict()))["answer"] == "blue sea"


@pytest.mark.parametrize("method", ["CoachHook", "CoachHook-weighed", "CoachHook-wohk"])
def test_what_is_explained_of_hooks_is_where_they_act(method: str) -> None:
    model, unedited, acted = build_model("llama"), build_model("llama"), set()
    METHODS[method](model, "llama")
    editor = coachhook_editor(model)
    for prompt in PROMPTS:
        told = explain(model, build_tokenizer(), prompt, "blue")
        assert [layer.layer for layer in told.coachhook] == list(editor.hooks)
        tokens = [token.acts for token in told.coachhook[0].tokens][:-1]
        acted |= set(tokens)
        path = told.coachhook[0].layer  # the first: nothing below it has moved its keys
        before = outputs_of(unedited, [path], prompt)[path]
        now = outputs_of(model, [path], prompt)[path]
        assert (before != now).any(dim=-1).tolist() == tokens
        for layer in told.coachhook:
            for token in layer.tokens:
                if layer.alpha is None:
                    assert token.acts
                    assert math.isnan(token.score)
                else:
                    assert layer.alpha == editor.alphas[layer.layer]
                    assert token.acts == (token.score >= layer.alpha - 2e-4 * max(1, layer.alpha))
        assert "acts" in str(told) or not any(tokens)
    assert acted == ({True} if method == "CoachHook-wohk" else {True, False})


def test_both_methods_are_explained_together_and_a_bare_model_is_not() -> None:
    model = build_model("llama")
    with pytest.raises(EditError, match="carries no edits"):
        explain(model, build_tokenizer(), "blue")
    both(model, "llama")
    told = explain(model, build_tokenizer(), FACTS[0][0])
    assert (len(told.grace), len(told.coachhook)) == (1, 3)
    with pytest.raises(DataError, match="no tokens"):
        explain(model, build_tokenizer(), "")


# ------------------------------------------------------------------ hits


def asked(model: Any, *prompts: str) -> None:
    tokenizer = build_tokenizer()
    with torch.no_grad():
        model(**tokenizer(list(prompts), return_tensors="pt", padding=True))


def test_a_key_counts_how_often_it_answered(tmp_path: Path) -> None:
    model, _ = edited(EDITS[:4], eps=0.5)
    codebook = editor_of(model).codebook
    assert codebook is not None
    assert codebook.hits == {}, "training and its checks don't count"
    asked(model, FACTS[0][0], OTHERS[0])
    asked(model, FACTS[0][0], FACTS[2][0])
    explain(model, build_tokenizer(), FACTS[0][0])
    assert codebook.hits == {0: 2, 2: 1}
    for cache in (True, False):
        inputs = build_tokenizer()(FACTS[3][0], return_tensors="pt")
        model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False, use_cache=cache)
    assert codebook.hits == {0: 2, 2: 1, 3: 2}, "once for each answer"
    assert not any("hits" in name for name in model.state_dict())
    apply_grace_to_model(model, build_tokenizer(), EDITS[6:], hparams(eps=0.5))
    assert codebook.hits == {0: 2, 2: 1, 3: 2}

    save_edits(model, tmp_path)
    other = build_model("llama")
    load_edits(other, tmp_path)
    loaded = editor_of(other).codebook
    assert loaded is not None
    assert loaded.hits == codebook.hits
    rollback_case(other, "c0")
    assert loaded.hits == {1: 1, 2: 2}, "they stay with the edits that added the keys"
    twin = copy.deepcopy(other)
    asked(other, FACTS[3][0])
    assert editor_of(twin).codebook.hits == {1: 1, 2: 2}


def test_another_editors_training_does_not_count() -> None:
    model, _ = edited(EDITS[:1])
    codebook = editor_of(model).codebook
    assert codebook is not None
    higher = hparams(inner_params=["model.layers[3].mlp.down_proj"])
    apply_grace_to_model(model, build_tokenizer(), EDITS[:1], higher)
    coachhook(model, "llama")
    assert codebook.hits == {}
    asked(model, FACTS[0][0])
    assert sum(codebook.hits.values()) <= 1


@pytest.mark.parametrize("hits", [[1], [1, -1], [1, True], {"0": 1}, "11", [0.5, 1]])
def test_hits_that_are_not(tmp_path: Path, hits: Any) -> None:
    model, _ = edited([EDITS[0], EDITS[6]], eps=0.5)
    save_edits(model, tmp_path)
    saved = read_edits(tmp_path)
    ((method, part),) = saved.parts
    part.state["hits"] = hits
    write_edits(tmp_path, saved.model, saved.fingerprint, [(method, part)])
    for look in (inspect_edits, lambda folder: load_edits(build_model("llama"), folder)):
        with pytest.raises(RunError, match="hits must be 2 counts, one for each key"):
            look(tmp_path)


# ------------------------------------------------------------------ inspect


def test_a_folder_says_what_it_holds(tmp_path: Path) -> None:
    model = build_model("llama")
    both(model, "llama")
    asked(model, FACTS[3][0])
    save_edits(model, tmp_path)
    found = inspect_edits(tmp_path, nearly=3.0)
    codebook = editor_of(model).codebook
    assert codebook is not None
    first, second = found.parts
    assert (found.count, first.method, second.method) == (9, "GRACE", "CoachHook")
    assert first.layers == ["model.layers.2.mlp.down_proj"]
    assert [edit["key"] for edit in first.edits] == [0, 1, 2, 3, 0]
    assert [edit["replaced_by"] for edit in first.edits] == [5, None, None, None, None]
    assert [edit["decision"] for edit in first.edits][-1] == "supersede"
    assert [edit["radius"] for edit in first.edits] == codebook.radii[[0, 1, 2, 3, 0]].tolist()
    assert [edit["hits"] for edit in first.edits] == [codebook.hits[key] for key in (0, 1, 2, 3, 0)]
    assert first.near == sorted(first.near, key=lambda pair: pair["nearness"])
    assert {tuple(pair["keys"]) for pair in first.near} == {
        tuple(sorted((edit["key"], edit["neighbour"]))) for edit in first.edits if edit["nearness"] <= 3
    }
    assert [edit["batch"] for edit in second.edits] == [1, 1, 2, 2]
    assert [batch["edits"] for batch in second.batches] == [2, 2]
    assert second.batches[1]["alphas"] == coachhook_editor(model).alphas
    assert json.loads(json.dumps(found.to_dict()))["parts"][0]["edits"][0]["prompt"] == FACTS[0][0]


@pytest.mark.parametrize("dist_fn", ["euc", "cos"])
@pytest.mark.parametrize("count", [1, 2, 60])
def test_neighbours_are_those_of_all_pairs(dist_fn: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from easyedit_lifelong.methods.grace.codebook import neighbours

    monkeypatch.setattr(neighbours, "_PAIRS_AT_ONCE", 7 * count)
    generator = torch.Generator().manual_seed(count)
    codebook = Codebook(16, 1, eps=2.0 if dist_fn == "euc" else 0.3, dist_fn=dist_fn)
    for n in range(count):
        codebook.enter(torch.randn(16, generator=generator), (n % 3,), torch.zeros(1))
    distances, radii = codebook.distances(codebook.keys), codebook.radii
    nearness = (distances / (radii.unsqueeze(1) + radii)).fill_diagonal_(float("inf"))
    found = neighbours_of(codebook)
    if len(codebook) == 1:
        assert found == [None]
        return
    for key, neighbour in enumerate(found):
        assert neighbour is not None
        best = int(nearness[key].argmin())
        assert neighbour.key == best
        assert neighbour.nearness == pytest.approx(float(nearness[key, best]), rel=1e-4)
        assert neighbour.distance == pytest.approx(float(distances[key, best]), rel=1e-4)


def test_keys_that_are_all_but_the_same_keep_their_digits() -> None:
    codebook = Codebook(64, 1, eps=1.0)
    base = 100 + torch.rand(64, generator=torch.Generator().manual_seed(0))
    for n, shift in enumerate((0.0, 0.001, 50.0)):
        codebook._append(base + shift, (n,), torch.zeros(1), 0.001)
    neighbour = neighbours_of(codebook)[0]
    assert neighbour is not None
    assert (neighbour.key, neighbour.distance) == (1, pytest.approx(0.008, rel=0.01))


def test_a_folder_of_the_first_format(tmp_path: Path) -> None:
    from tests.support.format_1 import FOLDER

    found = inspect_edits(FOLDER / "GRACE")
    assert [edit["decision"] for edit in found.parts[0].edits] == ["add", "split", "split", "split", "supersede"]
    assert sum(edit["hits"] for edit in found.parts[0].edits) == 0
    with pytest.raises(RunError, match="holds no saved edits"):
        inspect_edits(tmp_path)
