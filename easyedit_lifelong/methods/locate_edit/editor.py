"""The editor of MEMIT-like methods: edits a model in consecutive batches."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Generic

import torch
from torch import Tensor, nn

from easyedit_lifelong.covariance import SecondMoment, regularisation
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.locate_edit.check import check_model
from easyedit_lifelong.methods.locate_edit.edited_layers import EditedLayers, LayerTensors
from easyedit_lifelong.methods.locate_edit.editing_passes import EditingPasses
from easyedit_lifelong.methods.locate_edit.facts import Fact, check_batch, encode_fact
from easyedit_lifelong.methods.locate_edit.history import AnyBatch, Batch, BatchHistory
from easyedit_lifelong.methods.locate_edit.model_editor import ModelEditor
from easyedit_lifelong.methods.locate_edit.moments import second_moments
from easyedit_lifelong.methods.locate_edit.spread import make_solvers, spread_residual
from easyedit_lifelong.methods.locate_edit.target_vectors import TargetVectors, optimise_targets
from easyedit_lifelong.methods.locate_edit.templates import Templates, context_templates
from easyedit_lifelong.methods.locate_edit.update import AccumulatedKeys, Solver
from easyedit_lifelong.methods.shared.editors import base_fingerprint, internal_pass, without_edits
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.methods.shared.results import EditResult
from easyedit_lifelong.models.anatomy import projection_shape
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.model_modes import editing
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.wrappers import model_to_edit


class WeightEditor(ModelEditor, Generic[AnyBatch]):
    """Edits a model in consecutive batches, which can be rolled back bitwise. Get it with :meth:`on`.

    Updates are added to the model's weights. A subclass sets its hyperparameter class. It can override
    ``solver_class`` or :meth:`make_solver` to compute other updates, :meth:`make_layers` to add updates to something
    other than the weights, and :meth:`update_layers` to do more for each batch.

    Args:
        model: the model to edit.
        tokenizer: its tokenizer.
        hparams: the hyperparameters of the method.
        moments: the second moment of each projection, by path; None: those that the hyperparameters name.
        templates: the context templates; None: the model generates them.

    Attributes:
        state: the batches that are on the model.

    Raises:
        ModelError: the model lacks a layer that the hyperparameters name.
    """

    solver_class: ClassVar[type[AccumulatedKeys]] = AccumulatedKeys
    batch_class: ClassVar[type[Batch]] = Batch

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        hparams: Any,
        moments: Mapping[str, SecondMoment] | None = None,
        templates: Templates | None = None,
    ) -> None:
        check_model(model, tokenizer, hparams)
        model = model_to_edit(model)
        super().__init__(model, tokenizer, hparams)
        modules = dict(find_module(model, name) for name in hparams.rewrite_modules)
        self._blocks = [find_module(model, hparams.layer_module_tmp.format(n))[1] for n in hparams.edited_layers]
        if templates is None:
            with internal_pass(model), without_edits(model):
                templates = context_templates(model, tokenizer, hparams.context_template_length_params, hparams.seed)
        self.state: BatchHistory[AnyBatch] = self.make_history(list(modules), templates, base_fingerprint(model))
        self._moments = dict(moments) if moments is not None else None
        self._solvers: dict[str, Solver] = {}
        self._unedited: LayerTensors = {}
        """The tensors of the layers before the first batch."""
        # This may put hooks on the model, so it comes after everything that can fail.
        self._layers = self.make_layers(modules)

    def make_layers(self, modules: Mapping[str, nn.Module]) -> EditedLayers:
        """Return the layers that updates are added to, made from the edited projections by path."""
        return EditedLayers(modules, self.hparams.ALG_NAME)

    def make_solver(self, second_moment: SecondMoment, device: torch.device, dtype: torch.dtype) -> Solver:
        """Return the solver of one layer, without keys.

        Args:
            second_moment: the second moment of the layer.
            device: the device to solve on.
            dtype: the dtype of keys and updates.

        Raises:
            EditError: the second moment cannot be used.
        """
        return self.solver_class(
            second_moment.moment,
            self.hparams.mom2_update_weight,
            ridge=regularisation(second_moment.count, len(second_moment.moment)),
            device=device,
            dtype=dtype,
        )

    def make_history(self, paths: list[str], templates: Templates, fingerprint: str) -> BatchHistory[AnyBatch]:
        """Return an empty history."""
        return BatchHistory(paths, templates, fingerprint=fingerprint)

    def update_layers(
        self, facts: Sequence[Fact], passes: EditingPasses, z: Tensor
    ) -> tuple[AnyBatch, Sequence[Mapping[str, Any]]]:
        """Compute and apply the updates of a batch.

        Args:
            facts: the batch.
            passes: runs the prompts of the batch.
            z: the target vectors, shape ``(facts, width)``.

        Returns:
            The batch, and for each fact the additional entries of ``EditResult.detail``.

        Raises:
            EditError: an update cannot be computed, or is not finite.
        """
        updates = spread_residual(self._layers, self._solvers, passes, z)
        records = tuple(EditRecord.of(fact.request) for fact in facts)
        return self.batch_class(records, updates), [{}] * len(facts)  # type: ignore[return-value]

    @property
    def base_fingerprint(self) -> str | None:
        """The fingerprint of the base model's weights; None if the editor does not change weights."""
        return self.state.fingerprint if self._layers.in_weights else None

    @property
    def weight_paths(self) -> list[str]:
        """The paths of the projections whose weights the editor changes; empty if it keeps ΔW beside the weights."""
        return self.state.paths if self._layers.in_weights else []

    def without_edits(self) -> AbstractContextManager[None]:
        """Leave out the edits of this editor within the context."""
        return self._layers.without_edits(self._unedited)

    def plain_weights(self) -> dict[str, Tensor]:
        """Return the weights of the edited projections with all updates, by parameter name."""
        return {f"{path}.weight": weight for path, weight in self._layers.weights().items()}

    def edit(
        self, requests: Sequence[EditRequest], targets: Tensor | None = None
    ) -> tuple[list[EditResult], Callable[[], None]]:
        """Apply requests in batches of ``batch_size``. If one batch fails, none is applied.

        Args:
            requests: the requests.
            targets: the target vectors z of the requests, shape ``(requests, width)``; None: optimise them.

        Returns:
            The result of each request, and a function that rolls back the batches of this call. The function does
            nothing if they have been rolled back already. It raises an EditError while later batches are in place.

        Raises:
            DataError: a request cannot be used.
            EditError: a batch failed, or there is not one target vector for each request.
        """
        if not self.attached:
            raise EditError(
                f"this {self.hparams.ALG_NAME} editor was removed from its model when its edits were rolled back; get "
                f"a new one with {type(self).__name__}.on"
            )
        if targets is not None and len(targets) != len(requests):
            raise EditError(f"there are {len(targets)} target vectors for {len(requests)} requests; give one for each")
        before, batch_count = self._layers.tensors(), len(self.state.batches)
        if not batch_count:
            self._unedited = before
        try:
            results = self._edit_batches(requests, targets)
        except BaseException:
            self._restore(batch_count, before)
            self.hparams = self._hparams_of_edits
            raise
        self._hparams_of_edits = self.hparams
        # A deep copy of a partial refers to the copied editor, so it rolls back the copied model. A closure would not.
        return results, functools.partial(self._roll_back, self.state.batches[batch_count:], before)

    def back_to(self, batch: int) -> None:
        """Roll back, bitwise, all batches after the first ``batch``.

        Args:
            batch: the number of batches that stay; 0: the base model.

        Raises:
            EditError: the model has fewer batches.
        """
        count = len(self.state.batches)
        if not 0 <= batch <= count:
            raise EditError(
                f"can't roll back to batch {batch}: the model has {count} batches. Choose a number from 0 to {count}."
            )
        if batch < count:
            self._layers.check_writable()
            self._restore(batch, self._tensors_with(self._unedited, self.state.batches[:batch]))

    def load_batches(self, batches: Sequence[AnyBatch]) -> Callable[[], None]:
        """Apply saved batches, which were made on the same base model with the same settings.

        Returns:
            A function that rolls them back.

        Raises:
            EditError: the model has batches already, or these are for other layers.
        """
        if self.state.batches:
            raise EditError(
                f"saved batches can't be loaded: the model carries {self.hparams.ALG_NAME} edits. Roll those back first"
            )
        unedited = self._layers.tensors()
        try:
            self._layers.check_writable()
            for batch in batches:
                self._check_loadable(batch)
            tensors = self._tensors_with(unedited, batches)
            self.state.batches += batches
            self._layers.restore(tensors)
        except BaseException:
            self._restore(0, unedited)
            raise
        self._unedited = unedited
        return functools.partial(self._roll_back, list(batches), unedited)

    def _edit_batches(self, requests: Sequence[EditRequest], targets: Tensor | None) -> list[EditResult]:
        """Apply requests in batches; see :meth:`edit`. All requests are checked before the first batch."""
        self._layers.check_writable()
        facts = [self._encode(request) for request in requests]
        size = self.hparams.batch_size
        batches = [slice(start, start + size) for start in range(0, len(facts), size)]
        for batch in batches:
            check_batch(facts[batch])
        results: list[EditResult] = []
        with editing(self.model), internal_pass(self.model):
            for batch in batches:
                results += self._edit_batch(facts[batch], None if targets is None else targets[batch])
        return results

    def _check_loadable(self, batch: AnyBatch) -> None:
        """Check that the updates of a saved batch are for the layers of this editor."""
        if list(batch.layers) != self.state.paths:
            raise EditError(f"the batches are for the layers {list(batch.layers)} instead of {self.state.paths}")
        for path, update in batch.layers.items():
            expected = projection_shape(self._layers.modules[path])
            inputs, outputs = len(update.adjusted), len(update.residual)
            if (inputs, outputs) != expected:
                raise EditError(
                    f"the update of {path} has {inputs} inputs and {outputs} outputs, but its weight has "
                    f"{expected[0]} and {expected[1]}"
                )

    def _tensors_with(self, unedited: LayerTensors, batches: Sequence[AnyBatch]) -> LayerTensors:
        """Return the tensors of the layers after these batches, added in order, since every sum is rounded."""
        tensors = dict(unedited)
        for batch in batches:
            for path, update in batch.layers.items():
                tensors[path] = self._layers.with_update(path, tensors[path], update)
        return tensors

    def _encode(self, request: EditRequest) -> Fact:
        """Encode a request in the contexts of this model."""
        return encode_fact(self.tokenizer, request, self.state.templates, self.hparams, context_length(self.model))

    def _edit_batch(self, facts: Sequence[Fact], known_targets: Tensor | None) -> list[EditResult]:
        """Apply one batch; return the result of each request.

        Args:
            facts: the batch.
            known_targets: its target vectors, shape ``(facts, width)``; None: optimise them.
        """
        began = time.perf_counter()
        self._prepare_solvers()
        if known_targets is None:
            targets = optimise_targets(self._runner, facts, self.hparams, self.hparams.edited_layers[-1])
        else:
            targets = TargetVectors.not_optimised(known_targets)
        passes = EditingPasses(self._runner, facts, self._blocks)
        batch, details = self.update_layers(facts, passes, targets.z)
        self.state.batches.append(batch)
        self._layers.finish_batch()
        seconds = (time.perf_counter() - began) / len(facts)
        number = len(self.state.batches)
        return [
            EditResult(
                fact.request.case_id,
                steps=targets.steps[i],
                loss=targets.losses[i],
                seconds=seconds,
                learned=targets.learned[i],
                detail={"batch": number, "z_norm": float(targets.z[i].norm()), **details[i]},
            )
            for i, fact in enumerate(facts)
        ]

    def _prepare_solvers(self) -> None:
        """Make the solver of every layer, unless that was done for an earlier batch."""
        if self._solvers:
            return
        if self._moments is None:
            self._moments = second_moments(self.model, self.tokenizer, self.hparams)
        self._solvers = make_solvers(self.make_solver, self._layers.modules, self._moments, self.state.batches)

    def _restore(self, batch_count: int, tensors: LayerTensors) -> None:
        """Remove all batches after the first ``batch_count``; detach the editor if none is left.

        Args:
            batch_count: the number of batches that stay.
            tensors: the tensors of the layers after these batches.
        """
        del self.state.batches[batch_count:]
        edit_count = sum(len(batch.records) for batch in self.state.batches)
        for solver in self._solvers.values():
            solver.truncate(edit_count)
        try:
            self._layers.restore(tensors)
        finally:
            if not self.state.batches:
                self._detach()

    def _roll_back(self, batches: Sequence[AnyBatch], before: LayerTensors) -> None:
        """Roll back consecutive batches; skip those that have been rolled back already.

        Args:
            batches: the batches.
            before: the tensors of the layers before the first of them.

        Raises:
            EditError: later batches are still in place.
        """
        ids = {id(batch) for batch in batches}
        in_place = [index for index, batch in enumerate(self.state.batches) if id(batch) in ids]
        if not in_place:
            return
        if in_place[-1] < len(self.state.batches) - 1:
            raise EditError(f"later {self.hparams.ALG_NAME} batches are still in place; roll those back first")
        self._layers.check_writable()
        self._restore(in_place[0], before)
