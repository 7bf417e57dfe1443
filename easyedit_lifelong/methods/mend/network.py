"""The network of MEND: it normalises inputs and gradients, and transforms them with layers of low rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.methods.hypernetworks.network import Hypernetwork
from easyedit_lifelong.methods.hypernetworks.token_gradients import TokenGradients
from easyedit_lifelong.methods.mend.config import MendHyperParams
from easyedit_lifelong.methods.training.examples import Example
from easyedit_lifelong.methods.weight_updates.layer_update import ProductUpdate
from easyedit_lifelong.methods.weight_updates.normaliser import Normaliser
from easyedit_lifelong.models.anatomy import projection_shape
from easyedit_lifelong.models.devices import device_of
from easyedit_lifelong.models.quantisation import update_dtype

_EPSILON = 1e-7
"""Added to the standard deviation, as in the authors' code."""


class LowRankLayer(nn.Module):
    """A layer x ← x + max(0, s ⊙ (U V x + b) + o), with its own s and o for each projection (MEND, section 3.2).

    U is zero at first, so that the layer returns its input.

    Args:
        features: the width of x.
        rank: the rank of U V.
        projections: number of projections that share the layer.
        generator: the random numbers for V.
    """

    def __init__(self, features: int, rank: int, projections: int, generator: torch.Generator) -> None:
        super().__init__()
        rank = min(rank, features)
        self.up = nn.Parameter(torch.zeros(features, rank))
        self.down = nn.Parameter(torch.randn(rank, features, generator=generator))
        self.bias = nn.Parameter(torch.zeros(features))
        self.scale = nn.Parameter(torch.ones(projections, features))
        self.offset = nn.Parameter(torch.zeros(projections, features))

    def forward(self, x: Tensor, projection: int) -> Tensor:
        """Transform vectors of one projection.

        Args:
            x: shape ``(tokens, features)``.
            projection: the number of the projection among those that share the layer.
        """
        hidden = x @ self.down.t() @ self.up.t() + self.bias
        # Unlike that of relu, the gradient of clamp at 0 is 1. All values are 0 at first.
        return x + (hidden * self.scale[projection] + self.offset[projection]).clamp(min=0)


class MendNetwork(Hypernetwork):
    """The network of MEND (arXiv 2110.11309, section 3).

    For each token of an edit, [ũ; δ̃] = g([u; δ]), and the update of a projection is ΔW = -α Σ δ̃ ũᵀ. Projections of one
    shape share g and the normaliser of its input.

    Args:
        model: the model.
        modules: the edited projections by path.
        hparams: the hyperparameters.
    """

    def __init__(self, model: Any, modules: Mapping[str, nn.Module], hparams: MendHyperParams) -> None:
        super().__init__(model, modules, hparams)
        self._learning_rates = hparams.lr, hparams.lr_lr
        shapes = {path: projection_shape(module) for path, module in modules.items()}
        self._shape_of = {path: f"{inputs}x{outputs}" for path, (inputs, outputs) in shapes.items()}
        sharing = {name: [path for path in modules if self._shape_of[path] == name] for name in self._shape_of.values()}
        self._number_of = {path: sharing[name].index(path) for path, name in self._shape_of.items()}
        features = {self._shape_of[path]: sum(shape) for path, shape in shapes.items()}
        self.normalisers = {name: Normaliser.empty(size) for name, size in features.items()}
        generator = torch.Generator().manual_seed(hparams.seed)
        self.transforms = nn.ModuleDict(
            {
                name: nn.ModuleList(
                    LowRankLayer(size, hparams.rank, len(sharing[name]), generator) for _ in range(hparams.n_hidden + 1)
                )
                for name, size in features.items()
            }
        )
        self.step_sizes = nn.Parameter(torch.full((len(modules),), hparams.edit_lr))
        last = list(modules.values())[-1]
        self.to(device_of(last), update_dtype(last))

    def updates(
        self, examples: Sequence[Example], gradients: Mapping[str, TokenGradients], *, observe: bool
    ) -> dict[str, ProductUpdate]:
        """Return ΔW = -α Σ δ̃ ũᵀ of each projection; see :class:`Hypernetwork`."""
        updates: dict[str, ProductUpdate] = {}
        for step_size, (path, part) in zip(self.step_sizes, gradients.items(), strict=True):
            inputs, output_gradients = self._transformed(path, part, observe)
            updates[path] = ProductUpdate(inputs.t(), -step_size * output_gradients.t())
        return updates

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return g with the learning rate ``lr``, and α with ``lr_lr``."""
        lr, lr_of_step_sizes = self._learning_rates
        return [
            {"params": list(self.transforms.parameters()), "lr": lr},
            {"params": [self.step_sizes], "lr": lr_of_step_sizes},
        ]

    def statistics(self) -> dict[str, Tensor]:
        """Return the normalisers as tensors by name."""
        return {
            f"{name}.{key}": value
            for name, normaliser in self.normalisers.items()
            for key, value in (
                ("count", torch.tensor(normaliser.count)),
                ("mean", normaliser.mean),
                ("squares", normaliser.squares),
            )
        }

    def load_statistics(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the normalisers."""
        self.normalisers = {
            name: Normaliser(int(tensors[f"{name}.count"]), tensors[f"{name}.mean"], tensors[f"{name}.squares"])
            for name in self.normalisers
        }

    def _transformed(self, path: str, part: TokenGradients, observe: bool) -> tuple[Tensor, Tensor]:
        """Return ũ and δ̃ at every token, shapes ``(tokens, inputs)`` and ``(tokens, outputs)``."""
        name = self._shape_of[path]
        features = torch.cat([part.inputs, part.gradients], dim=1)
        in_float64 = features.to("cpu", torch.float64)
        if observe and len(features):
            self.normalisers[name] = self.normalisers[name].updated(in_float64)
        x = self.normalisers[name].normalise(in_float64, _EPSILON).to(self.step_sizes)
        layers = self.transforms[name]
        assert isinstance(layers, nn.ModuleList)
        for layer in layers:
            x = layer(x, self._number_of[path])
        inputs, output_gradients = x.split([part.inputs.shape[1], part.gradients.shape[1]], dim=1)
        return inputs, output_gradients
