"""The editors of Defer and Memory network, and their apply function with the signature that EasyEdit expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.shared.apply import apply_requests
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.methods.shared.results import EditResult, Outcome
from easyedit_lifelong.methods.shared.rollback import Rollback
from easyedit_lifelong.methods.trained_adaptors.adaptor import DeferAdaptor, MemoryAdaptor, TrainedAdaptor
from easyedit_lifelong.methods.trained_adaptors.config import AdaptorHyperParams, DeferHyperParams, MemoryHyperParams
from easyedit_lifelong.methods.training.example_passes import ExampleLosses, ExamplePasses, Weights
from easyedit_lifelong.methods.training.examples import Example, RequestExample, encode_request
from easyedit_lifelong.methods.training.train import Schedule, train
from easyedit_lifelong.methods.weight_updates.batch_editor import BatchEditor
from easyedit_lifelong.methods.weight_updates.check import check_block_projections
from easyedit_lifelong.methods.weight_updates.dense_update import DenseBatch, DenseUpdate
from easyedit_lifelong.methods.weight_updates.edited_layers import EditedLayers, LayerTensors, check_finite
from easyedit_lifelong.methods.weight_updates.layer_update import WeightUpdate
from easyedit_lifelong.models.devices import device_of
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.quantisation import update_dtype
from easyedit_lifelong.models.runner import Runner
from easyedit_lifelong.models.wrappers import model_to_edit


class AdaptorLayers(EditedLayers):
    """The edited layer. Updates are added to the parameters θ of its adaptor; the weights do not change.

    Args:
        adaptors: the adaptor by the path of its layer.
        method: the name of the method, for messages.
    """

    in_weights = False

    def __init__(self, adaptors: Mapping[str, TrainedAdaptor], method: str) -> None:
        super().__init__({path: adaptor.layer for path, adaptor in adaptors.items()}, method)
        self._adaptors = adaptors

    def tensors(self) -> dict[str, Tensor | None]:
        """Return the present θ, by path. Later updates do not change it."""
        return {path: adaptor.theta for path, adaptor in self._adaptors.items()}

    def with_update(self, path: str, tensor: Tensor | None, update: WeightUpdate) -> Tensor:
        """Return θ plus an update; the update itself if there is no θ."""
        return update.added_to(tensor)

    def apply(self, path: str, update: WeightUpdate) -> None:
        """Add an update to θ.

        Raises:
            EditError: the result is not finite.
        """
        theta = self.with_update(path, self._adaptors[path].theta, update)
        check_finite(theta, path)
        self.restore({path: theta})

    def restore(self, tensors: LayerTensors) -> None:
        """Set θ, bitwise; None removes it."""
        for path, theta in tensors.items():
            if theta is not None:
                # A copy, since load_state_dict writes into the parameters of a model. The model may have moved since.
                theta = theta.to(device_of(self.modules[path]), copy=True)
            self._adaptors[path].set_theta(theta)


class AdaptorPasses(ExamplePasses):
    """Runs examples with given parameters of an adaptor, instead of given weights of its layer."""

    def __init__(self, runner: Runner, path: str, adaptor: TrainedAdaptor) -> None:
        super().__init__(runner, {path: adaptor.layer})
        self._path, self._adaptor = path, adaptor

    def losses(self, examples: Sequence[Example], weights: Weights | None = None) -> ExampleLosses:
        """Return the losses of examples; differentiable in θ.

        Args:
            examples: the examples.
            weights: θ by the path of the layer; None: the edited model, in which the gate is open or closed.
        """
        if weights is None:
            return super().losses(examples)
        with self._adaptor.training_with(weights[self._path]):
            return super().losses(examples)


class AdaptorEditor(BatchEditor[DenseBatch]):
    """Edits a model by training the parameters of an adaptor beside one of its layers. Get it with :meth:`on`.

    The requests of a batch are trained one after another, each with a new Adam. The parameters persist: an edit starts
    from those of the edit before it. Each batch is one dense update of θ, which is saved and rolled back like an
    update of a weight.

    Args:
        model: the model to edit.
        tokenizer: its tokenizer.
        hparams: the hyperparameters.

    Raises:
        ModelError: the model lacks the layer that the hyperparameters name.
    """

    batch_class = DenseBatch
    hparams_class: ClassVar[type[AdaptorHyperParams]]
    hparams: AdaptorHyperParams

    def __init__(self, model: Any, tokenizer: Any, hparams: AdaptorHyperParams) -> None:
        check_block_projections(model, hparams, "inner_params")
        super().__init__(model_to_edit(model), tokenizer, hparams)

    def make_adaptor(self, layer: nn.Module) -> TrainedAdaptor:
        """Attach the method's adaptor to a layer."""
        raise NotImplementedError

    def make_layers(self, modules: Mapping[str, nn.Module]) -> AdaptorLayers:
        """Attach an adaptor to the layer, without parameters."""
        ((self.path, layer),) = modules.items()
        self.adaptor = self.make_adaptor(layer)
        return AdaptorLayers({self.path: self.adaptor}, self.hparams.ALG_NAME)

    def encode(self, request: EditRequest) -> RequestExample:
        """Encode a request as a training example."""
        return encode_request(self.tokenizer, request, self.hparams.eos, context_length(self.model))

    def edit_batch(self, items: Sequence[RequestExample]) -> tuple[DenseBatch, list[Outcome]]:
        """Train on one batch; return it, and the outcome of each request."""
        hparams, examples = self.hparams, [item.example for item in items]
        before = self.adaptor.theta
        theta = (self._initial_theta() if before is None else before.clone()).requires_grad_()
        passes = AdaptorPasses(self._runner, self.path, self.adaptor)
        schedule = Schedule(hparams.n_iter, hparams.edit_lr)
        for example in examples:
            train(passes, {self.path: theta}, [example], schedule)
        change = theta.detach() if before is None else theta.detach() - before
        update = DenseUpdate(change.cpu())
        self._layers.apply(self.path, update)
        result = passes.losses_of_edited_model(examples, examples_per_pass=1)
        records = tuple(EditRecord.of(item.request) for item in items)
        outcomes = [
            Outcome(hparams.n_iter, loss, correct)
            for loss, correct in zip(result.losses.tolist(), result.correct.tolist(), strict=True)
        ]
        return DenseBatch(records, {self.path: update}), outcomes

    def _initial_theta(self) -> Tensor:
        """Return the initial parameters, which depend on nothing but the seed, in float32 or wider."""
        generator = torch.Generator().manual_seed(self.hparams.seed)
        layer = self.adaptor.layer
        return self.adaptor.initial(generator).to(device_of(layer), update_dtype(layer))

    def _check_loadable(self, batch: DenseBatch) -> None:
        """Check that the update of a saved batch is for the adaptor of this editor."""
        shape = {self.path: self.adaptor.shape}
        found = {path: tuple(update.added_to(None).shape) for path, update in batch.layers.items()}
        if found != shape:
            raise EditError(f"the parameters have the shapes {found} instead of {shape}")

    def _detach(self) -> None:
        """Remove the editor and its adaptor from the model."""
        super()._detach()
        self.adaptor.detach()


class DeferEditor(AdaptorEditor):
    """Edits a model with Defer: a value, behind a gate, replaces the output of a layer."""

    hparams_class = DeferHyperParams
    hparams: DeferHyperParams

    def make_adaptor(self, layer: nn.Module) -> DeferAdaptor:
        """Attach a Defer adaptor to a layer."""
        return DeferAdaptor(self.model, layer, self.hparams.threshold)


class MemoryEditor(AdaptorEditor):
    """Edits a model with Memory network: soft attention over slots replaces the output of a layer."""

    hparams_class = MemoryHyperParams
    hparams: MemoryHyperParams

    def make_adaptor(self, layer: nn.Module) -> MemoryAdaptor:
        """Attach a memory adaptor to a layer."""
        return MemoryAdaptor(self.model, layer, self.hparams.nkeys)


EDITORS: tuple[type[AdaptorEditor], ...] = (DeferEditor, MemoryEditor)


def apply_adaptor_to_model(
    model: Any,
    tok: Any,
    requests: Sequence[Any],
    hparams: AdaptorHyperParams,
    copy: bool = False,
    return_orig_weights: bool = True,
    keep_original_weight: bool = False,
    **kwargs: Any,
) -> tuple[Any, Rollback[EditResult]]:
    """Edit a model with Defer or Memory network, in batches of ``hparams.batch_size``.

    The class of the hyperparameters determines the method: :class:`DeferHyperParams` or :class:`MemoryHyperParams`.
    Requests need no subject. The weights do not change. Arguments, result and errors are those of
    :func:`~easyedit_lifelong.methods.memit.editor.apply_memit_to_model`.
    """
    editor_class = next(editor for editor in EDITORS if isinstance(hparams, editor.hparams_class))
    return apply_requests(
        editor_class.on, model, tok, requests, hparams, copy=copy, keep_original_weight=keep_original_weight
    )
