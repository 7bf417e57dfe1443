"""The hook layers of a model together: updates go into their ΔW, and the model's own weights stay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from easyedit_lifelong.covariance import SecondMoment
from easyedit_lifelong.methods.coachhook.layer import HookLayer, Mode
from easyedit_lifelong.methods.coachhook.state import CoachHookState
from easyedit_lifelong.methods.locate_edit.edited_weights import Contents, changed_weight, check_finite, weight_of
from easyedit_lifelong.methods.locate_edit.update import LayerUpdate
from easyedit_lifelong.models.devices import device_of


class HookLayers:
    """Edited layers whose updates go into the ΔW of hook layers; see :class:`EditedLayers`.

    Args:
        hooks: the hook layers by path, from the first to the last.
        state: the editor's batches, which say each layer's α and the size of its change at ordinary text.

    Attributes:
        moments: E[kkᵀ] of each layer, if z-scores are weighed by the size of the change at ordinary text.
    """

    in_weights = False

    def __init__(self, hooks: Mapping[str, HookLayer], state: CoachHookState) -> None:
        self.hooks, self._state = hooks, state
        self.modules: Mapping[str, nn.Module] = {path: hook.module for path, hook in hooks.items()}
        self.moments: Mapping[str, SecondMoment] = {}

    def check_writable(self) -> None:
        """Do nothing: hook layers are always in memory."""

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
        return {
            path: changed_weight(hook.module, weight_of(hook.module).detach(), hook.weight.delta)
            for path, hook in self.hooks.items()
            if hook.weight is not None
        }

    @contextmanager
    def doing(self, mode: Mode) -> Iterator[None]:
        """Have all hook layers in one mode inside."""
        with ExitStack() as stack:
            for hook in self.hooks.values():
                stack.enter_context(hook.doing(mode))
            yield

    @contextmanager
    def without_edits(self, unedited: Contents) -> Iterator[None]:
        """Have the unedited model inside."""
        with self.doing(Mode.OFF):
            yield


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
