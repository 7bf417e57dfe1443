"""The editor of MEMIT-like methods: edits a model in consecutive batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.covariance import SecondMoment, regularisation
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.locate_edit.block_targets import optimise_block_targets
from easyedit_lifelong.methods.locate_edit.check import check_model
from easyedit_lifelong.methods.locate_edit.editing_passes import EditingPasses
from easyedit_lifelong.methods.locate_edit.facts import Fact, encode_fact
from easyedit_lifelong.methods.locate_edit.moments import second_moments
from easyedit_lifelong.methods.locate_edit.spread import make_solvers, spread_residual
from easyedit_lifelong.methods.locate_edit.target_vectors import TargetVectors
from easyedit_lifelong.methods.locate_edit.templates import Templates, context_templates
from easyedit_lifelong.methods.locate_edit.update import AccumulatedKeys, Solver
from easyedit_lifelong.methods.shared.editors import internal_pass, without_edits
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.methods.shared.results import EditResult, Outcome
from easyedit_lifelong.methods.weight_updates.batch_editor import BatchEditor
from easyedit_lifelong.methods.weight_updates.check import check_same_targets
from easyedit_lifelong.methods.weight_updates.history import AnyBatch
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.wrappers import model_to_edit


class WeightEditor(BatchEditor[AnyBatch]):
    """Edits a model in consecutive batches, which can be rolled back bitwise. Get it with :meth:`on`.

    Updates are added to the model's weights. A subclass sets its hyperparameter class. It can override
    ``solver_class`` or :meth:`make_solver` to compute other updates, :meth:`make_layers` to add updates to something
    other than the weights, :meth:`update_layers` to do more for each batch, and :meth:`edit_facts` to use other target
    vectors.

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

    has_templates = True

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
        if templates is None:
            with internal_pass(model), without_edits(model):
                templates = self.make_templates(model, tokenizer, hparams)
        self._moments = dict(moments) if moments is not None else None
        self._solvers: dict[str, Solver] = {}
        self._blocks = [find_module(model, hparams.layer_module_tmp.format(n))[1] for n in hparams.edited_layers]
        super().__init__(model, tokenizer, hparams, templates)

    @property
    def solver_class(self) -> type[AccumulatedKeys]:
        """The class of the solvers."""
        return AccumulatedKeys

    @classmethod
    def make_templates(cls, model: Any, tokenizer: Any, hparams: Any) -> Templates:
        """Return the context templates, which the unedited model generates."""
        return context_templates(model, tokenizer, hparams.context_template_length_params, hparams.seed)

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

    def check_targets(self, targets: Tensor | None, count: int) -> None:
        """Check given target vectors.

        Args:
            targets: the target vectors; None: they are optimised.
            count: the number of requests.

        Raises:
            EditError: there is not one target vector for each request.
        """
        if targets is not None and len(targets) != count:
            raise EditError(f"there are {len(targets)} target vectors for {count} requests; give one for each")

    def target_vectors(self, facts: Sequence[Fact], known: Tensor | None, layer: int) -> TargetVectors:
        """Return the target vectors of a batch.

        Args:
            facts: the batch.
            known: the target vectors, shape ``(facts, width)``; None: optimise them.
            layer: number of the block whose output has the target vectors.
        """
        if known is not None:
            return TargetVectors.not_optimised(known)
        return optimise_block_targets(self._runner, facts, self.hparams, layer)

    def edit_facts(
        self, facts: Sequence[Fact], known_targets: Tensor | None
    ) -> tuple[TargetVectors, AnyBatch, Sequence[Mapping[str, Any]]]:
        """Compute the target vectors of a batch, and apply its updates.

        Args:
            facts: the batch.
            known_targets: its target vectors; None: optimise them.

        Returns:
            The target vectors, the batch, and for each fact the additional entries of ``EditResult.detail``.

        Raises:
            EditError: an update cannot be computed, or is not finite.
        """
        targets = self.target_vectors(facts, known_targets, self.hparams.edited_layers[-1])
        passes = EditingPasses(self._runner, facts, self._blocks)
        return targets, *self.update_layers(facts, passes, targets.z)

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

    def edit(
        self, requests: Sequence[EditRequest], targets: Tensor | None = None
    ) -> tuple[list[EditResult], Callable[[], None]]:
        """Apply requests in batches of ``batch_size``. If one batch fails, none is applied.

        Args:
            requests: the requests.
            targets: the target vectors z of the requests, shape ``(requests, width)`` or, with ``blue``,
                ``(requests, 2, width)``; None: optimise them.

        Returns:
            The result of each request, and a function that rolls back the batches of this call. The function does
            nothing if they have been rolled back already. It raises an EditError while later batches are in place.

        Raises:
            DataError: a request cannot be used.
            EditError: a batch failed, or there is not one target vector for each request.
        """
        self.check_targets(targets, len(requests))
        return self._edit_all(
            requests, lambda facts, batch: self.edit_batch(facts, None if targets is None else targets[batch])
        )

    def encode(self, request: EditRequest) -> Fact:
        """Encode a request in the contexts of this model."""
        return encode_fact(self.tokenizer, request, self.state.templates, self.hparams, context_length(self.model))

    def edit_batch(self, items: Sequence[Fact], targets: Tensor | None = None) -> tuple[AnyBatch, list[Outcome]]:
        """Apply one batch; return it, and the outcome of each request.

        Args:
            items: the facts of the batch.
            targets: their target vectors; None: optimise them.
        """
        self._prepare_solvers()
        optimised, batch, details = self.edit_facts(items, targets)
        outcomes = [
            Outcome(steps, loss, learned, {"z_norm": float(z.norm()), **detail})
            for z, steps, loss, learned, detail in zip(
                optimised.z, optimised.steps, optimised.losses, optimised.learned, details, strict=True
            )
        ]
        return batch, outcomes

    def check_batch(self, items: Sequence[Fact]) -> None:
        """Check that facts agree: one update cannot map one key to two values. See :func:`check_same_targets`."""
        check_same_targets((fact.plain.prompt, fact.request) for fact in items)

    def _forget_removed_batches(self) -> None:
        """Forget the keys of the batches that are no longer in the history."""
        edit_count = sum(len(batch.records) for batch in self.state.batches)
        for solver in self._solvers.values():
            solver.truncate(edit_count)

    def _prepare_solvers(self) -> None:
        """Make the solver of every layer, unless that was done for an earlier batch."""
        if self._solvers:
            return
        if self._moments is None:
            self._moments = second_moments(self.model, self.tokenizer, self.hparams)
        self._solvers = make_solvers(self.make_solver, self._layers.modules, self._moments, self.state.batches)
