"""State changes are those of the edited layer and the layers above it, from the edited token on."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from easyedit_lifelong.errors import DataError
from easyedit_lifelong.locate.state_changes import compare_states, record_states
from easyedit_lifelong.methods.grace.apply import apply_grace_to_model
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from tests.support.tiny_models import build_model, build_tokenizer

PROMPT = "the capital of France is"


@pytest.fixture
def pair() -> tuple[Any, Any]:
    return build_model("llama"), build_tokenizer()


def test_states_are_those_of_the_model(pair: tuple[Any, Any]) -> None:
    model, tokenizer = pair
    states = record_states(model, tokenizer, PROMPT)
    with torch.no_grad():
        ids = torch.tensor([tokenizer(PROMPT)["input_ids"]], device=model.device)
        output = model(ids, output_hidden_states=True)
    assert states.tokens == PROMPT.split()
    for layer in range(3):  # transformers returns the last one after the final norm
        torch.testing.assert_close(states.states["state"][:, layer], output.hidden_states[layer + 1][0].cpu())
    torch.testing.assert_close(states.probabilities, output.logits[0, -1].softmax(0).cpu())


def test_an_edit_changes_states_from_its_layer_and_token_on(pair: tuple[Any, Any]) -> None:
    model, tokenizer = pair
    before = record_states(model, tokenizer, PROMPT)
    hparams = GraceHyperParams(
        model_name="tiny", inner_params=["model.layers.2.mlp.down_proj"], device="cpu", n_iter=30, eps=0.5
    )
    request = {"prompt": PROMPT, "target_new": "Rome", "case_id": 0}
    _, rollback = apply_grace_to_model(model, tokenizer, [request], hparams)
    changes = compare_states(before, record_states(model, tokenizer, PROMPT))
    assert (changes.changes["mlp"][:, :2] == 0).all()
    assert (changes.changes["state"][:-1] == 0).all()
    assert changes.changes["mlp"][-1, 2] > 0.01
    assert (changes.changes["state"][-1, 2:] > 0).all()
    assert 0.1 < changes.next_token <= 1
    rollback()
    unchanged = compare_states(before, record_states(model, tokenizer, PROMPT))
    assert all((values == 0).all() for values in unchanged.changes.values())
    assert unchanged.next_token == 0


def test_the_relative_change_is_a_ratio_of_lengths(pair: tuple[Any, Any]) -> None:
    model, tokenizer = pair
    before = record_states(model, tokenizer, PROMPT, ["mlp"])
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    changes = compare_states(before, record_states(model, tokenizer, PROMPT, ["mlp"]))
    torch.testing.assert_close(changes.changes["mlp"][:, 0], torch.full((5,), 0.5))


def test_an_empty_prompt_is_an_error(pair: tuple[Any, Any]) -> None:
    with pytest.raises(DataError, match="has no tokens"):
        record_states(*pair, "")
