"""Hook layers for ``scope_score: codebook``: at a token in scope, the updates of the matching edits alone act.

A hook layer does not add the updates of all edits into one ΔW. It keeps the factors R and A of ΔW = R Aᵀ, which have a
column for each edit. At a token with the key k that matches the edits M, it adds Σ_{i ∈ M} r_i (a_iᵀ k). So an edit
acts in the same way however many other edits there are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.methods.coachhook.hook import Hook, Mode
from easyedit_lifelong.methods.coachhook.state import CoachHookState
from easyedit_lifelong.methods.coachhook.subject_scope import SubjectScope
from easyedit_lifelong.methods.weight_updates.edited_layers import (
    EditedLayers,
    LayerTensors,
    changed_weight,
    check_finite,
    check_has_weight,
    weight_of,
)
from easyedit_lifelong.methods.weight_updates.layer_update import LayerUpdate, WeightUpdate
from easyedit_lifelong.models.attachment import EditBuffers
from easyedit_lifelong.models.devices import device_of

ALPHA = 1.0
"""The score from which on a token is in scope; see :meth:`.SubjectScope.scores`."""


class _Factors(EditBuffers):
    """The factors of ΔW = R Aᵀ, as buffers of the projection.

    Args:
        factors: A above R, shape ``(inputs + outputs, edits)``.
        inputs: the number of rows of A.
    """

    factors: Tensor

    def __init__(self, factors: Tensor, inputs: int) -> None:
        super().__init__()
        self.register_buffer("factors", factors)
        self._inputs = inputs

    @property
    def adjusted(self) -> Tensor:
        """A, shape ``(inputs, edits)``."""
        return self.factors[: self._inputs]

    @property
    def residual(self) -> Tensor:
        """R, shape ``(outputs, edits)``."""
        return self.factors[self._inputs :]


class SubjectHook(Hook):
    """Adds the updates of matching edits to the output of a projection, at tokens in scope.

    Args:
        model: the model.
        module: the projection, ``(rows, tokens, inputs)`` to ``(rows, tokens, outputs)``.
        inputs: the number of inputs.
        scope: decides which tokens match which edits.
    """

    def __init__(self, model: nn.Module, module: nn.Module, inputs: int, scope: SubjectScope) -> None:
        self._inputs, self._scope = inputs, scope
        self._factors: _Factors | None = None
        super().__init__(model, module)

    @property
    def factors(self) -> Tensor | None:
        """A above R, shape ``(inputs + outputs, edits)``; None without edits."""
        return None if self._factors is None else self._factors.factors

    def set_factors(self, factors: Tensor | None) -> None:
        """Set A above R, shape ``(inputs + outputs, edits)``; None: there are no edits."""
        self._factors = None if factors is None else _Factors(factors.to(device_of(self.module)), self._inputs)
        self.mode = Mode.OFF if factors is None else Mode.VALIDATED
        self._attachment.set_child(self._factors)

    def detach(self) -> None:
        """Remove the hook layer from the model. A second call does nothing."""
        self._factors = None
        super().detach()

    def threshold(self, dtype: torch.dtype) -> Tensor:
        """Return the lowest score that is in scope."""
        return torch.tensor(ALPHA)

    def change(self) -> Tensor | None:
        """Return ΔW = R Aᵀ of all edits, shape ``(outputs, inputs)``, float64; None without edits."""
        if self._factors is None:
            return None
        return self._factors.residual.double() @ self._factors.adjusted.double().t()

    def _after_module(self, args: tuple[Any, ...], _: dict[str, Any], output: Tensor) -> Tensor | None:
        """Return the output of the hook layer for a pass; None to keep the output of the projection."""
        if self._factors is None or self.mode is Mode.OFF:
            return None
        decision = self._scope.decision(self._attachment.window)
        if decision is None:
            return None
        if self._score_recorder is not None or self._decision_recorder is not None:
            scores = self._scope.scores(decision)
            if self._score_recorder is not None:
                self._score_recorder(scores)
            if self._decision_recorder is not None:
                self._decision_recorder(scores, decision.in_scope)
        if not len(decision.matches):
            return None
        in_scope = decision.in_scope.to(output.device)
        edited = output.clone()
        edited[in_scope] += self._changes(args[0][in_scope], decision.matches.to(output.device)).to(output.dtype)
        return edited

    def _changes(self, keys: Tensor, matches: Tensor) -> Tensor:
        """Return what the matching edits add to the output.

        Args:
            keys: the inputs of the projection at the tokens in scope, shape ``(tokens, inputs)``.
            matches: which edits each of them matches, shape ``(tokens, edits)``. While a batch is being edited, its
                edits are the last ones, and this layer may not have their updates yet.

        Returns:
            Shape ``(tokens, outputs)``, in the wider dtype of keys and factors.
        """
        assert self._factors is not None
        matches = matches[:, : self._factors.factors.shape[1]]
        columns = matches.any(dim=0).nonzero().flatten()
        dtype = torch.promote_types(keys.dtype, self._factors.factors.dtype)
        adjusted, residual = self._factors.adjusted[:, columns], self._factors.residual[:, columns]
        weights = (keys.to(dtype) @ adjusted.to(dtype)) * matches[:, columns]
        return weights @ residual.to(dtype).t()


class SubjectHookLayers(EditedLayers):
    """Edited layers whose updates are kept as factors, with a column for each edit. The weights do not change.

    The tensor of a layer (:data:`LayerTensors`) is A above R, shape ``(inputs + outputs, edits)``.

    Args:
        hooks: the hook layers by path, from the first to the last.
        scope: decides which tokens match which edits.
        state: the batches of the editor, which have the keys of their subjects.
    """

    in_weights = False

    def __init__(self, hooks: Mapping[str, SubjectHook], scope: SubjectScope, state: CoachHookState) -> None:
        super().__init__({path: hook.module for path, hook in hooks.items()}, "CoachHook")
        self._hooks, self._scope, self._state = hooks, scope, state

    def tensors(self) -> dict[str, Tensor | None]:
        """Return the present factors of each layer, by path."""
        return {path: hook.factors for path, hook in self._hooks.items()}

    def with_update(self, path: str, tensor: Tensor | None, update: WeightUpdate) -> Tensor:
        """Return factors with the columns of an update added."""
        assert isinstance(update, LayerUpdate)
        added = torch.cat([update.adjusted, update.residual])
        return added if tensor is None else torch.cat([tensor, added.to(tensor)], dim=1)

    def apply(self, path: str, update: WeightUpdate) -> None:
        """Add the columns of an update to a layer.

        Raises:
            EditError: the update is not finite.
        """
        factors = self.with_update(path, self._hooks[path].factors, update)
        check_finite(factors, path)
        self._hooks[path].set_factors(factors)

    def restore(self, tensors: LayerTensors) -> None:
        """Set the factors of each layer, and the keys of the batches that the editor has now."""
        for path, hook in self._hooks.items():
            hook.set_factors(tensors[path])
        self._scope.set_keys(self._state.subject_keys())

    def weights(self) -> dict[str, Tensor]:
        """Return W + ΔW of each layer that has edits, by path. The layers do not change.

        Raises:
            EditError: W is quantised, so there is no such sum.
        """
        changed: dict[str, Tensor] = {}
        for path, hook in self._hooks.items():
            check_has_weight(path, hook.module)
            if (change := hook.change()) is not None:
                weight = weight_of(hook.module).detach()
                changed[path] = changed_weight(hook.module, weight, change)
        return changed

    @contextlib.contextmanager
    def without_edits(self, unedited: LayerTensors) -> Iterator[None]:
        """Turn all hook layers off within the context. ``unedited`` is not used."""
        with self._scope.suspended():
            yield
