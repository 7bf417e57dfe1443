"""Train a network that computes weight updates: the loss of an edit, optimiser steps, validation, and its state."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.data.joiners import joiner_of, with_joiner
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.hypernetworks.config import HypernetworkHyperParams
from easyedit_lifelong.methods.hypernetworks.network import Hypernetwork
from easyedit_lifelong.methods.hypernetworks.token_gradients import token_gradients
from easyedit_lifelong.methods.hypernetworks.training_records import ChosenRecord, TrainingRecord, encode_record
from easyedit_lifelong.methods.training.example_passes import ExamplePasses, Weights
from easyedit_lifelong.methods.training.examples import Example
from easyedit_lifelong.methods.weight_updates.edited_layers import changed_weight, weight_of
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.precision import at_least_float32
from easyedit_lifelong.models.runner import Runner

_MAX_KEPT_BYTES = 1 << 30
"""Memory for activations of training records that do not change, so that a second epoch needs not compute them."""


@dataclass(frozen=True)
class TrainingLoss:
    """The loss of one training edit (MEND, equation 4 of the paper).

    Attributes:
        total: c_edit · edit + c_loc · locality.
        edit: mean over the paraphrases of the negative log-likelihood of the target, in nats per token.
        locality: KL(before ‖ after) of the predictions on the locality prompts, mean over tokens, in nats.
        generality: share of the paraphrases whose target tokens the edited model predicts.
        agreement: share of these tokens at which the most likely token is the same as before.
    """

    total: Tensor
    edit: Tensor
    locality: Tensor
    generality: Tensor
    agreement: Tensor

    def numbers(self) -> dict[str, float]:
        """Return the values by the names of the training curve."""
        return {
            "loss": float(self.total.detach()),
            "edit_loss": float(self.edit.detach()),
            "locality_loss": float(self.locality.detach()),
            "generality": float(self.generality),
            "locality_agreement": float(self.agreement),
        }


class HypernetworkTraining:
    """Trains a network on one model, whose weights stay as they are.

    It implements :class:`~easyedit_lifelong.methods.trained_editor.Training`.

    Args:
        model: the model, in evaluation mode; its parameters need no gradients.
        tokenizer: its tokenizer.
        hparams: the hyperparameters of the method.
        network_class: the class of the network.
    """

    def __init__(
        self, model: Any, tokenizer: Any, hparams: HypernetworkHyperParams, network_class: type[Hypernetwork]
    ) -> None:
        self._model, self._tokenizer, self._hparams = model, tokenizer, hparams
        self._modules = dict(find_module(model, name) for name in hparams.rewrite_modules)
        self.network = network_class(model, self._modules, hparams)
        self._optimiser = torch.optim.Adam(self.parameter_groups())
        # The output of the constant blocks is computed for one example at a time, so that a resumed training, which
        # has to compute it again, gets bitwise the same.
        self._passes = ExamplePasses(
            Runner(model, tokenizer), self._modules, rows_at_once=1, max_kept_bytes=_MAX_KEPT_BYTES
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return all trained parameters with their learning rates, as optimisers take them."""
        return self.network.parameter_groups()

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Return all trained parameters by name."""
        return dict(self.network.named_parameters())

    def encode(self, request: EditRequest) -> TrainingRecord:
        """Encode a request; see :class:`TrainingRecord`."""
        (request,) = with_joiner([request], joiner_of(self._hparams))
        return encode_record(self._model, self._tokenizer, request, self._hparams.eos)

    def train_step(self, batches: Sequence[Sequence[TrainingRecord]], choices: random.Random) -> dict[str, float]:
        """Make one optimiser step, from the mean gradient over some training edits.

        Args:
            batches: the requests of each training edit.
            choices: chooses a paraphrase and a locality prompt of each request.

        Returns:
            The mean losses; see :meth:`TrainingLoss.numbers`.

        Raises:
            EditError: a loss or the gradient is not finite.
        """
        self._optimiser.zero_grad()
        numbers = []
        for batch in batches:
            loss = self.loss([record.choose(choices) for record in batch], observe=True)
            (loss.total / len(batches)).backward()
            numbers.append(loss.numbers())
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self._hparams.grad_clip)
        if not torch.isfinite(norm):
            raise EditError("the gradient of the network is not finite; a smaller learning rate may help")
        self._optimiser.step()
        return {**_means(numbers), "gradient_norm": float(norm)}

    @torch.no_grad()
    def validate(self, batches: Sequence[Sequence[TrainingRecord]], choices: random.Random) -> dict[str, float]:
        """Return the mean losses over edits that the network is not trained on, and the share that succeed.

        Args:
            batches: the requests of each edit.
            choices: chooses a paraphrase and a locality prompt of each request.
        """
        numbers = []
        for batch in batches:
            chosen = [record.choose(choices) for record in batch]
            weights = self.edited_weights([record.edit for record in chosen], observe=False)
            success = self._passes.losses([record.edit for record in chosen], weights).correct
            loss = self._loss_with(weights, chosen)
            numbers.append({**loss.numbers(), "success": float(success.double().mean())})
        return _means(numbers)

    def artefact(self) -> dict[str, Tensor]:
        """Return what editing needs of the network, as tensors by name."""
        return artefact_of(self.network)

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next optimiser steps depend on, as tensors by name."""
        tensors = artefact_of(self.network)
        for name, parameter in self.named_parameters().items():
            for key, value in self._optimiser.state[parameter].items():
                tensors[f"optimiser.{key}.{name}"] = value
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state` returned.

        Raises:
            KeyError: a tensor is missing.
            RuntimeError: a tensor has another shape.
        """
        load_artefact(self.network, tensors)
        for name, parameter in self.named_parameters().items():
            self._optimiser.state[parameter] = {
                "step": tensors[f"optimiser.step.{name}"].clone(),
                "exp_avg": tensors[f"optimiser.exp_avg.{name}"].to(parameter, copy=True),
                "exp_avg_sq": tensors[f"optimiser.exp_avg_sq.{name}"].to(parameter, copy=True),
            }

    def edited_weights(self, edits: Sequence[Example], *, observe: bool) -> Weights:
        """Return the weights of the projections with the update of some edits; differentiable in the network."""
        gradients, _ = token_gradients(self._passes, self._modules, edits)
        updates = self.network.updates(edits, gradients, observe=observe)
        return {
            path: changed_weight(self._modules[path], weight, updates[path].matrix())
            for path, weight in self.model_weights().items()
        }

    def model_weights(self) -> dict[str, Tensor]:
        """Return the model's own weights of the projections, in float32 or wider."""
        return {path: at_least_float32(weight_of(module).detach()) for path, module in self._modules.items()}

    def loss(self, records: Sequence[ChosenRecord], *, observe: bool) -> TrainingLoss:
        """Return the loss of one training edit; differentiable in the network.

        Raises:
            EditError: it is not finite.
        """
        loss = self._loss_with(self.edited_weights([record.edit for record in records], observe=observe), records)
        if not torch.isfinite(loss.total):
            raise EditError(
                f"{records[0].edit.where}: the loss of the training became {float(loss.total.detach())}; a smaller "
                "learning rate may help"
            )
        return loss

    def base_weights(self) -> Weights | None:
        """Return the weights of the projections before an edit; None: those of the model."""
        return None

    def total_loss(self, edit: Tensor, locality: Tensor) -> Tensor:
        """Return the loss that is minimised, c_edit · edit + c_loc · locality."""
        return self._hparams.cedit * edit + self._hparams.cloc * locality

    def _loss_with(self, weights: Weights, records: Sequence[ChosenRecord]) -> TrainingLoss:
        """Return the loss of one training edit, given the edited weights."""
        generality = self._passes.losses([record.paraphrase for record in records], weights)
        locality = [record.locality for record in records]
        with torch.no_grad():
            before = self._predictions(locality, self.base_weights())
        after = self._predictions(locality, weights)
        divergence = mean_divergence(before, after)
        edit = generality.losses.mean()
        return TrainingLoss(
            total=self.total_loss(edit, divergence),
            edit=edit,
            locality=divergence,
            generality=generality.correct.double().mean(),
            agreement=(before.argmax(dim=1) == after.detach().argmax(dim=1)).double().mean(),
        )

    def _predictions(self, examples: Sequence[Example], weights: Weights | None) -> Tensor:
        """Return the log probabilities that the KL divergence compares, shape ``(tokens, vocabulary)``."""
        logits = self._passes.target_logits if self._hparams.kl_tokens == "answer" else self._passes.all_logits
        return logits(examples, weights).log_softmax(dim=1)


def mean_divergence(before: Tensor, after: Tensor) -> Tensor:
    """Return KL(before ‖ after), the mean over tokens, of log probabilities of shape ``(tokens, vocabulary)``."""
    return (before.exp() * (before - after)).sum(dim=1).mean()


def artefact_of(network: Hypernetwork) -> dict[str, Tensor]:
    """Return the parameters and the statistics of a network, as tensors by name."""
    parameters = {f"network.{name}": value.detach().clone() for name, value in network.named_parameters()}
    return parameters | {f"statistics.{name}": value.clone() for name, value in network.statistics().items()}


@torch.no_grad()
def load_artefact(network: Hypernetwork, tensors: Mapping[str, Tensor]) -> None:
    """Restore what :func:`artefact_of` returned.

    Raises:
        KeyError: a tensor is missing.
        RuntimeError: a tensor has another shape.
    """
    for name, parameter in network.named_parameters():
        value = tensors[f"network.{name}"]
        if value.shape != parameter.shape:
            raise RuntimeError(f"network.{name} has the shape {tuple(value.shape)} instead of {tuple(parameter.shape)}")
        parameter.copy_(value)
    prefix = "statistics."
    network.load_statistics(
        {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    )


def _means(numbers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each value over some training edits."""
    return {name: sum(entry[name] for entry in numbers) / len(numbers) for name in numbers[0]}
