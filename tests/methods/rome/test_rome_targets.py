"""Target vectors of ROME, at the output of an MLP's projection: equal to a plain optimisation, in every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from easyedit_lifelong.methods.locate_edit import suffix_rows
from easyedit_lifelong.methods.locate_edit.aligned_rows import group_rows
from easyedit_lifelong.methods.locate_edit.facts import Fact, encode_fact
from easyedit_lifelong.methods.locate_edit.suffix_rows import SuffixRows
from easyedit_lifelong.methods.locate_edit.target_vectors import TargetVectors, optimise_targets
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.runner import Runner
from tests.support.coachhook_edits import TEMPLATES, hparams_for, requests_for
from tests.support.reference_targets import ReferenceOptimisation
from tests.support.tiny_models import build_model, build_tokenizer

OPTIONS: dict[str, Any] = {"v_num_grad_steps": 6, "v_weight_decay": 0.1, "kl_factor": 0.3}


def encoded_facts(fact_token: str = "subject_last") -> list[Fact]:
    hparams = hparams_for("llama", fact_token=fact_token)
    return [encode_fact(build_tokenizer(), request, TEMPLATES, hparams, None) for request in requests_for()]


def optimise_at_projection(model: Any, hparams: Any, facts: list[Fact], layer: int) -> TargetVectors:
    projection = find_module(model, hparams.rewrite_module_tmp.format(layer))[1]
    return optimise_targets(Runner(model, build_tokenizer()), facts, hparams, layer, projection)


@pytest.mark.parametrize(
    ("layer", "fact_token"), [(0, "subject_last"), (1, "subject_last"), (3, "last")], ids=["first", "second", "last"]
)
@pytest.mark.parametrize("family_name", ["gpt2", "llama", "gptj"])
def test_a_batch_gives_the_reference_values_of_each_request(family_name: str, layer: int, fact_token: str) -> None:
    tolerance = 1e-5 if family_name == "gptj" else 1e-9  # GPT-J computes its attention in float32 in every dtype
    model = build_model(family_name, torch.float64)
    hparams, facts = hparams_for(family_name, fact_token=fact_token, **OPTIONS), encoded_facts(fact_token)
    batch = optimise_at_projection(model, hparams, facts, layer)
    for i, fact in enumerate(facts):
        z, steps, loss = ReferenceOptimisation(model, hparams, fact, layer, at_projection=True).optimise()
        assert (batch.steps[i], batch.losses[i]) == (steps, pytest.approx(loss, rel=tolerance))
        torch.testing.assert_close(batch.z[i], z, rtol=tolerance, atol=tolerance * float(z.norm()))


@pytest.mark.parametrize("early", [False, True], ids=["last block", "early head"])
def test_partial_passes_give_the_values_of_full_passes(
    family: str, early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in Gemma 2, where a norm follows the MLP, so that δ at the projection is not δ at the block."""
    double = family != "gemma2"  # which computes NaN for left-padded rows in float64
    model = build_model(family, torch.float64 if double else torch.float32)
    norm = "transformer.ln_f" if family.startswith("gpt") else "model.norm"
    hparams = hparams_for(family, v_loss_layer=1 if early else None, ln_f_module=norm, v_num_grad_steps=6)
    partial = optimise_at_projection(model, hparams, encoded_facts(), 1)
    monkeypatch.setattr(suffix_rows, "same_logits", lambda *_: False)
    full = optimise_at_projection(model, hparams, encoded_facts(), 1)
    tolerance = {"gptj": 1e-5}.get(family, 1e-9 if double else 2e-3)
    torch.testing.assert_close(partial.z, full.z, rtol=tolerance, atol=tolerance * float(partial.z.norm(dim=1).max()))
    assert partial.losses == pytest.approx(full.losses, rel=tolerance)


@pytest.mark.parametrize("layer", [0, 2])
def test_partial_passes_run_the_edited_block_and_those_above(family: str, layer: int) -> None:
    model, hparams = build_model(family), hparams_for(family)
    projection = find_module(model, hparams.rewrite_module_tmp.format(layer))[1]
    group = group_rows(encoded_facts(), model)[0]
    rows = SuffixRows(Runner(model, build_tokenizer()), group, layer, hparams, projection)
    ran: list[int] = []
    for number in range(4):
        block = find_module(model, hparams.layer_module_tmp.format(number))[1]
        next(block.children()).register_forward_pre_hook(lambda *_, number=number: ran.append(number))
    rows.log_probabilities(torch.zeros(4, 32))
    assert rows._partial
    assert ran == list(range(layer, 4))
