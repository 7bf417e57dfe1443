"""What ENN trains: the change of the edited weights, and the learning rate of an edit for each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.methods.enn.config import ENNHyperParams
from easyedit_lifelong.methods.hypernetworks.network import Hypernetwork
from easyedit_lifelong.methods.hypernetworks.token_gradients import TokenGradients
from easyedit_lifelong.methods.training.examples import Example
from easyedit_lifelong.methods.weight_updates.edited_layers import changed_weight, weight_of
from easyedit_lifelong.methods.weight_updates.layer_update import ProductUpdate
from easyedit_lifelong.models.anatomy import projection_shape
from easyedit_lifelong.models.quantisation import update_dtype


class EditableWeights(Hypernetwork):
    """The trained weights W + D of the edited projections, and the learning rates α of an edit.

    Args:
        model: the model, whose weights W stay as they are.
        modules: the edited projections by path.
        hparams: the hyperparameters.
    """

    def __init__(self, model: Any, modules: Mapping[str, nn.Module], hparams: ENNHyperParams) -> None:
        super().__init__(model, modules, hparams)
        self._learning_rates = hparams.lr, hparams.lr_lr
        self._paths = list(modules)
        self.changes = nn.ParameterList(
            nn.Parameter(torch.zeros(projection_shape(module)[::-1], device=weight_of(module).device))
            for module in modules.values()
        )
        self.step_sizes = nn.Parameter(torch.full((len(modules),), hparams.edit_lr))
        self.to(update_dtype(list(modules.values())[-1]))

    def updates(
        self, examples: Sequence[Example], gradients: Mapping[str, TokenGradients], *, observe: bool
    ) -> dict[str, ProductUpdate]:
        """Return one gradient step, ΔW = -α ∇W, of each projection; see :class:`Hypernetwork`."""
        return {
            path: ProductUpdate(part.inputs.t(), -step_size.to(part.gradients) * part.gradients.t())
            for step_size, (path, part) in zip(self.step_sizes, gradients.items(), strict=True)
        }

    def trained_weights(self, modules: Mapping[str, nn.Module], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return W + D of each projection, as the projection stores it; differentiable in D.

        Args:
            modules: the projections by path.
            weights: W of each projection, in float32 or wider.
        """
        return {
            path: changed_weight(module, weights[path], change)
            for change, (path, module) in zip(self.changes, modules.items(), strict=True)
        }

    def base_changes(self) -> dict[str, Tensor]:
        """Return D of each projection, shape ``(outputs, inputs)``."""
        return dict(zip(self._paths, self.changes, strict=True))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return D with the learning rate ``lr``, and α with ``lr_lr``."""
        lr, lr_of_step_sizes = self._learning_rates
        return [
            {"params": list(self.changes), "lr": lr},
            {"params": [self.step_sizes], "lr": lr_of_step_sizes},
        ]
