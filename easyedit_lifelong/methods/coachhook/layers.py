"""The edited layers of a model together: what they hold, and what puts it there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.coachhook.batch import weight_of
from easyedit_lifelong.methods.coachhook.layer import HookLayer, Mode
from easyedit_lifelong.models.anatomy import is_transposed
from easyedit_lifelong.models.devices import device_of

Contents = Mapping[str, Tensor | None]
"""What each layer holds, by path: its ΔW, or its weight where there are no hooks."""


class EditedLayers:
    """Puts ΔW in its place, in validated hooks or in the weights, and takes it back bitwise.

    Args:
        hooks: the hook layers by path, from the first to the last.
        wohk: whether edits go into the weights.
    """

    def __init__(self, hooks: Mapping[str, HookLayer], *, wohk: bool) -> None:
        self.hooks, self.wohk = hooks, wohk

    def check_writable(self) -> None:
        """Check that updates can be written to where they go.

        Raises:
            EditError: they go into weights that accelerate keeps elsewhere.
        """
        if self.wohk and (path := next((p for p, hook in self.hooks.items() if weight_of(hook.module).is_meta), None)):
            raise EditError(
                f"wohk: true has updates in the weights, but those of {path} aren't in memory (accelerate offloads "
                "them). Use hooks (wohk: false), or take accelerate's hooks off first (remove_hook_from_submodules)."
            )

    def contents(self) -> dict[str, Tensor | None]:
        """Keep what each layer holds now."""
        if self.wohk:
            return {path: weight_of(hook.module).detach().clone() for path, hook in self.hooks.items()}
        return {path: hook.weight.delta if hook.weight else None for path, hook in self.hooks.items()}

    def settle(self, alphas: Mapping[str, float], ordinary: Mapping[str, float]) -> None:
        """Put what a batch came to in its place."""
        for path, hook in self.hooks.items():
            assert hook.weight is not None
            delta = hook.weight.delta
            if self.wohk:
                weight = weight_of(hook.module)
                with torch.no_grad():
                    weight.copy_(self.changed(path, weight, delta))
                hook.set(None, 0.0, Mode.OFF)
            else:
                hook.set(delta, alphas[path], Mode.VALIDATED, ordinary.get(path))

    def updated(self) -> dict[str, Tensor]:
        """Return each layer's weight with its ΔW in it, as it is kept without hooks; the layers stay as they are."""
        with torch.no_grad():
            return {
                path: self.changed(path, weight_of(hook.module), hook.weight.delta)
                for path, hook in self.hooks.items()
                if hook.weight is not None
            }

    def changed(self, path: str, weight: Tensor, delta: Tensor) -> Tensor:
        """Return a layer's weight with a batch's ΔW in it, in its own dtype and whichever way round it is stored."""
        change = delta.t() if is_transposed(self.hooks[path].module) else delta
        return (weight.to(change.dtype) + change).to(weight.dtype)

    def put_back(self, contents: Contents, alphas: Mapping[str, float], ordinary: Mapping[str, float]) -> None:
        """Have the layers hold what they held, bitwise."""
        if self.wohk:
            self._put_weights(contents)
        for path, hook in self.hooks.items():
            kept = None if self.wohk else contents[path]
            device = device_of(hook.module)  # perhaps another by now
            mode = Mode.OFF if self.wohk else Mode.VALIDATED
            hook.set(None if kept is None else kept.to(device), alphas[path], mode, ordinary.get(path))

    @contextmanager
    def without_edits(self, unedited: Contents | None) -> Iterator[None]:
        """Have the unedited model inside.

        Args:
            unedited: the weights it had, where edits that went into them have been put back from a folder.
        """
        with ExitStack() as stack:
            for hook in self.hooks.values():
                stack.enter_context(hook.doing(Mode.OFF))
            edited = self.contents() if unedited else {}
            try:
                self._put_weights(unedited or {})
                yield
            finally:
                self._put_weights(edited)

    def _put_weights(self, weights: Contents) -> None:
        for path, weight in weights.items():
            assert weight is not None
            with torch.no_grad():
                weight_of(self.hooks[path].module).copy_(weight)
