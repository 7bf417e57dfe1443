"""MEND computes the updates, the training loss and its gradient of the authors' code, in float64.

``golden/mend_authors.safetensors`` holds numbers of the authors' code (eric-mitchell/mend: ``MEND``, ``IDMLP``,
``kl_loc_loss``, ``masked_log_probs``), with every float32 replaced by float64, on the tiny models of ``make_pair``: the
parameters of a network with random numbers, three training edits one after the other, then one edit in evaluation mode.
Each has the update of every projection and the losses; training edits also have the gradient of the total loss. On the
tiny Llama, ``torch.func.functional_call`` stands in for ``higher``, which cannot run it.

The authors add α G to the weight, where G = Σ δ̃ ũᵀ, and this package adds -α G, as the paper does: α is negated here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from easyedit_lifelong import MendHyperParams
from easyedit_lifelong.methods.hypernetworks.training import HypernetworkTraining
from easyedit_lifelong.methods.hypernetworks.training_records import ChosenRecord
from easyedit_lifelong.methods.mend.network import MendNetwork
from easyedit_lifelong.methods.training.examples import Example
from easyedit_lifelong.models.anatomy import is_transposed
from easyedit_lifelong.models.encoding import encode_pair
from easyedit_lifelong.models.model_modes import editing, frozen
from tests.support.toy_method import make_pair

GOLDEN = load_file(Path(__file__).parents[2] / "golden" / "mend_authors.safetensors")
RECORDS = [
    (
        ("Where was Alan Turing born? In", "they are here"),
        ("Alan Turing was born in", "they are here"),
        ("Marie Curie worked in", "the city of Paris"),
    ),
    (
        ("The capital of France is", "Rome"),
        ("France has the capital", "Rome"),
        ("The capital of Italy is", "Rome"),
    ),
    (
        ("The Eiffel Tower stands in the city of", "London"),
        ("The Eiffel Tower is in", "London"),
        ("I say that you", "are"),
    ),
    (
        ("Marie Curie was born in", "Berlin or Paris"),
        ("Marie Curie is born in the city of", "Berlin or Paris"),
        ("Therefore", "Because"),
    ),
]
"""Edit, paraphrase and locality prompt with their answers. The last record is not trained on."""
MODULES = {
    "gpt2": ["transformer.h.1.mlp.c_fc", "transformer.h.2.mlp.c_fc", "transformer.h.2.mlp.c_proj"],
    "llama": ["model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj", "model.layers.2.mlp.down_proj"],
}
NAMES = {
    "up": "u",
    "down": "v",
    "bias": "bias",
    "scale": "mode_scale.weight",
    "offset": "mode_shift.weight",
}
"""The authors' name of each parameter of a layer."""

each_family = pytest.mark.parametrize("family", sorted(MODULES))


def authors_name(name: str) -> str:
    """Return the authors' name of a parameter of the network."""
    if name == "step_sizes":
        return "edit_lrs"
    _, shape, layer, parameter = name.split(".")
    return f"({shape.replace('x', ', ')}).mlp.layers.{layer}.{NAMES[parameter]}"


def sign(name: str) -> int:
    """Return -1 for α, which the authors add instead of subtracting it."""
    return -1 if name == "step_sizes" else 1


class TinyTraining:
    """A training whose network has the parameters of the golden file."""

    def __init__(self, family: str) -> None:
        self.family = family
        self.model, self.tokenizer = make_pair(family)
        self.model.double()
        hparams = MendHyperParams(model_name="tiny", inner_params=MODULES[family], rank=6)
        self.training = HypernetworkTraining(self.model, self.tokenizer, hparams, MendNetwork)
        with torch.no_grad():
            for name, parameter in self.training.network.named_parameters():
                key = "edit_lrs" if name == "step_sizes" else f"parameter.{authors_name(name)}"
                parameter.copy_(sign(name) * GOLDEN[f"{family}.{key}"])

    def record(self, number: int) -> ChosenRecord:
        """Return a record as token ids."""
        pairs = [encode_pair(self.tokenizer, prompt, target) for prompt, target in RECORDS[number]]
        return ChosenRecord(*(Example("a record", tuple(pair.prompt), tuple(pair.target)) for pair in pairs))

    def updates(self, weights: Any) -> dict[str, Tensor]:
        """Return the change of each weight, as the projection stores it."""
        return {path: weights[path].detach() - self.model.get_submodule(path).weight.detach() for path in weights}

    def expected(self, key: str) -> Tensor:
        """Return a tensor of the golden file."""
        return GOLDEN[f"{self.family}.{key}"]


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    """Compare tensors. Llama's norms round to float32, so the difference is larger than float64's precision."""
    assert float(expected.abs().max()) > 0
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


@each_family
def test_updates_losses_and_gradients_equal_those_of_the_authors_code(family: str) -> None:
    tiny = TinyTraining(family)
    training, network = tiny.training, tiny.training.network
    with editing(tiny.model), frozen(tiny.model):
        for number in range(3):
            record = tiny.record(number)
            loss = training.loss([record], observe=True)
            assert_equal(torch.stack([loss.edit, loss.locality]).detach(), tiny.expected(f"losses{number}"))
            network.zero_grad()
            loss.total.backward()
            for name, parameter in network.named_parameters():
                expected = sign(name) * tiny.expected(f"gradient{number}.{authors_name(name)}")
                assert_equal(parameter.grad, expected)
        with torch.no_grad():
            weights = training.edited_weights([tiny.record(3).edit], observe=False)
    for path, update in tiny.updates(weights).items():
        assert is_transposed(tiny.model.get_submodule(path)) == (family == "gpt2")
        assert_equal(update, tiny.expected(f"update3.{path}"))


@each_family
def test_statistics_equal_those_of_the_authors_code(family: str) -> None:
    tiny = TinyTraining(family)
    network = tiny.training.network
    assert isinstance(network, MendNetwork)
    with editing(tiny.model), frozen(tiny.model), torch.no_grad():
        for number in range(3):
            weights = tiny.training.edited_weights([tiny.record(number).edit], observe=True)
            for path, update in tiny.updates(weights).items():
                assert_equal(update, tiny.expected(f"update{number}.{path}"))
    for shape, normaliser in network.normalisers.items():
        name = f"buffer.({shape.replace('x', ', ')})"
        assert normaliser.count == tiny.expected(f"{name}.k").item()
        assert_equal(normaliser.mean, torch.cat([tiny.expected(f"{name}.{part}_mean") for part in "uv"]))
        assert_equal(normaliser.std, torch.cat([tiny.expected(f"{name}.{part}_std") for part in "uv"]))
