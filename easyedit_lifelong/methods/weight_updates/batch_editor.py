"""The base class of editors that write updates into weights in batches, which can be rolled back bitwise."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Generic

from torch import Tensor, nn

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.shared.editors import base_fingerprint, internal_pass
from easyedit_lifelong.methods.shared.results import EditResult, Outcome
from easyedit_lifelong.methods.weight_updates.edited_layers import EditedLayers, LayerTensors
from easyedit_lifelong.methods.weight_updates.history import AnyBatch, Batch, BatchHistory, Templates
from easyedit_lifelong.methods.weight_updates.model_editor import ModelEditor
from easyedit_lifelong.models.anatomy import projection_shape
from easyedit_lifelong.models.model_modes import editing
from easyedit_lifelong.models.modules import find_module, still_runs
from easyedit_lifelong.plurals import counted

_EditBatch = Callable[[Sequence[Any], slice], tuple[AnyBatch, Sequence[Outcome]]]


class BatchEditor(ModelEditor, Generic[AnyBatch]):
    """Edits a model in consecutive batches, which can be rolled back bitwise. Get it with :meth:`on`.

    A subclass sets its hyperparameter class, whose ``rewrite_modules`` names the projections to edit, and implements
    :meth:`encode` and :meth:`edit_batch`.

    Args:
        model: the model to edit, without wrappers.
        tokenizer: its tokenizer.
        hparams: the hyperparameters of the method.
        templates: the context templates; None: the method has none.

    Attributes:
        state: the batches that are on the model.

    Raises:
        ModelError: the model lacks a layer that the hyperparameters name.
    """

    batch_class: ClassVar[type[Batch]] = Batch
    has_templates: ClassVar[bool] = False
    """Whether the method has context templates, which are saved with its edits."""

    def __init__(self, model: Any, tokenizer: Any, hparams: Any, templates: Templates | None = None) -> None:
        super().__init__(model, tokenizer, hparams)
        modules = dict(find_module(model, name) for name in hparams.rewrite_modules)
        self.state: BatchHistory[AnyBatch] = self.make_history(list(modules), templates or [], base_fingerprint(model))
        self._unedited: LayerTensors = {}
        """The tensors of the layers before the first batch."""
        # This may put hooks on the model, so it comes after everything that can fail.
        self._layers = self.make_layers(modules)

    def encode(self, request: EditRequest) -> Any:
        """Return what :meth:`edit_batch` needs of a request, such as its token ids.

        Raises:
            DataError: the request cannot be used.
        """
        raise NotImplementedError

    def check_batch(self, items: Sequence[Any]) -> None:
        """Check that encoded requests can be edited in one batch. By default, they can.

        Raises:
            EditError: two requests contradict each other.
        """

    def edit_batch(self, items: Sequence[Any]) -> tuple[AnyBatch, Sequence[Outcome]]:
        """Compute the updates of one batch, and apply them to the layers.

        Args:
            items: the encoded requests.

        Returns:
            The batch, which is then appended to the history, and the outcome of each request.

        Raises:
            EditError: an update cannot be computed, or is not finite.
        """
        raise NotImplementedError

    def make_layers(self, modules: Mapping[str, nn.Module]) -> EditedLayers:
        """Return the layers that updates are added to, made from the edited projections by path."""
        return EditedLayers(modules, self.hparams.ALG_NAME)

    def make_history(self, paths: list[str], templates: Templates, fingerprint: str) -> BatchHistory[AnyBatch]:
        """Return an empty history."""
        return BatchHistory(paths, templates, fingerprint=fingerprint)

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

    def edit(self, requests: Sequence[EditRequest]) -> tuple[list[EditResult], Callable[[], None]]:
        """Apply requests in batches of ``batch_size``. If one batch fails, none is applied.

        Returns:
            The result of each request, and a function that rolls back the batches of this call. The function does
            nothing if they have been rolled back already. It raises an EditError while later batches are in place.

        Raises:
            DataError: a request cannot be used.
            EditError: a batch failed.
        """
        return self._edit_all(requests, lambda items, _: self.edit_batch(items))

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
                f"can't roll back to batch {batch}: the model has {counted(count, 'batch', 'batches')}. "
                f"Choose a number from 0 to {count}."
            )
        if batch < count:
            self._check_layers()
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
            self._check_layers()
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

    def _edit_all(
        self, requests: Sequence[EditRequest], edit_batch: _EditBatch[AnyBatch]
    ) -> tuple[list[EditResult], Callable[[], None]]:
        """Apply requests in batches; see :meth:`edit`.

        Args:
            requests: the requests.
            edit_batch: :meth:`edit_batch` of the encoded requests of a batch and its place among all requests.
        """
        if not self.attached:
            raise EditError(
                f"this {self.hparams.ALG_NAME} editor was removed from its model when its edits were rolled back; get "
                f"a new one with {type(self).__name__}.on"
            )
        before, batch_count = self._layers.tensors(), len(self.state.batches)
        if not batch_count:
            self._unedited = before
        try:
            results = self._edit_batches(requests, edit_batch)
        except BaseException:
            self._restore(batch_count, before)
            self.hparams = self._hparams_of_edits
            raise
        self._hparams_of_edits = self.hparams
        # A deep copy of a partial refers to the copied editor, so it rolls back the copied model. A closure would not.
        return results, functools.partial(self._roll_back, self.state.batches[batch_count:], before)

    def _edit_batches(self, requests: Sequence[EditRequest], edit_batch: _EditBatch[AnyBatch]) -> list[EditResult]:
        """Apply requests in batches; see :meth:`_edit_all`. All requests are checked before the first batch."""
        self._check_layers()
        items = [self.encode(request) for request in requests]
        size = self.hparams.batch_size
        places = [slice(start, start + size) for start in range(0, len(items), size)]
        for place in places:
            self.check_batch(items[place])
        results: list[EditResult] = []
        with editing(self.model), internal_pass(self.model):
            for place in places:
                began = time.perf_counter()
                batch, outcomes = edit_batch(items[place], place)
                self.state.batches.append(batch)
                self._layers.finish_batch()
                seconds = (time.perf_counter() - began) / len(outcomes)
                for record, outcome in zip(batch.records, outcomes, strict=True):
                    detail = {"batch": len(self.state.batches), **outcome.detail}
                    result = EditResult(record.case_id, outcome.steps, outcome.loss, seconds, outcome.learned, detail)
                    results.append(result)
        return results

    def _check_layers(self) -> None:
        """Check that the edited projections are still those of the model, and can be written.

        Raises:
            EditError: they are not, so that a change would have no effect.
        """
        for path, module in self._layers.modules.items():
            if not still_runs(self.model, path, module):
                raise EditError(
                    f"the edited layer {path!r} has been replaced since it was edited (by quantisation, or by PEFT's "
                    "merge_and_unload?), so its edits can be neither extended nor rolled back here. Roll edits back "
                    "before you replace layers; now, load the model again, and load saved edits onto it."
                )
        self._layers.check_writable()

    def _check_loadable(self, batch: AnyBatch) -> None:
        """Check that the updates of a saved batch are for the layers of this editor."""
        if list(batch.layers) != self.state.paths:
            raise EditError(f"the batches are for the layers {list(batch.layers)} instead of {self.state.paths}")
        for path, update in batch.layers.items():
            expected = projection_shape(self._layers.modules[path])
            if update.shape != expected:
                raise EditError(
                    f"the update of {path} has {update.shape[0]} inputs and {update.shape[1]} outputs, but its weight "
                    f"has {expected[0]} and {expected[1]}"
                )

    def _tensors_with(self, unedited: LayerTensors, batches: Sequence[AnyBatch]) -> LayerTensors:
        """Return the tensors of the layers after these batches, added in order, since every sum is rounded."""
        tensors = dict(unedited)
        for batch in batches:
            for path, update in batch.layers.items():
                tensors[path] = self._layers.with_update(path, tensors[path], update)
        return tensors

    def _forget_removed_batches(self) -> None:
        """Drop what was computed from batches that are no longer in the history. By default, there is nothing."""

    def _restore(self, batch_count: int, tensors: LayerTensors) -> None:
        """Remove all batches after the first ``batch_count``; detach the editor if none is left.

        Args:
            batch_count: the number of batches that stay.
            tensors: the tensors of the layers after these batches.
        """
        del self.state.batches[batch_count:]
        self._forget_removed_batches()
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
        self._check_layers()
        self._restore(in_place[0], before)
