"""Target vectors equal those of a plain reference optimisation: one request at a time, full rows, no cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.coachhook.config import CoachHookHyperParams
from easyedit_lifelong.methods.locate_edit import suffix_rows
from easyedit_lifelong.methods.locate_edit.aligned_rows import align_rows, group_rows
from easyedit_lifelong.methods.locate_edit.facts import Fact, encode_fact
from easyedit_lifelong.methods.locate_edit.suffix_rows import SuffixRows
from easyedit_lifelong.methods.locate_edit.target_vectors import TargetVectors, optimise_targets
from easyedit_lifelong.models.runner import Runner
from tests.support.coachhook_edits import LEARNABLE_FACT, TEMPLATES, editor_on, hparams_for, requests_for
from tests.support.reference_targets import ReferenceOptimisation
from tests.support.thoroughness import default_cases
from tests.support.tiny_models import build_model, build_tokenizer

TOLERANCES = {"gptj": 1e-5}
"""By family, if not 1e-9: GPT-J computes its attention in float32 in every dtype."""
FAMILIES = ["gpt2", "llama", "mistral"]


def encoded_facts(fact_token: str = "subject_last", mentions: tuple[str, ...] = ()) -> list[Fact]:
    hparams = hparams_for("llama", fact_token=fact_token, mention_templates=list(mentions))
    requests = [*requests_for(), EditRequest(9, *LEARNABLE_FACT)]
    return [encode_fact(build_tokenizer(), request, TEMPLATES, hparams, None) for request in requests]


def optimise(model: Any, hparams: CoachHookHyperParams, facts: list[Fact], layer: int | None = None) -> TargetVectors:
    layer = hparams.edited_layers[-1] if layer is None else layer
    return optimise_targets(Runner(model, build_tokenizer()), facts, hparams, layer)


SETTINGS: dict[str, dict[str, Any]] = {
    "all penalties": {"v_weight_decay": 0.5, "kl_factor": 0.3},
    "no penalties": {"v_weight_decay": 0.0, "kl_factor": 0.0},
    "clamped": {"clamp_norm_factor": 0.3, "v_weight_decay": 0.1},
    "one step": {"v_num_grad_steps": 1},
    "high stop": {"v_stop_loss": 3.0},
    "lower layer": {"layers": [0]},
    "mentions": {"mention_templates": ["{subject} and {prompt}", "from {subject} . {prompt}"]},
    "last layer": {"layers": [3], "fact_token": "last"},
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("family", default_cases(FAMILIES, "mistral"))
def test_a_batch_gives_the_reference_values_of_each_request(family: str, settings: str) -> None:
    model = build_model(family, torch.float64)
    hparams = hparams_for(family, **{"v_num_grad_steps": 8, **SETTINGS[settings]})
    facts, layer = encoded_facts(hparams.fact_token, tuple(hparams.mention_templates)), hparams.edited_layers[-1]
    if family == "mistral":  # its subject is outside the window, so gradients are rounding errors, which Adam scales up
        facts = [fact for fact in facts if fact.request.case_id != 2]
    batch = optimise(model, hparams, facts)
    tolerance = TOLERANCES.get(family, 1e-9)
    for i, fact in enumerate(facts):
        z, steps, loss = ReferenceOptimisation(model, hparams, fact, layer).optimise()
        assert batch.steps[i] == steps
        assert batch.losses[i] == pytest.approx(loss, rel=tolerance, abs=tolerance)
        torch.testing.assert_close(batch.z[i], z, rtol=tolerance, atol=tolerance * float(z.norm()))


@pytest.mark.parametrize("fact_token", ["subject_first", "subject_first_after_last", "last"])
def test_every_fact_token_gives_the_reference_values(fact_token: str) -> None:
    model = build_model("gpt2", torch.float64)
    hparams = hparams_for("gpt2", v_num_grad_steps=6, fact_token=fact_token)
    facts = encoded_facts(fact_token)
    batch = optimise(model, hparams, facts)
    for i, fact in enumerate(facts):
        z, steps, _ = ReferenceOptimisation(model, hparams, fact, 2).optimise()
        assert batch.steps[i] == steps
        torch.testing.assert_close(batch.z[i], z, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("v_loss_layer", default_cases([0, 1, 2, 3], 0, 2))
@pytest.mark.parametrize("layer", [1, 3])
def test_the_loss_of_an_earlier_block_gives_the_reference_values(v_loss_layer: int, layer: int) -> None:
    model = build_model("gpt2", torch.float64)
    hparams = hparams_for(
        "gpt2",
        v_num_grad_steps=6,
        layers=[layer],
        v_loss_layer=v_loss_layer,
        ln_f_module="transformer.ln_f",
        fact_token="last",
    )
    facts = encoded_facts("last")
    batch = optimise(model, hparams, facts)
    for i, fact in enumerate(facts):
        z, steps, loss = ReferenceOptimisation(model, hparams, fact, layer).optimise()
        assert (batch.steps[i], batch.losses[i]) == (steps, pytest.approx(loss, rel=1e-8))
        torch.testing.assert_close(batch.z[i], z, rtol=1e-8, atol=1e-8)


def test_a_batch_in_any_order_gives_the_values_of_single_edits(family: str) -> None:
    if family == "gemma2":
        model = build_model(family)
        tolerance = 1e-3
    else:
        model, tolerance = build_model(family, torch.float64), TOLERANCES.get(family, 1e-9)
    hparams = hparams_for(family, v_stop_loss=2.0, v_num_grad_steps=8)
    facts = [fact for fact in encoded_facts() if family != "mistral" or fact.request.case_id != 2]
    batch = optimise(model, hparams, facts)
    single = [optimise(model, hparams, [fact]) for fact in facts]
    reversed_batch = optimise(model, hparams, facts[::-1])
    assert batch.steps == [result.steps[0] for result in single] == reversed_batch.steps[::-1]
    assert batch.learned == [result.learned[0] for result in single]
    for i, result in enumerate(single):
        scale = float(result.z.norm())
        torch.testing.assert_close(batch.z[i], result.z[0], rtol=tolerance, atol=tolerance * scale)
        torch.testing.assert_close(reversed_batch.z[-1 - i], result.z[0], rtol=tolerance, atol=tolerance * scale)


def test_each_request_of_a_batch_stops_at_its_own_loss() -> None:
    model = build_model("gpt2", torch.float64)
    facts = encoded_facts()
    result = optimise(model, hparams_for("gpt2", v_num_grad_steps=25, v_stop_loss=2.0), facts)
    assert len(set(result.steps)) > 1
    for steps, loss in zip(result.steps, result.losses, strict=True):
        assert (loss < 2.0) == (steps < 24)


@pytest.fixture
def full_passes(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Make target vectors run full passes, until this patch is undone."""
    monkeypatch.setattr(suffix_rows, "same_logits", lambda *_: False)
    return monkeypatch


@pytest.mark.parametrize("v_loss_layer", [None, 1, 2])
def test_partial_passes_give_the_values_of_full_passes(
    family: str, full_passes: pytest.MonkeyPatch, v_loss_layer: int | None
) -> None:
    double = family != "gemma2"  # which computes NaN for left-padded rows in float64
    model = build_model(family, torch.float64 if double else torch.float32)
    norm = "transformer.ln_f" if family.startswith("gpt") else "model.norm"
    hparams = hparams_for(family, layers=[1], v_loss_layer=v_loss_layer, v_num_grad_steps=6, ln_f_module=norm)
    full = optimise(model, hparams, encoded_facts())
    full_passes.undo()
    partial = optimise(model, hparams, encoded_facts())
    tolerance = TOLERANCES.get(family, 1e-9 if double else 2e-3)
    torch.testing.assert_close(partial.z, full.z, rtol=tolerance, atol=tolerance * float(partial.z.norm(dim=1).max()))
    assert partial.losses == pytest.approx(full.losses, rel=tolerance)


def test_every_family_runs_partial_passes(family: str) -> None:
    runner = Runner(build_model(family), build_tokenizer())
    hparams = hparams_for(family)
    for group in group_rows(encoded_facts(), runner.model):
        assert SuffixRows(runner, group, 2, hparams)._partial


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_partial_passes_run_the_later_blocks_on_the_suffix_only(layer: int) -> None:
    model = build_model("llama")
    calls = dict.fromkeys(range(4), 0)
    lengths: list[int] = []
    for number, block in enumerate(model.model.layers):

        def count(_: Any, args: Any, number: int = number) -> None:
            calls[number] += 1
            lengths.append(args[0].shape[1])

        block.self_attn.q_proj.register_forward_pre_hook(count)
    group = group_rows(encoded_facts(), model)[0]
    rows = SuffixRows(Runner(model, build_tokenizer()), group, layer, hparams_for("llama"))
    calls.update(dict.fromkeys(calls, 0))
    lengths.clear()
    delta = torch.zeros(5, 32)
    for _ in range(3):
        rows.log_probabilities(delta)
    assert calls == {number: 3 * (number > layer) for number in range(4)}
    longest = max(item.suffix_length for item in group)
    assert set(lengths) == ({longest} if layer < 3 else set())


def test_a_model_of_unknown_anatomy_runs_full_passes_with_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("gpt2", torch.float64)
    hparams = hparams_for("gpt2", v_num_grad_steps=5)
    expected = optimise(model, hparams, encoded_facts())
    monkeypatch.setattr("easyedit_lifelong.models.runner.anatomy_of", lambda _: None)
    torch.testing.assert_close(optimise(model, hparams, encoded_facts()).z, expected.z, rtol=1e-8, atol=1e-8)


def test_the_change_of_a_value_is_clamped_to_clamp_norm_factor() -> None:
    model = build_model("llama")
    facts = encoded_facts()
    hparams = hparams_for("llama", clamp_norm_factor=0.2)
    unedited = optimise(model, hparams_for("llama", v_num_grad_steps=1), facts).z
    change = (optimise(model, hparams, facts).z - unedited).norm(dim=1)
    assert (change <= 0.2 * unedited.norm(dim=1) * (1 + 1e-5)).all()
    assert (change > 0).all()


def test_without_steps_the_value_is_the_blocks_output() -> None:
    model = build_model("llama")
    hparams, facts = hparams_for("llama", v_num_grad_steps=1), encoded_facts()
    result = optimise(model, hparams, facts)
    assert result.steps == [0] * len(facts)
    for i, fact in enumerate(facts):
        torch.testing.assert_close(
            result.z[i], ReferenceOptimisation(model, hparams, fact, 2).unedited_value, rtol=1e-4, atol=1e-4
        )


def test_values_are_optimised_with_the_hook_layers_of_earlier_edits() -> None:
    model, tokenizer = build_model("gpt2", torch.float64), build_tokenizer()
    hparams = hparams_for("gpt2", v_num_grad_steps=5)
    unedited = optimise(model, hparams, encoded_facts())
    editor_on(model, tokenizer, hparams).edit(requests_for(0, 1))
    edited = optimise(model, hparams, encoded_facts())
    assert not torch.allclose(edited.z[0], unedited.z[0])
    assert edited.losses != unedited.losses


def test_a_loss_that_becomes_nan_is_refused_with_the_record_and_the_step() -> None:
    model = build_model("llama")
    facts = encoded_facts()
    with torch.no_grad():
        model.get_output_embeddings().weight[facts[2].contexts[0].target[0]] = float("nan")
    # The softmax of every record becomes NaN; the error names the first record.
    with pytest.raises(EditError, match=f"case {facts[0].request.case_id}: .* became nan after 0 steps"):
        optimise(model, hparams_for("llama"), facts)


def test_a_huge_learning_rate_gives_finite_values() -> None:
    model = build_model("llama")
    result = optimise(model, hparams_for("llama", v_lr=1e6, clamp_norm_factor=1e6), encoded_facts())
    assert torch.isfinite(result.z).all()


def test_optimising_leaves_no_gradients_and_attributes_and_works_inside_no_grad() -> None:
    model = build_model("llama")
    before = {name: set(module.__dict__) for name, module in model.named_modules()}
    optimise(model, hparams_for("llama", v_num_grad_steps=3), encoded_facts())
    assert all(weight.grad is None for weight in model.parameters())
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == before
    with torch.no_grad():
        assert torch.isfinite(optimise(model, hparams_for("llama", v_num_grad_steps=3), encoded_facts()).z).all()


# ------------------------------------------------------------------ aligned rows


def test_every_row_is_aligned_once_with_its_lookup_token_in_the_common_column() -> None:
    runner = Runner(build_model("llama"), build_tokenizer())
    facts = encoded_facts()
    groups = group_rows(facts, runner.model)
    assert sum(map(len, groups)) == sum(len(fact.rows) for fact in facts)
    weight_sums = torch.zeros(len(facts), dtype=torch.float64)
    for group in groups:
        rows = align_rows(runner, group)
        for number, item in enumerate(group):
            tokens = rows.ids[number][rows.mask[number].bool()].tolist()
            assert tokens == item.row.prompt + item.row.target[:-1]
            assert rows.ids[number, rows.lookup_column] == item.row.prompt[item.row.lookup]
        for row, column, token in zip(rows.prediction_row, rows.prediction_column, rows.targets, strict=False):
            source = group[int(row)].row
            tokens = source.prompt + source.target
            assert tokens[source.lookup + int(column) + 1] == int(token)
        weight_sums.index_add_(0, rows.target_request, rows.target_weight)
        selected, essences = rows.select_rows(rows.request == rows.request[0])
        assert (selected.request == rows.request[0]).all()
        assert len(selected.essence_request) == int(essences.sum())
    torch.testing.assert_close(weight_sums, torch.ones_like(weight_sums))
