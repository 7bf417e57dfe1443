"""Where CoachHook's updates go: into the ΔW of all hook layers or, with ``wohk``, into the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from easyedit_lifelong.covariance import SecondMoment
from easyedit_lifelong.methods.coachhook.layer import HookLayer, Mode
from easyedit_lifelong.methods.coachhook.state import CoachHookState
from easyedit_lifelong.methods.locate_edit.edited_layers import (
    Contents,
    EditedLayers,
    changed_weight,
    check_finite,
    weight_of,
)
from easyedit_lifelong.methods.locate_edit.update import LayerUpdate
from easyedit_lifelong.models.devices import device_of

_OFFLOADED = "Use hooks (wohk: false), or take accelerate's hooks off first (remove_hook_from_submodules)."


class HookLayers(EditedLayers):
    """Edited layers whose updates go into the ΔW of hook layers; the weights stay.

    Args:
        hooks: the hook layers by path, from the first to the last.
        state: the editor's batches, which say each layer's α and the size of its change at ordinary text.

    Attributes:
        moments: E[kkᵀ] of each layer, if z-scores are weighed by the size of the change at ordinary text.
    """

    in_weights = False

    def __init__(self, hooks: Mapping[str, HookLayer], state: CoachHookState) -> None:
        super().__init__({path: hook.module for path, hook in hooks.items()}, "CoachHook")
        self.hooks, self._state = hooks, state
        self.moments: Mapping[str, SecondMoment] = {}

    def contents(self) -> dict[str, Tensor | None]:
        """Return each layer's ΔW."""
        return {path: hook.weight.delta if hook.weight else None for path, hook in self.hooks.items()}

    def added(self, path: str, content: Tensor | None, update: LayerUpdate) -> Tensor:
        """Return a layer's ΔW with an update."""
        return update.added_to(content)

    def apply(self, path: str, update: LayerUpdate) -> None:
        """Add an update to a layer's ΔW and validate its hook (section 3.3).

        Raises:
            EditError: the result is not finite.
        """
        hook, before = self.hooks[path], self.hooks[path].weight
        delta = self.added(path, before.delta if before else None, update).to(device_of(hook.module))
        check_finite(delta, path)
        ordinary = None
        if path in self.moments:
            known = None if before is None else (before.delta, self._state.ordinary[path])
            ordinary = size_at_ordinary_text(self.moments[path].moment, update, known)
        hook.set(delta, self._state.alphas[path], Mode.VALIDATED, ordinary)

    def ordinary(self) -> dict[str, float]:
        """Return the root mean square of each layer's ‖ΔW k‖ over ordinary text, where z-scores are weighed by it."""
        weights = {path: hook.weight for path, hook in self.hooks.items()}
        return {path: float(w.ordinary) for path, w in weights.items() if w is not None and w.ordinary is not None}

    def settle(self) -> None:
        """Have the hook layers act with each one's α after the batch."""
        self.put_back(self.contents())

    def put_back(self, contents: Contents) -> None:
        """Have the hook layers hold these ΔW, validated, with each one's α."""
        alphas, ordinary = self._state.alphas, self._state.ordinary
        for path, hook in self.hooks.items():
            delta = contents[path]
            device = device_of(hook.module)  # perhaps another by now
            hook.set(None if delta is None else delta.to(device), alphas[path], Mode.VALIDATED, ordinary.get(path))

    def weights(self) -> dict[str, Tensor]:
        """Return each layer's W + ΔW, by path; the layers stay as they are."""
        return _changed_weights(self.hooks, lambda path: weight_of(self.modules[path]).detach())

    @contextmanager
    def in_mode(self, mode: Mode) -> Iterator[None]:
        """Have all hook layers in one mode inside."""
        with ExitStack() as stack:
            for hook in self.hooks.values():
                stack.enter_context(hook.in_mode(mode))
            yield

    @contextmanager
    def without_edits(self, unedited: Contents) -> Iterator[None]:
        """Have the unedited model inside."""
        with self.in_mode(Mode.OFF):
            yield


class WeightsWithoutHooks(EditedLayers):
    """Edited weights (``wohk``): a batch's updates act through temporary hooks, and go into the weights at its end.

    Args:
        hooks: the hook layers by path, from the first to the last; they hold something only while a batch is edited.
    """

    def __init__(self, hooks: Mapping[str, HookLayer]) -> None:
        super().__init__({path: hook.module for path, hook in hooks.items()}, "wohk: true", _OFFLOADED)
        self.hooks = hooks

    def apply(self, path: str, update: LayerUpdate) -> None:
        """Have an update act at every token.

        Raises:
            EditError: it is not finite.
        """
        delta = update.added_to(None).to(device_of(self.modules[path]))
        check_finite(delta, path)
        self.hooks[path].set(delta, 0.0, Mode.TEMPORARY)

    def settle(self) -> None:
        """Put the updates of the batch into the weights."""
        self.put_back(_changed_weights(self.hooks, self.content))

    def put_back(self, contents: Contents) -> None:
        """Have the layers hold these weights, bitwise, and the hooks nothing."""
        super().put_back(contents)
        for hook in self.hooks.values():
            hook.set(None, 0.0, Mode.OFF)


def _changed_weights(hooks: Mapping[str, HookLayer], weight: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """Return W + ΔW of the hook layers that have a ΔW, by path; ``weight`` returns a layer's W."""
    return {
        path: changed_weight(hook.module, weight(path), hook.weight.delta)
        for path, hook in hooks.items()
        if hook.weight is not None
    }


def size_at_ordinary_text(moment: Tensor, update: LayerUpdate, before: tuple[Tensor, float] | None) -> float:
    """Return the root mean square of ‖ΔW k‖ over the text of the second moments, √tr(ΔW E[kkᵀ] ΔWᵀ).

    With ΔW = ΔW' + R Aᵀ and X = E[kkᵀ] A that is tr(ΔW' E[kkᵀ] ΔW'ᵀ) + 2 tr(Rᵀ ΔW' X) + tr(RᵀR AᵀX):
    d²n operations for n new edits.

    Args:
        moment: E[kkᵀ], shape ``(inputs, inputs)``.
        update: R and A, ``residual`` and ``adjusted``.
        before: ΔW', and its root mean square; None for none.
    """
    adjusted, residual = update.adjusted.to(moment.device), update.residual.to(moment.device).double()
    seen = (moment @ adjusted.to(moment.dtype)).double()
    square = ((residual.t() @ residual) * (adjusted.double().t() @ seen)).sum()
    if before is not None:
        delta, mean = before
        square += mean**2 + 2 * ((delta.to(moment.device).double() @ seen) * residual).sum()
    return float(square.clamp_min(torch.finfo(torch.float64).tiny).sqrt())
