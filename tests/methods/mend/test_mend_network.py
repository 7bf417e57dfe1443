"""The network of MEND: what it computes before its training, what projections share, and its state."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from easyedit_lifelong import MendHyperParams
from easyedit_lifelong.methods.hypernetworks.token_gradients import TokenGradients
from easyedit_lifelong.methods.hypernetworks.training import artefact_of, load_artefact
from easyedit_lifelong.methods.mend.network import LowRankLayer, MendNetwork

SHAPES = {"a": (6, 4), "b": (6, 4), "c": (4, 6)}


def network_for(seed: int = 0, n_hidden: int = 1) -> MendNetwork:
    modules = {path: nn.Linear(*shape).double() for path, shape in SHAPES.items()}
    hparams = MendHyperParams(
        model_name="tiny", inner_params=list(SHAPES), rank=3, edit_lr=0.5, seed=seed, n_hidden=n_hidden
    )
    return MendNetwork(None, modules, hparams)


def gradients(tokens: int = 5, seed: int = 0) -> dict[str, TokenGradients]:
    draw = torch.Generator().manual_seed(seed)

    def vectors(size: int) -> Tensor:
        return torch.randn(tokens, size, generator=draw, dtype=torch.float64)

    edit_of = torch.zeros(tokens, dtype=torch.long)
    return {
        path: TokenGradients(vectors(inputs), vectors(outputs), edit_of) for path, (inputs, outputs) in SHAPES.items()
    }


def test_before_the_training_an_update_is_a_step_along_the_normalised_gradient() -> None:
    network, parts = network_for(), gradients()
    updates = network.updates([], parts, observe=True)
    # Projections a and b share a normaliser, which has seen only the vectors of a when a is transformed.
    seen = torch.cat([parts["a"].inputs, parts["a"].gradients], dim=1)
    normalised = (seen - seen.mean(dim=0)) / (seen.std(dim=0) + 1e-7)
    expected = -0.5 * normalised[:, 6:].t() @ normalised[:, :6]
    torch.testing.assert_close(updates["a"].matrix(), expected)
    both = torch.cat([seen, torch.cat([parts["b"].inputs, parts["b"].gradients], dim=1)])
    normalised = ((both - both.mean(dim=0)) / (both.std(dim=0) + 1e-7))[5:]
    torch.testing.assert_close(updates["b"].matrix(), -0.5 * normalised[:, 6:].t() @ normalised[:, :6])


def test_projections_of_one_shape_share_matrices_and_have_their_own_scale_and_offset() -> None:
    network = network_for()
    names = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    assert names["step_sizes"] == (3,)
    assert names["transforms.6x4.0.up"] == (10, 3)
    assert names["transforms.6x4.1.scale"] == (2, 10)
    assert names["transforms.4x6.1.offset"] == (1, 10)
    assert len(names) == 1 + 2 * 2 * 5
    network.updates([], gradients(), observe=True)
    parts = gradients(seed=1)
    before = {path: update.matrix().detach() for path, update in network.updates([], parts, observe=False).items()}
    with torch.no_grad():
        network.transforms["6x4"][0].offset[1] += 1  # type: ignore[index]
    after = {path: update.matrix().detach() for path, update in network.updates([], parts, observe=False).items()}
    assert torch.equal(after["a"], before["a"])
    assert torch.equal(after["c"], before["c"])
    assert not torch.equal(after["b"], before["b"])


def test_the_layer_passes_gradients_to_all_parameters_before_the_training() -> None:
    layer = LowRankLayer(4, 2, 1, torch.Generator().manual_seed(0))
    x = torch.ones(3, 4)
    assert torch.equal(layer(x, 0), x)
    layer(x, 0).sum().backward()
    assert layer.up.grad is not None
    assert layer.up.grad.abs().sum() > 0
    assert torch.equal(layer.offset.grad, torch.full((1, 4), 3.0))  # type: ignore[arg-type]


def test_only_training_changes_the_statistics() -> None:
    network = network_for()
    network.updates([], gradients(), observe=True)
    before = network.statistics()
    network.updates([], gradients(seed=1), observe=False)
    assert all(torch.equal(value, before[name]) for name, value in network.statistics().items())
    assert before["6x4.count"] == 10


def test_an_edit_without_gradients_has_no_update() -> None:
    network = network_for()
    network.updates([], gradients(), observe=True)
    updates = network.updates([], gradients(tokens=0), observe=True)
    assert all(torch.equal(update.matrix(), torch.zeros(update.shape[::-1]).double()) for update in updates.values())
    assert all(math.isfinite(float(value.sum())) for value in network.statistics().values())


@pytest.mark.parametrize("n_hidden", [0, 2])
def test_a_network_with_the_state_of_another_computes_bitwise_the_same(n_hidden: int) -> None:
    network, other = network_for(n_hidden=n_hidden), network_for(seed=1, n_hidden=n_hidden)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1
    network.updates([], gradients(), observe=True)
    load_artefact(other, artefact_of(network))
    parts = gradients(seed=2)
    first, second = (each.updates([], parts, observe=False) for each in (network, other))
    assert all(torch.equal(first[path].matrix(), second[path].matrix()) for path in SHAPES)


def test_the_first_parameters_depend_on_the_seed_only() -> None:
    first, again, other = network_for(), network_for(), network_for(seed=1)
    names = [name for name, _ in first.named_parameters() if name.endswith("down")]
    for name in names:
        assert torch.equal(first.get_parameter(name), again.get_parameter(name))
        assert not torch.equal(first.get_parameter(name), other.get_parameter(name))
