"""How often keys answered, what a folder of edits holds, and which keys are neighbours."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import apply_grace_to_model, explain, inspect_edits, load_edits, rollback_case, save_edits
from easyedit_lifelong.edits.folder_parts import read_edits, write_edits
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.coachhook.editor import coachhook_editor
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.neighbours import neighbours_of
from tests.support.coachhook_edits import FACTS, OTHERS
from tests.support.grace_edits import EDITS, edited, editor_of, hparams
from tests.support.saved_edits import coachhook, grace_and_coachhook
from tests.support.tiny_models import build_model, build_tokenizer

# ------------------------------------------------------------------ hits


def run_prompts(model: Any, *prompts: str) -> None:
    """Run a batch of prompts, so that keys that match them get hits."""
    tokenizer = build_tokenizer()
    with torch.no_grad():
        model(**tokenizer(list(prompts), return_tensors="pt", padding=True))


def test_hits_count_answers_and_survive_saving_and_rollback(tmp_path: Path) -> None:
    model, _ = edited(EDITS[:4], eps=0.5)
    codebook = editor_of(model).codebook
    assert codebook is not None
    assert codebook.hits == {}, "training and its checks must not count"
    run_prompts(model, FACTS[0][0], OTHERS[0])
    run_prompts(model, FACTS[0][0], FACTS[2][0])
    explain(model, build_tokenizer(), FACTS[0][0])
    assert codebook.hits == {0: 2, 2: 1}
    for cache in (True, False):
        inputs = build_tokenizer()(FACTS[3][0], return_tensors="pt")
        model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False, use_cache=cache)
    assert codebook.hits == {0: 2, 2: 1, 3: 2}, "a generation must count once, not once per token"
    assert not any("hits" in name for name in model.state_dict())
    apply_grace_to_model(model, build_tokenizer(), EDITS[6:], hparams(eps=0.5))
    assert codebook.hits == {0: 2, 2: 1, 3: 2}

    save_edits(model, tmp_path)
    reloaded = build_model("llama")
    load_edits(reloaded, tmp_path)
    reloaded_codebook = editor_of(reloaded).codebook
    assert reloaded_codebook is not None
    assert reloaded_codebook.hits == codebook.hits
    rollback_case(reloaded, "c0")
    assert reloaded_codebook.hits == {1: 1, 2: 2}, "hits must stay with the edits that added the keys"
    twin = copy.deepcopy(reloaded)
    run_prompts(reloaded, FACTS[3][0])
    assert editor_of(twin).codebook.hits == {1: 1, 2: 2}


def test_training_of_another_editor_adds_no_hits() -> None:
    model, _ = edited(EDITS[:1])
    codebook = editor_of(model).codebook
    assert codebook is not None
    higher = hparams(inner_params=["model.layers[3].mlp.down_proj"])
    apply_grace_to_model(model, build_tokenizer(), EDITS[:1], higher)
    assert codebook.hits == {}
    run_prompts(model, FACTS[0][0])
    assert codebook.hits == {0: 1}
    coachhook(model, "llama")
    assert codebook.hits == {0: 1}


@pytest.mark.parametrize("hits", [[1], [1, -1], [1, True], {"0": 1}, "11", [0.5, 1]])
def test_invalid_hits_in_a_folder_are_refused(tmp_path: Path, hits: Any) -> None:
    model, _ = edited([EDITS[0], EDITS[6]], eps=0.5)
    save_edits(model, tmp_path)
    saved = read_edits(tmp_path)
    ((method, part),) = saved.parts
    part.state["hits"] = hits
    write_edits(tmp_path, saved.model, saved.fingerprint, [(method, part)])
    for read in (inspect_edits, lambda folder: load_edits(build_model("llama"), folder)):
        with pytest.raises(RunError, match="hits must be 2 counts, one for each key"):
            read(tmp_path)


# ------------------------------------------------------------------ the content of a folder


def test_inspect_lists_the_edits_and_batches_of_a_folder(tmp_path: Path) -> None:
    model = build_model("llama")
    grace_and_coachhook(model, "llama")
    run_prompts(model, FACTS[3][0])
    save_edits(model, tmp_path)
    content = inspect_edits(tmp_path, nearly=3.0)
    codebook = editor_of(model).codebook
    assert codebook is not None
    grace_part, coachhook_part = content.parts
    assert (content.count, grace_part.method, coachhook_part.method) == (9, "GRACE", "CoachHook")
    assert grace_part.layers == ["model.layers.2.mlp.down_proj"]
    assert [edit["key"] for edit in grace_part.edits] == [0, 1, 2, 3, 0]
    assert [edit["replaced_by"] for edit in grace_part.edits] == [5, None, None, None, None]
    assert [edit["decision"] for edit in grace_part.edits][-1] == "supersede"
    assert [edit["radius"] for edit in grace_part.edits] == codebook.radii[[0, 1, 2, 3, 0]].tolist()
    assert [edit["hits"] for edit in grace_part.edits] == [codebook.hits[key] for key in (0, 1, 2, 3, 0)]
    assert grace_part.near == sorted(grace_part.near, key=lambda pair: pair["nearness"])
    assert {tuple(pair["keys"]) for pair in grace_part.near} == {
        tuple(sorted((edit["key"], edit["neighbour"]))) for edit in grace_part.edits if edit["nearness"] <= 3
    }
    assert [edit["batch"] for edit in coachhook_part.edits] == [1, 1, 2, 2]
    assert [batch["edits"] for batch in coachhook_part.batches] == [2, 2]
    assert coachhook_part.batches[1]["alphas"] == coachhook_editor(model).alphas
    assert json.loads(json.dumps(content.to_dict()))["parts"][0]["edits"][0]["prompt"] == FACTS[0][0]


def test_inspect_reads_folders_of_format_1_and_refuses_others(tmp_path: Path) -> None:
    from tests.support.format_1 import FOLDER

    content = inspect_edits(FOLDER / "GRACE")
    assert [edit["decision"] for edit in content.parts[0].edits] == ["add", "split", "split", "split", "supersede"]
    assert sum(edit["hits"] for edit in content.parts[0].edits) == 0
    with pytest.raises(RunError, match="holds no saved edits"):
        inspect_edits(tmp_path)


# ------------------------------------------------------------------ neighbours


@pytest.mark.parametrize("dist_fn", ["euc", "cos"])
@pytest.mark.parametrize("count", [1, 2, 60])
def test_neighbours_equal_those_from_all_pairs(dist_fn: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from easyedit_lifelong.methods.grace.codebook import neighbours

    monkeypatch.setattr(neighbours, "_PAIRS_AT_ONCE", 7 * count)
    generator = torch.Generator().manual_seed(count)
    codebook = Codebook(16, 1, eps=2.0 if dist_fn == "euc" else 0.3, dist_fn=dist_fn)
    for n in range(count):
        codebook.insert(torch.randn(16, generator=generator), (n % 3,), torch.zeros(1))
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


def test_the_distance_of_nearly_equal_keys_is_accurate() -> None:
    codebook = Codebook(64, 1, eps=1.0)
    base = 100 + torch.rand(64, generator=torch.Generator().manual_seed(0))
    for n, shift in enumerate((0.0, 0.001, 50.0)):
        codebook._append(base + shift, (n,), torch.zeros(1), 0.001)
    neighbour = neighbours_of(codebook)[0]
    assert neighbour is not None
    assert (neighbour.key, neighbour.distance) == (1, pytest.approx(0.008, rel=0.01))
