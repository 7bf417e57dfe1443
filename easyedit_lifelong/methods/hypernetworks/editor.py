"""The editor of methods with a trained network: one gradient, one pass of the network, one update of the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError, HyperParameterError, ModelError, RunError
from easyedit_lifelong.hparams_files import hparams_values
from easyedit_lifelong.methods.artefacts import Artefact, read_artefact
from easyedit_lifelong.methods.hypernetworks.config import HypernetworkHyperParams
from easyedit_lifelong.methods.hypernetworks.network import Hypernetwork
from easyedit_lifelong.methods.hypernetworks.token_gradients import token_gradients
from easyedit_lifelong.methods.hypernetworks.training import load_artefact
from easyedit_lifelong.methods.shared.editors import base_fingerprint
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.methods.shared.results import Outcome
from easyedit_lifelong.methods.training.example_passes import ExampleLosses, ExamplePasses
from easyedit_lifelong.methods.training.examples import Example, RequestExample, encode_request
from easyedit_lifelong.methods.weight_updates.batch_editor import BatchEditor
from easyedit_lifelong.methods.weight_updates.check import check_block_projections, check_same_targets
from easyedit_lifelong.methods.weight_updates.history import Batch
from easyedit_lifelong.methods.weight_updates.layer_update import ProductUpdate, WeightUpdate
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.model_modes import frozen
from easyedit_lifelong.models.modules import module_path
from easyedit_lifelong.models.wrappers import model_to_edit


@dataclass(frozen=True)
class NetworkBatch(Batch):
    """The edits that one batch made.

    Attributes:
        artefact: the digest of the trained network that computed the updates.
    """

    update_class: ClassVar[type[Any]] = ProductUpdate

    artefact: str = ""


class HypernetworkEditor(BatchEditor[NetworkBatch]):
    """Base class of editors that compute updates with a trained network. Get one with :meth:`on`.

    A subclass sets the classes of its hyperparameters and of its network. The network is read from the folder
    ``archive`` before the first edit; saved edits load without it.

    Args:
        model: the model to edit.
        tokenizer: its tokenizer.
        hparams: the hyperparameters.

    Raises:
        ModelError: the model lacks a layer that the hyperparameters name.
    """

    batch_class: ClassVar[type[NetworkBatch]] = NetworkBatch
    network_class: ClassVar[type[Hypernetwork]]

    def __init__(self, model: Any, tokenizer: Any, hparams: HypernetworkHyperParams) -> None:
        check_block_projections(model, hparams, "inner_params")
        super().__init__(model_to_edit(model), tokenizer, hparams)
        self._trained: tuple[str | None, str, Hypernetwork] | None = None
        """The folder, the digest and the network of the artefact that was read last."""

    def encode(self, request: EditRequest) -> RequestExample:
        """Encode the prompt and the target of a request."""
        return encode_request(self.tokenizer, request, self.hparams.eos, context_length(self.model))

    def check_batch(self, items: Sequence[RequestExample]) -> None:
        """Check that no two requests of a batch have the same prompt and different targets."""
        check_same_targets((item.example.prompt, item.request) for item in items)

    def edit_batch(self, items: Sequence[RequestExample]) -> tuple[NetworkBatch, list[Outcome]]:
        """Apply one batch; return it, and the outcome of each request."""
        digest, network = self._network()
        examples = [item.example for item in items]
        passes = ExamplePasses(self._runner, self._layers.modules)
        with frozen(self.model), torch.no_grad():
            updates, before = self.compute_updates(network, passes, examples)
            for path, update in updates.items():
                self._layers.apply(path, update)
            after = passes.losses(examples)
        after.check_finite(examples, "after the edit")
        records = tuple(EditRecord.of(item.request) for item in items)
        outcomes = [
            Outcome(1, float(after.losses[i]), bool(after.correct[i]), {"loss_before": float(before.losses[i])})
            for i in range(len(items))
        ]
        return self.batch_class(records, updates, digest), outcomes

    def compute_updates(
        self, network: Hypernetwork, passes: ExamplePasses, examples: Sequence[Example]
    ) -> tuple[Mapping[str, WeightUpdate], ExampleLosses]:
        """Return the update of each projection, and the losses of the examples before it.

        Args:
            network: the trained network.
            passes: runs the model.
            examples: the edits of a batch.
        """
        gradients, before = token_gradients(passes, self._layers.modules, examples)
        updates = network.updates(examples, gradients, observe=False)
        return {path: update.stored() for path, update in updates.items()}, before

    def _network(self) -> tuple[str, Hypernetwork]:
        """Return the digest of the trained network, and the network.

        Raises:
            HyperParameterError: there is no trained network, or one with other settings.
            ModelError: it was trained for another model.
            EditError: the edits on the model were made with another network.
        """
        if self._trained is None or self._trained[0] != self.hparams.archive:
            artefact = trained_artefact(self.model, self.hparams)
            network = self.network_class(self.model, self._layers.modules, self.hparams)
            load_trained(network, artefact)
            self._trained = (self.hparams.archive, artefact.digest, network)
        _, digest, network = self._trained
        if any(batch.artefact != digest for batch in self.state.batches):
            raise EditError(
                f"the edits on the model were made with another trained {self.hparams.ALG_NAME} than that of "
                f"{self.hparams.archive}. Roll them back first."
            )
        return digest, network


def trained_artefact(model: Any, hparams: HypernetworkHyperParams) -> Artefact:
    """Return the artefact that hyperparameters name, after checking that it is for a model.

    Raises:
        HyperParameterError: there is none, or it was trained with other settings.
        ModelError: it was trained for another model.
        RunError: it is damaged.
    """
    setting = f"{hparams.source}, archive" if hparams.source else "archive"
    artefact = read_artefact(hparams.archive, hparams.ALG_NAME, setting)
    values = hparams_values(hparams)
    for name in hparams.NETWORK_SETTINGS:
        trained, now = (_comparable(source.get(name)) for source in (artefact.hparams, values))
        if trained != now:
            raise HyperParameterError(
                f"{setting}: {hparams.archive} was trained with {name}={trained!r}, which differs from {now!r}"
            )
    if artefact.fingerprint != base_fingerprint(model):
        raise ModelError(
            f"{setting}: {hparams.archive} was trained for other weights than those of this model (for "
            f"{artefact.model}). Load that model in the same data type, or train again."
        )
    return artefact


def load_trained(network: Hypernetwork, artefact: Artefact) -> None:
    """Give a network the state of an artefact.

    Raises:
        RunError: the artefact does not fit the network.
    """
    try:
        load_artefact(network, artefact.tensors)
    except (KeyError, RuntimeError) as error:
        raise RunError(f"{artefact.path}: is incomplete or damaged ({error}). Train again.") from error
    network.requires_grad_(False)


def check_trained(model: Any, tokenizer: Any, hparams: HypernetworkHyperParams) -> None:
    """Check that a model has the projections, and that there is a trained network for it.

    Raises:
        ModelError: a projection is missing, or the network was trained for another model.
        HyperParameterError: there is no trained network, or it was trained with other settings.
    """
    check_block_projections(model, hparams, "inner_params")
    trained_artefact(model, hparams)


def _comparable(value: Any) -> Any:
    """Return the value of a setting in a form in which equal settings are equal: paths without ``.weight``."""
    return [module_path(name) for name in value] if isinstance(value, list) else value
