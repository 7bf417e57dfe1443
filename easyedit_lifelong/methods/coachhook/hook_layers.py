"""The edited layers of CoachHook: updates are added to ΔW in hook layers or, with ``wohk``, to the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from easyedit_lifelong.covariance import SecondMoment
from easyedit_lifelong.methods.coachhook.hook import Mode
from easyedit_lifelong.methods.coachhook.layer import HookLayer
from easyedit_lifelong.methods.coachhook.state import CoachHookState
from easyedit_lifelong.methods.weight_updates.edited_layers import (
    EditedLayers,
    LayerTensors,
    changed_weight,
    check_finite,
    check_has_weight,
    weight_of,
)
from easyedit_lifelong.methods.weight_updates.layer_update import LayerUpdate, WeightUpdate
from easyedit_lifelong.models.devices import device_of

_OFFLOADED = "Use hook layers (wohk: false), or remove accelerate's hooks first (remove_hook_from_submodules)."


class HookLayers(EditedLayers):
    """Edited layers whose updates are added to ΔW in hook layers. The weights do not change.

    Args:
        hooks: the hook layers by path, from the first to the last.
        state: the batches of the editor. They have α of each layer, and the root mean square of its ‖ΔW k‖.

    Attributes:
        moments: the second moment of each layer, by path, if scores are weighed (``scope_score: weighed``); else
            empty.
    """

    in_weights = False

    def __init__(self, hooks: Mapping[str, HookLayer], state: CoachHookState) -> None:
        super().__init__({path: hook.module for path, hook in hooks.items()}, "CoachHook")
        self.hooks, self._state = hooks, state
        self.moments: Mapping[str, SecondMoment] = {}

    def tensors(self) -> dict[str, Tensor | None]:
        """Return the present ΔW of each layer, by path."""
        return {path: hook.weight.delta if hook.weight else None for path, hook in self.hooks.items()}

    def with_update(self, path: str, tensor: Tensor | None, update: WeightUpdate) -> Tensor:
        """Return ΔW plus an update."""
        return update.added_to(tensor)

    def apply(self, path: str, update: WeightUpdate) -> None:
        """Add an update to ΔW of a layer, and set its mode to VALIDATED (section 3.3).

        Raises:
            EditError: the result is not finite.
        """
        hook = self.hooks[path]
        previous = None if hook.weight is None else hook.weight.delta
        delta = self.with_update(path, previous, update).to(device_of(hook.module))
        check_finite(delta, path)
        rms_change = None
        if path in self.moments:
            assert isinstance(update, LayerUpdate)
            before = None if previous is None else (previous, self._state.rms_changes[path])
            rms_change = root_mean_square_change(self.moments[path].moment, update, before)
        hook.set_weight(delta, self._state.alphas[path], Mode.VALIDATED, rms_change)

    def rms_changes(self) -> dict[str, float]:
        """Return the root mean square of ‖ΔW k‖ over ordinary text, by path; empty if scores are not weighed by it."""
        return {
            path: float(hook.weight.ordinary)
            for path, hook in self.hooks.items()
            if hook.weight is not None and hook.weight.ordinary is not None
        }

    def finish_batch(self) -> None:
        """Set α of each hook layer to its value after the batch, which is now in the editor's history."""
        self.restore(self.tensors())

    def restore(self, tensors: LayerTensors) -> None:
        """Set ΔW of each hook layer, with its present α, in VALIDATED mode."""
        alphas, rms_changes = self._state.alphas, self._state.rms_changes
        for path, hook in self.hooks.items():
            delta = tensors[path]
            if delta is not None:
                delta = delta.to(device_of(hook.module))  # the model may have moved since
            hook.set_weight(delta, alphas[path], Mode.VALIDATED, rms_changes.get(path))

    def weights(self) -> dict[str, Tensor]:
        """Return W + ΔW of each layer that has a ΔW, by path. The layers do not change.

        Raises:
            EditError: W is quantised, so there is no such sum.
        """
        for path, module in self.modules.items():
            check_has_weight(path, module)
        return _changed_weights(self.hooks, lambda path: weight_of(self.modules[path]).detach())

    @contextmanager
    def in_mode(self, mode: Mode) -> Iterator[None]:
        """Set the mode of all hook layers within the context."""
        with ExitStack() as stack:
            for hook in self.hooks.values():
                stack.enter_context(hook.in_mode(mode))
            yield

    @contextmanager
    def without_edits(self, unedited: LayerTensors) -> Iterator[None]:
        """Turn all hook layers off within the context. ``unedited`` is not used."""
        with self.in_mode(Mode.OFF):
            yield


class WeightsWithoutHooks(EditedLayers):
    """Edited layers for ``wohk``: updates act through hook layers within a batch, and are then added to the weights.

    Args:
        hooks: the hook layers by path, from the first to the last. They have a ΔW only while a batch is edited.
    """

    def __init__(self, hooks: Mapping[str, HookLayer]) -> None:
        super().__init__({path: hook.module for path, hook in hooks.items()}, "wohk: true", _OFFLOADED)
        self.hooks = hooks

    def apply(self, path: str, update: WeightUpdate) -> None:
        """Set ΔW of a layer to an update, in TEMPORARY mode.

        Raises:
            EditError: the update is not finite.
        """
        delta = update.added_to(None).to(device_of(self.modules[path]))
        check_finite(delta, path)
        self.hooks[path].set_weight(delta, 0.0, Mode.TEMPORARY)

    def finish_batch(self) -> None:
        """Add the updates of the batch to the weights."""
        self.restore(_changed_weights(self.hooks, self.master_weight))

    def restore(self, tensors: LayerTensors) -> None:
        """Set the weights of layers, bitwise, and remove ΔW from all hook layers."""
        super().restore(tensors)
        for hook in self.hooks.values():
            hook.set_weight(None, 0.0, Mode.OFF)


def _changed_weights(hooks: Mapping[str, HookLayer], get_weight: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """Return W + ΔW of the hook layers that have a ΔW, by path.

    Args:
        hooks: the hook layers by path.
        get_weight: returns W of a layer, given its path.
    """
    return {
        path: changed_weight(hook.module, get_weight(path), hook.weight.delta)
        for path, hook in hooks.items()
        if hook.weight is not None
    }


def root_mean_square_change(moment: Tensor, update: LayerUpdate, before: tuple[Tensor, float] | None) -> float:
    """Return the root mean square of ‖ΔW k‖ over ordinary text, √tr(ΔW E[kkᵀ] ΔWᵀ).

    ΔW = ΔW' + R Aᵀ, where ΔW' is the change before the update. With X = E[kkᵀ] A,

        tr(ΔW E[kkᵀ] ΔWᵀ) = tr(ΔW' E[kkᵀ] ΔW'ᵀ) + 2 tr(Rᵀ ΔW' X) + tr(RᵀR AᵀX),

    which takes d²n operations for n new edits.

    Args:
        moment: E[kkᵀ], shape ``(inputs, inputs)``.
        update: its ``residual`` is R, and its ``adjusted`` is A.
        before: ΔW', and the root mean square of ‖ΔW' k‖; None: ΔW' is zero.
    """
    adjusted, residual = update.adjusted.to(moment.device), update.residual.to(moment.device).double()
    moment_adjusted = (moment @ adjusted.to(moment.dtype)).double()
    square = ((residual.t() @ residual) * (adjusted.double().t() @ moment_adjusted)).sum()
    if before is not None:
        delta, rms = before
        square += rms**2 + 2 * ((delta.to(moment.device).double() @ moment_adjusted) * residual).sum()
    return float(square.clamp_min(torch.finfo(torch.float64).tiny).sqrt())
