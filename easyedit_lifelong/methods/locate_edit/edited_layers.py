"""The edited layers of a model, which updates are put into and taken out of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.locate_edit.update import LayerUpdate
from easyedit_lifelong.models.anatomy import is_transposed

Contents = Mapping[str, Tensor | None]
"""What each layer holds, by path: its weight, or the ΔW beside it (None for no ΔW)."""


class EditedLayers:
    """The edited layers of a model: updates go into their weights, W ← W + Δ, and come out bitwise.

    A weight in half precision has a float32 master copy, which updates are added to: rounded at every batch, small
    updates would be lost. A layer's *content* is its master copy or, without one, its weight. A subclass puts updates
    elsewhere; then the content is what the layer holds there.

    Args:
        modules: the edited projections by path, from the first to the last.
        owner: what writes into the weights, for messages.
        remedy: what to do if the weights are not in memory, for messages.
    """

    in_weights = True
    """Whether updates go into the model's own weights."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        owner: str,
        remedy: str = "Take accelerate's hooks off first (remove_hook_from_submodules).",
    ) -> None:
        self.modules, self._owner, self._remedy = modules, owner, remedy
        self._masters: dict[str, Tensor] = {}

    def check_writable(self) -> None:
        """Check that updates can be written.

        Raises:
            EditError: they go into weights that accelerate keeps elsewhere.
        """
        away = (path for path, module in self.modules.items() if weight_of(module).is_meta)
        if self.in_weights and (path := next(away, None)) is not None:
            raise EditError(
                f"{self._owner} has updates in the weights, but those of {path} aren't in memory (accelerate offloads "
                f"them). {self._remedy}"
            )

    def contents(self) -> dict[str, Tensor | None]:
        """Return what each layer holds now; later updates do not change it."""
        return {path: self.content(path).clone() for path in self.modules}

    def content(self, path: str) -> Tensor:
        """Return a layer's weight in at least float32, with its updates unrounded."""
        weight = weight_of(self.modules[path]).detach()
        master = self._masters.get(path)
        if master is None or not torch.equal(master.to(weight), weight):  # none yet, or the weight was changed since
            return weight.to(torch.promote_types(weight.dtype, torch.float32))
        return master.to(weight.device)

    def added(self, path: str, content: Tensor | None, update: LayerUpdate) -> Tensor:
        """Return what a layer that held ``content`` holds with an update, bitwise as :meth:`apply` computes it."""
        assert content is not None
        return changed_weight(self.modules[path], content, update.added_to(None).to(content.device))

    def apply(self, path: str, update: LayerUpdate) -> None:
        """Add an update to a layer; the next layers' keys are computed with it.

        Raises:
            EditError: the result is not finite.
        """
        changed = self.added(path, self.content(path), update)
        check_finite(changed.to(weight_of(self.modules[path]).dtype), path)
        self.put_back({path: changed})

    def settle(self) -> None:
        """Finish a batch, once it is in the editor's history."""

    @torch.no_grad()
    def put_back(self, contents: Contents) -> None:
        """Have the layers hold these contents, bitwise."""
        for path, content in contents.items():
            assert content is not None
            weight = weight_of(self.modules[path])
            with torch.inference_mode() if weight.is_inference() else nullcontext():
                weight.copy_(content)
            self._masters.pop(path, None)
            if content.dtype != weight.dtype:
                self._masters[path] = content

    def weights(self) -> dict[str, Tensor]:
        """Return each layer's weight with all updates in it, by path."""
        return {path: weight_of(module).detach() for path, module in self.modules.items()}

    @contextmanager
    def without_edits(self, unedited: Contents) -> Iterator[None]:
        """Have the unedited model inside; ``unedited`` is what the layers held before the first batch."""
        edited = self.contents()
        try:
            self.put_back(unedited)
            yield
        finally:
            self.put_back(edited)


def weight_of(module: nn.Module) -> Tensor:
    """Return a projection's weight."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def changed_weight(module: nn.Module, weight: Tensor, delta: Tensor) -> Tensor:
    """Return W + ΔW in the weight's dtype and orientation.

    Args:
        module: the projection, which says whether its weight is stored transposed.
        weight: W.
        delta: ΔW, shape ``(outputs, inputs)``.
    """
    change = delta.t() if is_transposed(module) else delta
    return (weight.to(change.dtype) + change).to(weight.dtype)


def check_finite(values: Tensor, path: str) -> None:
    """Check what an update has come to.

    Raises:
        EditError: it holds NaN or infinite values.
    """
    if not torch.isfinite(values).all():
        raise EditError(f"the update of {path} isn't finite; a smaller v_lr or clamp_norm_factor may help")
