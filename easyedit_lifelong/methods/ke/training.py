"""Train KE: minimise the loss of edits while the KL divergence on locality prompts stays below a margin."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.methods.hypernetworks.network import Hypernetwork
from easyedit_lifelong.methods.hypernetworks.training import HypernetworkTraining
from easyedit_lifelong.methods.hypernetworks.training_records import TrainingRecord
from easyedit_lifelong.methods.ke.config import KEHyperParams

_MULTIPLIER = "multiplier"


class KETraining(HypernetworkTraining):
    """Trains KE on one model (arXiv 2104.08164).

    It minimises the negative log-likelihood of the edits under the constraint KL ≤ m. The constraint has a Lagrange
    multiplier λ ≥ 0: every optimiser step descends the gradient of NLL + λ (KL - m) in the network's parameters, and
    ascends it in λ.

    Args:
        model: the model, in evaluation mode; its parameters need no gradients.
        tokenizer: its tokenizer.
        hparams: the hyperparameters.
        network_class: the class of the network.

    Attributes:
        multiplier: λ. It is 1 at first.
    """

    _hparams: KEHyperParams

    def __init__(self, model: Any, tokenizer: Any, hparams: KEHyperParams, network_class: type[Hypernetwork]) -> None:
        self.multiplier = nn.Parameter(torch.ones(()))
        super().__init__(model, tokenizer, hparams, network_class)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the network's parameters and λ, whose gradient is ascended."""
        multiplier = {"params": [self.multiplier], "lr": self._hparams.lr_multiplier, "maximize": True}
        return [*super().parameter_groups(), multiplier]

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Return the network's parameters and λ by name."""
        return {**super().named_parameters(), _MULTIPLIER: self.multiplier}

    def total_loss(self, edit: Tensor, locality: Tensor) -> Tensor:
        """Return NLL + λ (KL - m)."""
        return edit + self.multiplier.to(locality.device) * (locality - self._hparams.kl_margin)

    def train_step(self, batches: Sequence[Sequence[TrainingRecord]], choices: random.Random) -> dict[str, float]:
        """Make one optimiser step, and report λ after it; see :class:`HypernetworkTraining`."""
        values = super().train_step(batches, choices)
        with torch.no_grad():
            self.multiplier.clamp_(min=0)
        return {**values, _MULTIPLIER: float(self.multiplier.detach())}

    def validate(self, batches: Sequence[Sequence[TrainingRecord]], choices: random.Random) -> dict[str, float]:
        """Return the scores of held-out edits. λ changes between validations, so ``loss`` has c_edit and c_loc."""
        values = super().validate(batches, choices)
        loss = self._hparams.cedit * values["edit_loss"] + self._hparams.cloc * values["locality_loss"]
        return {**values, "loss": loss}

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next optimiser steps depend on, as tensors by name."""
        return {**super().state(), _MULTIPLIER: self.multiplier.detach().clone()}

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state` returned; see :class:`HypernetworkTraining`."""
        super().load_state(tensors)
        self.multiplier.copy_(tensors[_MULTIPLIER])
