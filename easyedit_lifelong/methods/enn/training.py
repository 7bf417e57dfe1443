"""Train ENN: differentiate through the gradient steps of an edit, and keep the model near the base model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from easyedit_lifelong.methods.enn.config import ENNHyperParams
from easyedit_lifelong.methods.enn.network import EditableWeights
from easyedit_lifelong.methods.hypernetworks.training import HypernetworkTraining, TrainingLoss, mean_divergence
from easyedit_lifelong.methods.hypernetworks.training_records import ChosenRecord
from easyedit_lifelong.methods.training.example_passes import Weights
from easyedit_lifelong.methods.training.examples import Example


@dataclass(frozen=True)
class ENNLoss(TrainingLoss):
    """The loss of one training edit: c_edit · edit + c_loc · locality + c_base · base.

    Attributes:
        base: KL(W ‖ W + D) on the locality prompts, mean over tokens, in nats.
    """

    base: Tensor

    def numbers(self) -> dict[str, float]:
        """Return the values by the names of the training curve."""
        return {**super().numbers(), "base_loss": float(self.base.detach())}


class ENNTraining(HypernetworkTraining):
    """Trains weights for gradient steps (arXiv 2004.00345); see :class:`HypernetworkTraining`.

    The model's own weights W stay as they are: the training changes D, and the passes use W + D.
    """

    _hparams: ENNHyperParams
    network: EditableWeights

    def edited_weights(self, edits: Sequence[Example], *, observe: bool) -> Weights:
        """Return the weights after the gradient steps of an edit, W + D - Σ α ∇; differentiable in D and α.

        The gradient of the sum of the edits' losses is taken at the present weights in each step. Unless
        ``first_order`` is set, these gradients are differentiable, too.
        """
        weights = self.base_weights()
        training = torch.is_grad_enabled()
        for _ in range(self._hparams.n_edit_steps):
            if not training:
                weights = {path: weight.detach().requires_grad_() for path, weight in weights.items()}
            # The fused kernels of attention have no second derivative.
            with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                total = self._passes.losses(edits, weights).losses.sum()
                gradients = torch.autograd.grad(
                    total, list(weights.values()), create_graph=training and not self._hparams.first_order
                )
            steps = zip(self.network.step_sizes, weights.items(), gradients, strict=True)
            weights = {path: weight - size.to(weight) * gradient for size, (path, weight), gradient in steps}
        return weights

    def base_weights(self) -> dict[str, Tensor]:
        """Return W + D, the weights before an edit; differentiable in D."""
        return self.network.trained_weights(self._modules, self.model_weights())

    def _loss_with(self, weights: Weights, records: Sequence[ChosenRecord]) -> ENNLoss:
        """Return the loss of one training edit, given the edited weights."""
        loss = super()._loss_with(weights, records)
        locality = [record.locality for record in records]
        with torch.no_grad():
            original = self._predictions(locality, None)
        base = mean_divergence(original, self._predictions(locality, self.base_weights()))
        total = loss.total + self._hparams.cbase * base
        return ENNLoss(total, loss.edit, loss.locality, loss.generality, loss.agreement, base)
