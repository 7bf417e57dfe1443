"""Edit a model in consecutive batches, as MEMIT-like methods do."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Generic

from torch import Tensor, nn

from easyedit_lifelong.covariance import SecondMoment
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.locate_edit.check import check_model
from easyedit_lifelong.methods.locate_edit.edited_layers import Contents, EditedLayers
from easyedit_lifelong.methods.locate_edit.facts import Fact, check_batch, prepare
from easyedit_lifelong.methods.locate_edit.history import AnyBatch, Batch, BatchHistory
from easyedit_lifelong.methods.locate_edit.moments import second_moments
from easyedit_lifelong.methods.locate_edit.one_editor import OneEditor
from easyedit_lifelong.methods.locate_edit.passes import EditingPasses
from easyedit_lifelong.methods.locate_edit.spread import make_solvers, spread_residual
from easyedit_lifelong.methods.locate_edit.templates import Templates, context_templates
from easyedit_lifelong.methods.locate_edit.update import AccumulatedKeys, Solver
from easyedit_lifelong.methods.locate_edit.values import TargetVectors, optimise_targets
from easyedit_lifelong.methods.shared.editors import base_fingerprint, internal_pass, without_edits
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.methods.shared.results import EditResult
from easyedit_lifelong.models.anatomy import projection_shape
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.modes import editing
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.wrappers import model_to_edit


class WeightEditor(OneEditor, Generic[AnyBatch]):
    """Edits a model's weights in consecutive batches, each of which is rolled back bitwise. Get it with :meth:`on`.

    A subclass names its hyperparameter class and its solver. It can put updates elsewhere (:meth:`make_layers`) and do
    more with a batch (:meth:`update_layers`).

    Args:
        model: the model to edit.
        tokenizer: its tokenizer.
        hparams: the method's hyperparameters.
        moments: E[kkᵀ] by path of the projection; by default those that the hyperparameters name.
        templates: context templates; by default the model generates them.

    Attributes:
        state: all batches so far.

    Raises:
        ModelError: the model has no such layers.
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
        self._unedited: Contents = {}
        """What the layers held before the first batch."""
        # Last, so that a model that cannot be edited stays as it is.
        self._layers = self.make_layers(modules)

    def make_layers(self, modules: Mapping[str, nn.Module]) -> EditedLayers:
        """Return the layers of these projections, which updates go into."""
        return EditedLayers(modules, self.hparams.ALG_NAME)

    def make_history(self, paths: list[str], templates: Templates, fingerprint: str) -> BatchHistory[AnyBatch]:
        """Return a history without batches."""
        return BatchHistory(paths, templates, fingerprint=fingerprint)

    def update_layers(
        self, facts: Sequence[Fact], passes: EditingPasses, z: Tensor
    ) -> tuple[AnyBatch, Sequence[Mapping[str, Any]]]:
        """Update the layers for a batch.

        Args:
            facts: the batch.
            passes: of its prompts.
            z: its target vectors, shape ``(facts, width)``.

        Returns:
            The batch, and what else to report of each request, by name.

        Raises:
            EditError: an update cannot be solved for, or is not finite.
        """
        updates = spread_residual(self._layers, self._solvers, passes, z)
        records = tuple(EditRecord.of(fact.request) for fact in facts)
        return self.batch_class(records, updates), [{}] * len(facts)  # type: ignore[return-value]

    @property
    def base_fingerprint(self) -> str | None:
        """Fingerprint of the unedited weights, where edits are in the weights."""
        return self.state.fingerprint if self._layers.in_weights else None

    @property
    def weight_paths(self) -> list[str]:
        """Paths of the projections whose weights the editor changes; none if its edits are beside the weights."""
        return self.state.paths if self._layers.in_weights else []

    def without_edits(self) -> AbstractContextManager[None]:
        """Have the model without the editor's edits inside."""
        return self._layers.without_edits(self._unedited)

    def plain_weights(self) -> dict[str, Tensor]:
        """Return the edited projections' weights with all updates in them, by parameter name."""
        return {f"{path}.weight": weight for path, weight in self._layers.weights().items()}

    def edit(
        self, requests: Sequence[EditRequest], targets: Tensor | None = None
    ) -> tuple[list[EditResult], Callable[[], None]]:
        """Apply requests in batches of ``batch_size``, all or none.

        Args:
            requests: the requests.
            targets: their target vectors z, if they are known, shape ``(requests, width)``.

        Returns:
            What was done per request, and a function that rolls just these batches back (those of them that are left,
            once no later one is).

        Raises:
            DataError: a request cannot be used.
            EditError: a batch failed.
        """
        if not self.attached:
            raise EditError("these edits have been rolled back for good; get the model's editor anew")
        before, mark = self._layers.contents(), len(self.state.batches)
        if not mark:
            self._unedited = before
        results: list[EditResult] = []
        size = self.hparams.batch_size
        try:
            self._layers.check_writable()
            facts = [self._prepare(request) for request in requests]
            starts = range(0, len(facts), size)
            for start in starts:
                check_batch(facts[start : start + size])
            with editing(self.model), internal_pass(self.model):
                for start in starts:
                    given = None if targets is None else targets[start : start + size]
                    results += self._edit_batch(facts[start : start + size], given)
        except BaseException:
            self._restore(mark, before)
            self.hparams = self._hparams_of_edits
            raise
        self._hparams_of_edits = self.hparams
        # A partial of a method, not a closure: a deep copy of it rolls the copied model's edits back.
        return results, functools.partial(self._take_back, self.state.batches[mark:], before)

    def back_to(self, batch: int) -> None:
        """Make the model bitwise what it was after so many batches.

        Args:
            batch: how many batches to keep; 0 for the unedited model.

        Raises:
            EditError: there are not as many.
        """
        count = len(self.state.batches)
        if not 0 <= batch <= count:
            raise EditError(f"there is no going back to batch {batch}: the model carries {count}, so 0 to {count}")
        if batch < count:
            self._layers.check_writable()
            self._restore(batch, self._contents_with(self._unedited, self.state.batches[:batch]))

    def restore(self, batches: Sequence[AnyBatch]) -> Callable[[], None]:
        """Put batches that were made on the same model, with the same settings, on an editor without any.

        Returns:
            A function that rolls them back.

        Raises:
            EditError: there are batches already, or these belong to other layers.
        """
        if self.state.batches:
            raise EditError("batches can be restored onto an unedited model only")
        unedited = self._layers.contents()
        try:
            self._layers.check_writable()
            for batch in batches:
                self._check_restorable(batch)
            contents = self._contents_with(unedited, batches)
            self.state.batches += batches
            self._layers.put_back(contents)
        except BaseException:
            self._restore(0, unedited)
            raise
        self._unedited = unedited
        return functools.partial(self._take_back, list(batches), unedited)

    def _check_restorable(self, batch: AnyBatch) -> None:
        if list(batch.layers) != self.state.paths:
            raise EditError("the batches belong to other layers")
        for path, update in batch.layers.items():
            shape = projection_shape(self._layers.modules[path])
            if (len(update.adjusted), len(update.residual)) != shape:
                raise EditError(f"the update of {path} has another shape than its weight")

    def _contents_with(self, unedited: Contents, batches: Sequence[AnyBatch]) -> Contents:
        """Return what the layers hold with these batches: their updates, added in the order in which they came."""
        contents = dict(unedited)
        for batch in batches:
            for path, update in batch.layers.items():
                contents[path] = self._layers.added(path, contents[path], update)
        return contents

    def _prepare(self, request: EditRequest) -> Fact:
        return prepare(self.tokenizer, request, self.state.templates, self.hparams, context_length(self.model))

    def _edit_batch(self, facts: Sequence[Fact], given: Tensor | None) -> list[EditResult]:
        began = time.perf_counter()
        self._prepare_solvers()
        if given is None:
            targets = optimise_targets(self._runner, facts, self.hparams, self.hparams.edited_layers[-1])
        else:
            count = len(facts)
            targets = TargetVectors(given, [0] * count, [float("nan")] * count, [False] * count)
        passes = EditingPasses(self._runner, facts, self._blocks)
        batch, details = self.update_layers(facts, passes, targets.z)
        self.state.batches.append(batch)
        self._layers.settle()
        seconds = (time.perf_counter() - began) / len(facts)
        number = len(self.state.batches)
        return [
            EditResult(
                fact.request.case_id,
                targets.steps[i],
                targets.losses[i],
                seconds,
                targets.learned[i],
                {"batch": number, "z_norm": float(targets.z[i].norm()), **details[i]},
            )
            for i, fact in enumerate(facts)
        ]

    def _prepare_solvers(self) -> None:
        """Make the solver of every layer, before anything is changed."""
        if self._solvers:
            return
        if self._moments is None:
            self._moments = second_moments(self.model, self.tokenizer, self.hparams)
        self._solvers = make_solvers(
            self.solver_class, self._layers.modules, self._moments, self.hparams.mom2_update_weight, self.state.batches
        )

    def _restore(self, mark: int, before: Contents) -> None:
        """Go back to the first ``mark`` batches, bitwise."""
        del self.state.batches[mark:]
        count = sum(len(batch.records) for batch in self.state.batches)
        for solver in self._solvers.values():
            solver.truncate(count)
        try:
            self._layers.put_back(before)
        finally:
            if not self.state.batches:
                self._detach()

    def _take_back(self, batches: Sequence[AnyBatch], before: Contents) -> None:
        """Roll these batches back, those of them that are still in; before the first, layers held ``before``."""
        mine = {id(batch) for batch in batches}
        own = [number for number, batch in enumerate(self.state.batches) if id(batch) in mine]
        if not own:
            return
        if own[-1] < len(self.state.batches) - 1:
            raise EditError(f"later {self.hparams.ALG_NAME} batches are still in place; roll those back first")
        self._layers.check_writable()
        self._restore(own[0], before)
