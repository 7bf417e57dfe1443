"""Edits found by subject on a model with edits at other layers and of other methods."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.models.runner import Runner
from tests.support.coachhook_edits import LEARNABLE_FACT, editor_on
from tests.support.coachhook_edits import hparams_for as coachhook_hparams
from tests.support.subjects import FACTS, OTHERS, PROMPTS, answer, codebook_of, edited, hparams_for, ids_of
from tests.support.tiny_models import build_model, build_tokenizer

# Only the other editor matches these prompts, since they end with other words than the facts' prompts. Some of them
# name a subject.
OTHER_FACTS = [
    {"case_id": "a", "prompt": "where when blue and not far away", "target_new": "song"},
    {"case_id": "b", "prompt": "bird and France and sea", "target_new": "winter"},
    {"case_id": "c", "prompt": "moon song", "target_new": "violin"},
    {"case_id": "d", "prompt": "snow", "target_new": "born"},
]
BLOCKS = (1, 2, 3)


def prompt_hparams(block: int, **options: Any) -> GraceHyperParams:
    options = {"eps": 0.05, "dist_fn": "cos", "n_iter": 60, "stop_loss": 0.2, **options}
    return GraceHyperParams(model_name="tiny", inner_params=[f"model.layers[{block}].mlp.down_proj"], **options)


@pytest.mark.parametrize("block", BLOCKS)
def test_values_are_trained_with_the_edits_found_by_subject_in_place(mode: str, block: int) -> None:
    """Each edit's last loss equals the loss of the edited model, for partial and full passes."""
    model, _, _ = edited("llama", mode, n_iter=5)
    # Single edits, so that replay support is determined by the first, whose prompt names no subject.
    tokenizer, hparams = build_tokenizer(), prompt_hparams(block, n_iter=10, reg=None, edit_lr=0.3, train_batch=1)
    _, rollback = apply_grace_to_model(model, tokenizer, OTHER_FACTS, hparams)
    assert {result.detail["decision"] for result in rollback.results} == {"add"}
    for fact, result in zip(OTHER_FACTS, rollback.results, strict=True):
        logits = model(**ids_of(fact["prompt"])).logits[0, -1].log_softmax(dim=0)
        target = tokenizer(fact["target_new"])["input_ids"][0]
        assert -logits[target].item() == pytest.approx(result.loss, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("first", ["subject", "last"])
def test_rollback_in_either_order_restores_the_model(mode: str, first: str) -> None:
    unedited = build_model("llama")
    model, undo_subject_edits, editor = edited("llama", mode, n_iter=5)
    # The layer at which edits found by subject answer (late), or the one at which they are found (simple).
    path = "model.layers[2].mlp" if mode == "late" else "model.layers[1].mlp"
    hparams = GraceHyperParams(model_name="tiny", inner_params=[path], eps=0.05, dist_fn="cos", n_iter=5)
    _, undo_prompt_edits = apply_grace_to_model(model, build_tokenizer(), OTHER_FACTS, hparams)
    prompt_editor = GraceEditor.on(model, build_tokenizer(), hparams)
    codebook_names = {name for name in model.state_dict() if "grace_codebook" in name}
    assert len(codebook_names) == 6
    staying = prompt_editor if first == "subject" else editor
    (undo_subject_edits if first == "subject" else undo_prompt_edits)()
    remaining = {name for name in model.state_dict() if "grace_codebook" in name}
    assert len(remaining) == 3, "the state lacks arrays of the editor that stays, or has those of the one that left"
    (name,) = (name for name in remaining if name.endswith("values"))
    assert len(model.state_dict()[name]) == len(codebook_of(staying))
    (undo_prompt_edits if first == "subject" else undo_subject_edits)()
    assert set(model.state_dict()) == set(unedited.state_dict())
    assert set(model.__dict__) == set(unedited.__dict__)
    assert torch.equal(model(**ids_of(*PROMPTS)).logits, unedited(**ids_of(*PROMPTS)).logits)


def test_edits_found_by_subject_are_learned_on_a_model_with_other_edits(mode: str) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    apply_grace_to_model(model, tokenizer, OTHER_FACTS, prompt_hparams(1))
    outputs = [answer(model, fact["prompt"]) for fact in OTHER_FACTS]
    before = model(**ids_of(*OTHERS)).logits
    hparams = hparams_for("llama", mode, n_iter=100)
    _, rollback = apply_grace_to_model(model, tokenizer, FACTS, hparams)
    learned = [result.learned for result in rollback.results]
    assert [answer(model, fact["prompt"]) == fact["target_new"] for fact in FACTS] == learned
    assert any(learned)
    assert torch.equal(model(**ids_of(*OTHERS)).logits, before)
    rollback()
    assert [answer(model, fact["prompt"]) for fact in OTHER_FACTS] == outputs


def test_coachhook_edits_a_model_with_edits_found_by_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both methods edit the same prompt; CoachHook's partial passes must give the results of full passes."""
    prompt, target, subject = LEARNABLE_FACT
    logits = []
    for full_passes in (False, True):
        unedited = build_model("llama")
        model, undo_subject_edits, _ = edited(
            "llama",
            "late",
            [{"prompt": prompt, "subject": subject, "target_new": "song"}],
            n_iter=5,
            answer_layer="model.layers[1].mlp",
        )
        if full_passes:
            monkeypatch.setattr(Runner, "anatomy", None)
        hparams = coachhook_hparams("llama", layers=[1, 2, 3], v_num_grad_steps=4)
        _, undo_coachhook_edits = editor_on(model, build_tokenizer(), hparams).edit(
            [EditRequest(0, prompt, target, subject)]
        )
        logits.append(model(**ids_of(prompt, "king wrote Hamlet")).logits)
        undo_subject_edits()
        undo_coachhook_edits()
        assert torch.equal(model(**ids_of(*PROMPTS)).logits, unedited(**ids_of(*PROMPTS)).logits)
        assert set(model.__dict__) == set(unedited.__dict__)
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-3)
