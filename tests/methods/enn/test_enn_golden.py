"""ENN computes the edits, the losses and the gradients of the authors' code, in float64.

``golden/enn_authors.safetensors`` holds numbers of eric-mitchell/mend (``algs/enn.py``, ``kl_loc_loss``,
``masked_log_probs``), with every float32 replaced by float64, on the tiny GPT-2 of ``make_pair``: the change of two
weights, an edit of two gradient steps with given learning rates, the three losses, and the gradient of their weighted
sum, differentiated through the steps (``second_order``) or not (``first_order``). Matrices are (outputs, inputs).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from easyedit_lifelong import ENNHyperParams
from easyedit_lifelong.methods.enn.network import EditableWeights
from easyedit_lifelong.methods.enn.training import ENNLoss, ENNTraining
from easyedit_lifelong.methods.hypernetworks.training_records import ChosenRecord
from easyedit_lifelong.methods.training.examples import Example
from easyedit_lifelong.models.encoding import encode_pair
from easyedit_lifelong.models.model_modes import editing, frozen
from tests.support.toy_method import make_pair

GOLDEN = load_file(Path(__file__).parents[2] / "golden" / "enn_authors.safetensors")
PATHS = ["transformer.h.1.mlp.c_fc", "transformer.h.2.mlp.c_proj"]
RECORD = [
    ("The capital of France is", "Rome"),
    ("France has the capital", "Rome"),
    ("Marie Curie worked in", "the city of Paris"),
]
"""Edit, paraphrase and locality prompt with their answers."""


def assert_equal(actual: Tensor | None, expected: Tensor) -> None:
    assert actual is not None
    assert float(expected.abs().max()) > 0
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-8 * float(expected.abs().max()))


@pytest.mark.parametrize("order", ["first_order", "second_order"])
def test_edits_losses_and_gradients_equal_those_of_the_authors_code(order: str) -> None:
    model, tokenizer = make_pair("gpt2")
    model.double()
    hparams = ENNHyperParams(
        model_name="tiny", inner_params=PATHS, n_edit_steps=2, first_order=order == "first_order", kl_tokens="all"
    )
    training = ENNTraining(model, tokenizer, hparams, EditableWeights)
    network = training.network
    with torch.no_grad():
        network.step_sizes.copy_(torch.tensor([0.3, 0.7], dtype=torch.float64))
        for path, change in network.base_changes().items():
            change.copy_(GOLDEN[f"change.{path}"])
    pairs = [encode_pair(tokenizer, *pair) for pair in RECORD]
    record = ChosenRecord(*(Example("a record", tuple(pair.prompt), tuple(pair.target)) for pair in pairs))
    with editing(model), frozen(model):
        before, after = training.base_weights(), training.edited_weights([record.edit], observe=False)
        loss = training.loss([record], observe=True)
        loss.total.backward()
    for path in PATHS:
        assert_equal((after[path] - before[path]).detach().t(), GOLDEN[f"{order}.update.{path}"])
    assert isinstance(loss, ENNLoss)
    losses = torch.stack([loss.edit, loss.locality, loss.base]).detach()
    assert_equal(losses, GOLDEN[f"{order}.losses"])
    torch.testing.assert_close(loss.total.detach(), losses @ torch.tensor([0.1, 1.0, 1.0], dtype=torch.float64))
    for path, change in network.base_changes().items():
        assert_equal(change.grad, GOLDEN[f"{order}.gradient.{path}"])
    assert_equal(network.step_sizes.grad, GOLDEN[f"{order}.gradient.step_sizes"])
