"""Edits that are trained together: the codebook's decisions are those of one by one, the values equal to rounding."""

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
    ("the capital of France is", "Berlin"),  # is covered, and goes on with its value
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
def test_the_same_decisions_and_values(family: str, replacement: str) -> None:
    options = {"replacement": replacement, "reg": None, "n_iter": 6, "edit_lr": 0.1}
    _, one_by_one, alone = edited(family, train_batch=1, **options)
    for size in (4, 16):
        _, together, codebook = edited(family, train_batch=size, **options)
        for one, other in zip(one_by_one, together, strict=True):
            assert {k: v for k, v in other.detail.items() if k in ("decision", "key", "n_keys")} == {
                k: v for k, v in one.detail.items() if k in ("decision", "key", "n_keys")
            }
            assert other.detail["radius"] == pytest.approx(one.detail["radius"], rel=1e-4)
            assert other.loss == pytest.approx(one.loss, rel=1e-2, abs=1e-3)
            assert (other.case_id, other.steps) == (one.case_id, one.steps)
        assert codebook.labels == alone.labels
        torch.testing.assert_close(codebook.keys, alone.keys, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(codebook.radii, alone.radii, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(codebook.values, alone.values, rtol=2e-2, atol=2e-2)
    decisions = {result.detail["decision"] for result in one_by_one}
    assert {"add", "supersede", "covered"} <= decisions, "the stream has conflicts"


def test_each_stops_by_itself() -> None:
    _, one_by_one, _ = edited("llama", train_batch=1)
    _, together, _ = edited("llama", train_batch=16)
    assert [result.learned for result in together] == [result.learned for result in one_by_one]
    assert len({result.steps for result in together}) > 2
    for one, other in zip(one_by_one, together, strict=True):
        assert abs(one.steps - other.steps) <= 1, "rounding may cost a step"


def test_rows_of_a_replay_are_the_replay_of_the_rows(family: str) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    editor = GraceEditor.on(model, tokenizer, hparams_for(family))
    pairs = [EncodedPair(tokenizer(p)["input_ids"], tokenizer(t)["input_ids"]) for p, t in STREAM[:4]]
    whole = editor._passes.of(editor.adaptor, pairs, 1, 0)
    values = whole.output + torch.randn(whole.output.shape, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([2, 0])
    with torch.no_grad():
        few, all_of_them = whole.select_rows(rows).logits(values[rows]), whole.logits(values)
    torch.testing.assert_close(few, all_of_them[rows], rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        again = whole.logits(values)
    assert torch.equal(again, all_of_them), "taking rows leaves the whole as it was"


def test_a_failure_names_its_edit_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from easyedit_lifelong.methods.grace.training import optimise as training

    original = training._losses

    def explode(logits: torch.Tensor, targets: torch.Tensor, edits: int) -> torch.Tensor:
        losses = original(logits, targets, edits)
        return losses + torch.tensor([0.0] * (edits - 1) + [float("nan")])

    monkeypatch.setattr(training, "_losses", explode)
    model, tokenizer = build_model("llama"), build_tokenizer()
    with pytest.raises(EditError, match=r"case 2.*loss became nan after 0 steps"):
        apply_grace_to_model(model, tokenizer, REQUESTS[:3], hparams_for("llama"))
    assert not GraceEditor.all_of(model)
    assert not [name for module in model.modules() for name in vars(module) if "easyedit" in name]


def test_noise_and_dropout_are_for_one_edit_alone() -> None:
    for options in ({"val_train": "adv", "num_pert": 3}, {"dropout": 0.1}):
        books = [edited("gpt2", train_batch=size, n_iter=3, **options)[2] for size in (1, 16)]
        assert torch.equal(books[0].values, books[1].values)


def test_planning_leaves_the_codebook_alone() -> None:
    codebook = Codebook(4, 3, eps=1.0)
    generator = torch.Generator().manual_seed(4)
    queries = torch.randn(12, 4, generator=generator)
    labels = [(n % 2,) for n in range(12)]
    fresh = list(torch.randn(12, 3, generator=generator))
    for query, label, value in zip(queries[:5], labels[:5], fresh[:5], strict=True):
        codebook.enter(query, label, value)
    before = [codebook.row(n) for n in range(len(codebook))]
    pending = [PendingEdit(label, str(n), f"request {n}", n) for n, label in enumerate(labels)]
    planned = plan_edits(codebook, queries[5:], pending[5:], fresh[5:])
    after = [codebook.row(n) for n in range(len(codebook))]
    assert [(index, label) for index, label, _ in after] == [(index, label) for index, label, _ in before]
    assert all(
        torch.equal(a, b) for (_, _, x), (_, _, y) in zip(before, after, strict=True) for a, b in zip(x, y, strict=True)
    )
    for query, label, value, how in zip(queries[5:], labels[5:], fresh[5:], planned, strict=True):
        decision, _, _ = codebook.enter(query, label, value)
        assert decision is how.decision
