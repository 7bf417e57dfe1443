"""Edits found by subject, inspected and explained: radii, neighbours, and which token is found and answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from easyedit_lifelong import (
    explain,
    inspect_edits,
    save_edits,
)
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.neighbours import neighbours_of
from tests.support.grace_edits import editor_of
from tests.support.layer_outputs import outputs_of
from tests.support.subject_edits import MODES, PROMPTS, REQUESTS, edited, hparams
from tests.support.tiny_models import build_model, build_tokenizer

LATE_MODES = ["late", "late-ungated"]


# ------------------------------------------------------------------ inspect


def _gate_of(codebook: Codebook, key: int) -> torch.Tensor:
    """Return a key's gate in the space in which gates are compared, by the definition of the relation metric."""
    gate, metric = codebook.gates[key].double(), codebook.relation_metric
    return gate if metric is None else (gate - metric.mean.double()) @ metric.projection.double()


def nearest_neighbour(codebook: Codebook, key: int) -> tuple[int | None, float | None]:
    """Find the neighbour by a loop over all pairs of keys and their key vectors."""
    candidates: list[tuple[float, int]] = []
    vectors = codebook.key_vectors.view(len(codebook), codebook.vectors_per_key, -1)
    for other_key in range(len(codebook)):
        gate, other_gate = (_gate_of(codebook, index) for index in (key, other_key))
        gate_distance = 1 - torch.cosine_similarity(gate, other_gate, dim=0)
        if other_key == key or (codebook.gate_eps is not None and gate_distance > codebook.gate_eps):
            continue
        pairs = [1 - torch.cosine_similarity(a, b, dim=0).item() for a in vectors[key] for b in vectors[other_key]]
        candidates.append((min(pairs) / float(codebook.radii[key] + codebook.radii[other_key]), other_key))
    return (min(candidates)[1], min(candidates)[0]) if candidates else (None, None)


@pytest.mark.parametrize("mode", MODES)
def test_inspect_lists_settings_radii_and_neighbours(tmp_path: Path, mode: str) -> None:
    model = edited(mode)
    save_edits(model, tmp_path)
    (part,) = inspect_edits(tmp_path, nearly=1e9).parts
    codebook, hyperparameters = editor_of(model).codebook, hparams(mode)
    assert codebook is not None
    optional = ("query_token", "whiten", "key_templates", "answer_layer", "gate_eps")
    assert part.settings == {
        "eps": hyperparameters.eps,
        "dist_fn": "cos",
        "eps_expand": "coverage",
        "replacement": "replace_last",
        **{name: getattr(hyperparameters, name) for name in optional if getattr(hyperparameters, name)},
        **({"gate_metric": "relations"} if mode == "late-relations" else {}),
    }
    assert [edit["case_id"] for edit in part.edits] == [request["case_id"] for request in REQUESTS]
    assert [edit["radius"] for edit in part.edits] == [codebook.radii[edit["key"]].item() for edit in part.edits]
    for entry in part.edits:
        expected = nearest_neighbour(codebook, entry["key"])
        assert (entry["neighbour"], entry["nearness"]) == (
            expected[0],
            expected[1] and pytest.approx(expected[1], rel=1e-4),
        )
    assert json.loads(json.dumps(part.settings)) == part.settings


@pytest.mark.parametrize("dist_fn", ["euc", "cos"])
@pytest.mark.parametrize("gates", [False, True])
@pytest.mark.parametrize("count", [2, 40])
def test_neighbours_are_nearest_by_any_key_vector_and_within_the_gate(
    dist_fn: str, gates: bool, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from easyedit_lifelong.methods.grace.codebook import neighbours

    monkeypatch.setattr(neighbours, "_PAIRS_AT_ONCE", 70 * count)
    generator = torch.Generator().manual_seed(count)
    codebook = Codebook(
        8,
        1,
        eps=0.1,
        dist_fn=dist_fn,
        vectors_per_key=3,
        gate_size=4 if gates else 0,
        gate_eps=0.6 if gates else None,
        per_edit_eps=True,
    )
    for n in range(count):
        value = torch.cat(
            [torch.randn(1 + codebook.gate_size, generator=generator), torch.rand(1, generator=generator)]
        )
        codebook._append(torch.randn(24, generator=generator), (n,), value, float(value[-1]))
    vectors = codebook.key_vectors.view(count, 3, 8)
    nearness = torch.full((count, count), float("inf"))
    for key in range(count):
        for other_key in range(count):
            gate_is_far = (
                gates and 1 - torch.cosine_similarity(codebook.gates[key], codebook.gates[other_key], dim=0) > 0.6
            )
            if key != other_key and not gate_is_far:
                if dist_fn == "euc":
                    pairs = torch.cdist(vectors[key], vectors[other_key])
                else:
                    pairs = 1 - torch.cosine_similarity(vectors[key].unsqueeze(1), vectors[other_key], dim=-1)
                nearness[key, other_key] = pairs.min() / (codebook.radii[key] + codebook.radii[other_key])
    found = neighbours_of(codebook)
    for key, neighbour in enumerate(found):
        if nearness[key].isinf().all():
            assert neighbour is None
        else:
            assert neighbour is not None
            assert neighbour.nearness == pytest.approx(float(nearness[key].min()), rel=1e-3)
            assert neighbour.nearness == pytest.approx(float(nearness[key, neighbour.key]), rel=1e-3)


def test_edits_with_distant_gates_are_not_neighbours() -> None:
    codebook = Codebook(2, 1, eps=1.0, gate_size=2, gate_eps=0.5)
    for gate in ((1.0, 0.0), (0.0, 1.0)):
        codebook.insert(torch.zeros(2), (1,), torch.tensor([5.0, *gate]))
    assert len(codebook) == 2
    assert neighbours_of(codebook) == [None, None]
    codebook.insert(torch.tensor([0.0, 3.0]), (2,), torch.tensor([5.0, 1.0, 0.0]))
    assert [neighbour and neighbour.key for neighbour in neighbours_of(codebook)] == [2, None, 0]


# ------------------------------------------------------------------ explain


@pytest.mark.parametrize("mode", ["subject", "subject-plain"])
def test_explain_shows_the_subject_tokens_that_are_replaced(mode: str) -> None:
    model, unedited, answering_cases = edited(mode), build_model("llama"), set()
    editor = editor_of(model)
    assert editor.codebook is not None
    for prompt in PROMPTS:
        (layer,) = explain(model, build_tokenizer(), prompt).grace
        edited_output = outputs_of(model, editor.path, prompt)
        changed = (outputs_of(unedited, editor.path, prompt) != edited_output).any(dim=-1).tolist()
        assert [token.replaced for token in layer.tokens] == changed
        assert [token.fired for token in layer.tokens] == changed
        assert all(token.looked_up and token.gate_distance is None for token in layer.tokens)
        for column, token in enumerate(layer.tokens):
            assert token.within == (token.distance <= token.radius * 1.001)
            if token.replaced:
                assert torch.equal(edited_output[column], editor.codebook.values[token.key])
        assert layer.answered_by == next((token.case_id for token in layer.tokens if token.replaced), None)
        answering_cases.add(layer.answered_by)
    assert {None, "c4", "c7"} <= answering_cases


@pytest.mark.parametrize("mode", LATE_MODES)
def test_explain_shows_where_a_late_answer_is_found_gated_and_given(mode: str) -> None:
    """A late answer is found at one token and given at another, unless the gate rejects it."""
    model, unedited, answering_cases, gated_prompts = edited(mode), build_model("llama"), set(), 0
    editor = editor_of(model)
    assert editor.codebook is not None
    key_of_case = {record.case_id: key for key, record in editor.record_of_key().items()}
    path = "model.layers.2.mlp.down_proj"
    for prompt in PROMPTS:
        explanation = explain(model, build_tokenizer(), prompt)
        (layer,) = explanation.grace
        assert (layer.layer, layer.gate_eps) == (editor.path, MODES[mode].get("gate_eps"))
        edited_output = outputs_of(model, path, prompt)
        changed = (outputs_of(unedited, path, prompt) != edited_output).any(dim=-1).tolist()
        assert [token.replaced for token in layer.tokens] == changed
        assert not any(changed[:-1])
        assert changed[-1] == (layer.answered_by is not None)
        found = [token for token in layer.tokens if token.fired]
        for token in found:
            assert token.distance <= token.radius * 1.001
            assert (token.gate_distance is not None) == (layer.gate_eps is not None)
        if layer.answered_by is not None:
            assert torch.equal(edited_output[-1], editor.codebook.values[key_of_case[layer.answered_by]])
            assert layer.tokens[-1].case_id == layer.answered_by
            assert "replaced" in str(explanation).splitlines()[-1]
        elif found:
            assert layer.gate_eps is not None
            assert all(token.gate_distance > layer.gate_eps for token in found if token.gate_distance is not None)
            gated_prompts += 1
        assert str(explanation).count("  found") == len(found)
        assert ("kept back" in str(explanation)) >= (layer.answered_by is None and bool(found))
        answering_cases.add(layer.answered_by)
        json.dumps(explanation.to_dict())
    assert {None, "c4", "c7"} <= answering_cases
    assert bool(gated_prompts) == (mode == "late")


def test_tokens_of_a_late_answer_are_not_looked_up() -> None:
    """Teacher-forced tokens after the prompt are no part of the prompt."""
    model = edited("late")
    (layer,) = explain(model, build_tokenizer(), REQUESTS[0]["prompt"], "London France").grace
    assert [token.looked_up for token in layer.tokens] == [True] * 5 + [False] * 2
    assert [token.replaced for token in layer.tokens] == [False] * 4 + [True] + [False] * 2
    assert layer.answered_by == "c4"
