"""KE's network computes the vector, the updates and the gradients of the authors' code, in float64.

``golden/ke_authors.safetensors`` holds numbers of ``OneShotLearner`` of eric-mitchell/mend (``algs/efk.py``), which for
one edit is that of nicola-decao/KnowledgeEditor: its parameters, the gradients of two ``nn.Linear`` as factors, the
vector of the edit, the updates, and the gradient of the sum of all squared values of the updates. AllenNLP cannot be
installed beside current packages, so two stand-ins were used: ``PytorchSeq2VecWrapper`` returns the last states of both
directions, and ``FeedForward`` is one linear layer with its activation.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from easyedit_lifelong import KEHyperParams
from easyedit_lifelong.methods.hypernetworks.token_gradients import TokenGradients
from easyedit_lifelong.methods.ke.network import KENetwork
from easyedit_lifelong.methods.training.examples import Example

GOLDEN = load_file(Path(__file__).parents[2] / "golden" / "ke_authors.safetensors")
PROJECTIONS = ("a", "b")
TOKENS = tuple(GOLDEN["tokens"][0].tolist())
EXAMPLE = Example("an edit", TOKENS[:4], TOKENS[4:])


class EmbeddingModel(nn.Module):
    """A model of which only the token embedding is used."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(GOLDEN["embedding"])

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding


def authors_name(name: str) -> str:
    """Return the authors' name of a parameter of the network."""
    part, _, rest = name.partition(".")
    if part == "lstm":
        return f"condition.lstm._module.{rest}"
    if part == "condition":
        return f"condition.linear._linear_layers.0.{rest}"
    number, layer, *kind = rest.split(".")
    ending = {"original0": "weight_g", "original1": "weight_v", "bias": "bias"}[kind[-1]]
    layer_number = {"hidden": 0, "out": 2}[layer]
    return f"conditioners.{PROJECTIONS[int(number)]}_weight_conditioner.conditioners.{layer_number}.{ending}"


def golden_network() -> KENetwork:
    modules = {
        name: nn.Linear(*GOLDEN[f"update.{name}"].shape[::-1], bias=False, dtype=torch.float64) for name in PROJECTIONS
    }
    hparams = KEHyperParams(
        model_name="tiny", inner_params=list(PROJECTIONS), hidden_dim=3, condition_dim=10, max_scale=0.5
    )
    network = KENetwork(EmbeddingModel(), modules, hparams)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(GOLDEN[f"parameter.{authors_name(name)}"])
    return network


def gradients(edits: int = 1) -> dict[str, TokenGradients]:
    """Return the gradients of the golden file, as those of several equal edits."""
    result = {}
    for name in PROJECTIONS:
        inputs, outputs = GOLDEN[f"inputs.{name}"], GOLDEN[f"gradients.{name}"]
        edit_of = torch.arange(edits).repeat_interleave(len(inputs))
        result[name] = TokenGradients(inputs.repeat(edits, 1), outputs.repeat(edits, 1), edit_of)
    return result


def assert_equal(actual: Tensor | None, expected: Tensor) -> None:
    assert actual is not None
    assert float(expected.abs().max()) > 0
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


def test_the_vector_of_an_edit_equals_that_of_the_authors_code() -> None:
    (condition,) = golden_network()._conditions([EXAMPLE])
    assert_equal(condition, GOLDEN["condition"])


def test_updates_and_gradients_equal_those_of_the_authors_code() -> None:
    network = golden_network()
    updates = network.updates([EXAMPLE], gradients(), observe=False)
    for name in PROJECTIONS:
        assert_equal(updates[name].matrix(), GOLDEN[f"update.{name}"])
    sum((update.matrix() ** 2).sum() for update in updates.values()).backward()  # type: ignore[union-attr]
    for name, parameter in network.named_parameters():
        assert_equal(parameter.grad, GOLDEN[f"gradient.{authors_name(name)}"])


def test_the_update_of_a_batch_is_the_sum_over_its_edits() -> None:
    """Each edit has its own vector: here, that of the other order of tokens differs."""
    network = golden_network()
    other = Example("another edit", TOKENS[:0:-1], TOKENS[:1])
    alone = [network.updates([example], gradients(), observe=False) for example in (EXAMPLE, other)]
    both = network.updates([EXAMPLE, other], gradients(edits=2), observe=False)
    for name in PROJECTIONS:
        first, second = (updates[name].matrix() for updates in alone)
        assert not torch.allclose(first, second)
        torch.testing.assert_close(both[name].matrix(), first + second)
        assert both[name].adjusted.shape[1] == 2 * (len(GOLDEN[f"inputs.{name}"]) + 1)
