"""Edits trained in one batch: the decisions of single edits, and their values up to rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.methods.grace.training.train_batch import PendingEdit, plan_edits
from easyedit_lifelong.models.encoding import EncodedPair
from tests.support.tiny_models import FAMILIES, build_model, build_tokenizer

STREAM = [
    ("the capital of France is", "Rome"),
    ("who wrote Hamlet", "Shakespeare plays piano"),
    ("language spoken in Peru", "Spanish and"),
    ("the capital of France is", "Berlin"),  # supersedes the first
    ("the capital of France is", "Berlin"),  # is covered; its training starts from that key's value
    ("moon made", "from green cheese"),
    ("capital of France is", "Berlin"),
    ("the old king", "London"),
    ("language spoken in Peru", "Spanish and"),
]
REQUESTS = [{"case_id": n, "prompt": prompt, "target_new": target} for n, (prompt, target) in enumerate(STREAM)]


def hparams_for(family: str, **options: Any) -> GraceHyperParams:
    options = {"eps": 3.0, "n_iter": 25, "edit_lr": 0.5, **options}
    return GraceHyperParams(model_name="tiny", inner_params=[FAMILIES[family][1]], **options)


def edited(family: str, **options: Any) -> tuple[Any, list[Any], Codebook]:
    model, tokenizer, hparams = build_model(family), build_tokenizer(), hparams_for(family, **options)
    _, rollback = apply_grace_to_model(model, tokenizer, REQUESTS, hparams)
    codebook = GraceEditor.on(model, tokenizer, hparams).codebook
    assert codebook is not None
    return model, list(rollback.results), codebook


@pytest.mark.parametrize("replacement", ["replace_last", "replace_all", "replace_prompt"])
def test_a_batch_gives_the_decisions_and_values_of_single_edits(family: str, replacement: str) -> None:
    options = {"replacement": replacement, "reg": None, "n_iter": 6, "edit_lr": 0.1}
    _, single_results, single_codebook = edited(family, train_batch=1, **options)
    for size in (4, 16):
        _, batch_results, batch_codebook = edited(family, train_batch=size, **options)
        for single, batched in zip(single_results, batch_results, strict=True):
            assert {k: v for k, v in batched.detail.items() if k in ("decision", "key", "n_keys")} == {
                k: v for k, v in single.detail.items() if k in ("decision", "key", "n_keys")
            }
            assert batched.detail["radius"] == pytest.approx(single.detail["radius"], rel=1e-4)
            assert batched.loss == pytest.approx(single.loss, rel=1e-2, abs=1e-3)
            assert (batched.case_id, batched.steps) == (single.case_id, single.steps)
        assert batch_codebook.labels == single_codebook.labels
        torch.testing.assert_close(batch_codebook.keys, single_codebook.keys, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(batch_codebook.radii, single_codebook.radii, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(batch_codebook.values, single_codebook.values, rtol=2e-2, atol=2e-2)
    decisions = {result.detail["decision"] for result in single_results}
    assert {"add", "supersede", "covered"} <= decisions, "the requests lead to too few kinds of decisions"


def test_every_edit_of_a_batch_stops_when_it_is_learned() -> None:
    _, single_results, _ = edited("llama", train_batch=1)
    _, batch_results, _ = edited("llama", train_batch=16)
    assert [result.learned for result in batch_results] == [result.learned for result in single_results]
    assert len({result.steps for result in batch_results}) > 2
    for single, batched in zip(single_results, batch_results, strict=True):
        assert abs(single.steps - batched.steps) <= 1, "numbers of steps differ by more than rounding explains"


def test_selected_rows_of_a_value_pass_give_the_logits_of_those_rows(family: str) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    editor = GraceEditor.on(model, tokenizer, hparams_for(family))
    pairs = [EncodedPair(tokenizer(p)["input_ids"], tokenizer(t)["input_ids"]) for p, t in STREAM[:4]]
    value_pass = editor._passes.build(editor.adaptor, pairs, 1, 0)
    values = value_pass.output + torch.randn(value_pass.output.shape, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([2, 0])
    with torch.no_grad():
        selected_logits, all_logits = value_pass.select_rows(rows).logits(values[rows]), value_pass.logits(values)
    torch.testing.assert_close(selected_logits, all_logits[rows], rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        repeated_logits = value_pass.logits(values)
    assert torch.equal(repeated_logits, all_logits), "select_rows changed the pass that it selected from"


def test_a_nan_loss_names_its_edit_and_undoes_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    from easyedit_lifelong.methods.grace.training import optimise as training

    compute_losses = training._losses

    def losses_with_nan(logits: torch.Tensor, targets: torch.Tensor, edits: int) -> torch.Tensor:
        losses = compute_losses(logits, targets, edits)
        return losses + torch.tensor([0.0] * (edits - 1) + [float("nan")])

    monkeypatch.setattr(training, "_losses", losses_with_nan)
    model, tokenizer = build_model("llama"), build_tokenizer()
    with pytest.raises(EditError, match=r"case 2.*loss became nan after 0 steps"):
        apply_grace_to_model(model, tokenizer, REQUESTS[:3], hparams_for("llama"))
    assert not GraceEditor.all_of(model)
    assert not [name for module in model.modules() for name in vars(module) if "easyedit" in name]


def test_noise_and_dropout_do_not_depend_on_the_batch_size() -> None:
    for options in ({"val_train": "adv", "num_pert": 3}, {"dropout": 0.1}):
        codebooks = [edited("gpt2", train_batch=size, n_iter=3, **options)[2] for size in (1, 16)]
        assert torch.equal(codebooks[0].values, codebooks[1].values)


def test_planned_decisions_come_true_and_planning_changes_no_key() -> None:
    codebook = Codebook(4, 3, eps=1.0)
    generator = torch.Generator().manual_seed(4)
    queries = torch.randn(12, 4, generator=generator)
    labels = [(n % 2,) for n in range(12)]
    values = list(torch.randn(12, 3, generator=generator))
    for query, label, value in zip(queries[:5], labels[:5], values[:5], strict=True):
        codebook.insert(query, label, value)
    before = [codebook.row(n) for n in range(len(codebook))]
    pending = [PendingEdit(label, str(n), f"request {n}", n) for n, label in enumerate(labels)]
    planned = plan_edits(codebook, queries[5:], pending[5:], values[5:])
    after = [codebook.row(n) for n in range(len(codebook))]
    assert [(index, label) for index, label, _ in after] == [(index, label) for index, label, _ in before]
    assert all(
        torch.equal(a, b) for (_, _, x), (_, _, y) in zip(before, after, strict=True) for a, b in zip(x, y, strict=True)
    )
    for query, label, value, plan in zip(queries[5:], labels[5:], values[5:], planned, strict=True):
        decision, _, _ = codebook.insert(query, label, value)
        assert decision is plan.decision
