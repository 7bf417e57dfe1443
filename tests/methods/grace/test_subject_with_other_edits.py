"""Edits by subjects on a model that carries other editors' edits, too."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.models.runner import Runner
from tests.support.coachhook_edits import LEARNABLE, editor_on
from tests.support.coachhook_edits import hparams_for as coachhook_hparams
from tests.support.subjects import FACTS, OTHERS, PROMPTS, answer, book_of, edited, hparams_for, ids_of
from tests.support.tiny_models import build_model, build_tokenizer

# Prompts that end elsewhere than the facts', so that the other editor answers them, some with subjects in them.
MORE = [
    {"case_id": "a", "prompt": "where when blue and not far away", "target_new": "song"},
    {"case_id": "b", "prompt": "bird and France and sea", "target_new": "winter"},
    {"case_id": "c", "prompt": "moon song", "target_new": "violin"},
    {"case_id": "d", "prompt": "snow", "target_new": "born"},
]
BLOCKS = (1, 2, 3)


def prompt_last(block: int, **options: Any) -> GraceHyperParams:
    options = {"eps": 0.05, "dist_fn": "cos", "n_iter": 60, "stop_loss": 0.2, **options}
    return GraceHyperParams(model_name="tiny", inner_params=[f"model.layers[{block}].mlp.down_proj"], **options)


@pytest.mark.parametrize("block", BLOCKS)
def test_values_are_trained_with_the_other_edits_in_place(mode: str, block: int) -> None:
    """Each edit's last loss is what the edited model says afterwards, whatever part of it was run."""
    model, _, _ = edited("llama", mode, n_iter=5)
    # One by one, so that what the first shows of the model, which names no subject, is believed.
    tokenizer, hparams = build_tokenizer(), prompt_last(block, n_iter=10, reg=None, edit_lr=0.3, train_batch=1)
    _, rollback = apply_grace_to_model(model, tokenizer, MORE, hparams)
    assert {result.detail["decision"] for result in rollback.results} == {"add"}
    for fact, result in zip(MORE, rollback.results, strict=True):
        logits = model(**ids_of(fact["prompt"])).logits[0, -1].log_softmax(dim=0)
        target = tokenizer(fact["target_new"])["input_ids"][0]
        assert -logits[target].item() == pytest.approx(result.loss, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("first", ["subject", "last"])
def test_they_come_off_in_any_order_and_nothing_is_left(mode: str, first: str) -> None:
    fresh = build_model("llama")
    model, by_subject, editor = edited("llama", mode, n_iter=5)
    # The very layer at which edits by subjects answer, or are found.
    path = "model.layers[2].mlp" if mode == "late" else "model.layers[1].mlp"
    hparams = GraceHyperParams(model_name="tiny", inner_params=[path], eps=0.05, dist_fn="cos", n_iter=5)
    _, by_last = apply_grace_to_model(model, build_tokenizer(), MORE, hparams)
    other = GraceEditor.on(model, build_tokenizer(), hparams)
    books = {name for name in model.state_dict() if "grace_codebook" in name}
    assert len(books) == 6
    staying = other if first == "subject" else editor
    (by_subject if first == "subject" else by_last)()
    left = {name for name in model.state_dict() if "grace_codebook" in name}
    assert len(left) == 3, "what stays is still part of the model's state"
    (name,) = (name for name in left if name.endswith("values"))
    assert len(model.state_dict()[name]) == len(book_of(staying))
    (by_last if first == "subject" else by_subject)()
    assert set(model.state_dict()) == set(fresh.state_dict())
    assert set(model.__dict__) == set(fresh.__dict__)
    assert torch.equal(model(**ids_of(*PROMPTS)).logits, fresh(**ids_of(*PROMPTS)).logits)


def test_edits_by_subjects_are_made_upon_others(mode: str) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    apply_grace_to_model(model, tokenizer, MORE, prompt_last(1))
    said = [answer(model, fact["prompt"]) for fact in MORE]
    before = model(**ids_of(*OTHERS)).logits
    hparams = hparams_for("llama", mode, n_iter=100)
    _, rollback = apply_grace_to_model(model, tokenizer, FACTS, hparams)
    learned = [result.learned for result in rollback.results]
    assert [answer(model, fact["prompt"]) == fact["target_new"] for fact in FACTS] == learned
    assert any(learned)
    assert torch.equal(model(**ids_of(*OTHERS)).logits, before)
    rollback()
    assert [answer(model, fact["prompt"]) for fact in MORE] == said


def test_coachhook_edits_with_them_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fact of both, looked up where the other answers: a part of the model has to give what the whole gives."""
    prompt, target, subject = LEARNABLE
    said = []
    for whole in (False, True):
        fresh = build_model("llama")
        model, by_subject, _ = edited(
            "llama",
            "late",
            [{"prompt": prompt, "subject": subject, "target_new": "song"}],
            n_iter=5,
            answer_layer="model.layers[1].mlp",
        )
        if whole:
            monkeypatch.setattr(Runner, "anatomy", None)
        hparams = coachhook_hparams("llama", layers=[1, 2, 3], v_num_grad_steps=4)
        _, by_hook = editor_on(model, build_tokenizer(), hparams).edit([EditRequest(0, prompt, target, subject)])
        said.append(model(**ids_of(prompt, "king wrote Hamlet")).logits)
        by_subject()
        by_hook()
        assert torch.equal(model(**ids_of(*PROMPTS)).logits, fresh(**ids_of(*PROMPTS)).logits)
        assert set(model.__dict__) == set(fresh.__dict__)
    torch.testing.assert_close(*said, rtol=1e-3, atol=1e-3)
