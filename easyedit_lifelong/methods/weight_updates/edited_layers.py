"""The edited layers of a model: add updates to their weights, and restore the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.weight_updates.layer_update import WeightUpdate
from easyedit_lifelong.models.anatomy import is_transposed
from easyedit_lifelong.models.precision import at_least_float32
from easyedit_lifelong.models.quantisation import quantised_weight

LayerTensors = Mapping[str, Tensor | None]
"""The tensor of each layer that updates are added to, by path: W or, in hook layers, ΔW (None: no updates yet)."""


class EditedLayers:
    """Adds updates to the weights of a model's layers, W ← W + Δ, and restores earlier weights bitwise.

    A weight in half precision has a float32 master copy, to which updates are added: if the sum were rounded to half
    precision after every batch, small updates would be lost.

    A subclass can add updates to other tensors than the weights. It overrides the methods that return or take
    :data:`LayerTensors`.

    Args:
        modules: the edited projections by path, from the first layer to the last.
        writer: the method or the setting that writes into the weights, for messages.
        remedy: what to do if the weights are not in memory, for messages.
    """

    in_weights = True
    """Whether updates are added to the model's own weights."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        writer: str,
        remedy: str = "Remove accelerate's hooks first (remove_hook_from_submodules).",
    ) -> None:
        self.modules, self._writer, self._remedy = modules, writer, remedy
        self._masters: dict[str, Tensor] = {}

    def check_writable(self) -> None:
        """Check that the weights can be written, if updates are added to them.

        Raises:
            EditError: accelerate has offloaded a weight, or a weight is quantised.
        """
        if not self.in_weights:
            return
        for path, module in self.modules.items():
            if (quantised := quantised_weight(module)) is not None:
                raise EditError(
                    f"{self._writer} writes into the weights, but {path} now has {quantised}: the model has been "
                    "quantised since it was loaded or edited. Roll edits back before you quantise a model, and save "
                    "them first: hook-based edits can be loaded onto the quantised model."
                )
            if weight_of(module).is_meta:
                raise EditError(
                    f"{self._writer} writes updates into the weights, but those of {path} aren't in memory (accelerate "
                    f"offloads them). {self._remedy}"
                )

    def tensors(self) -> dict[str, Tensor | None]:
        """Return the present tensors of all layers; later updates do not change the result."""
        return {path: self.master_weight(path).clone() for path in self.modules}

    def master_weight(self, path: str) -> Tensor:
        """Return the weight of a layer in float32 or wider, before it is rounded to the dtype of the model."""
        weight = weight_of(self.modules[path]).detach()
        master = self._masters.get(path)
        # A master copy is out of date if something else has changed the weight.
        if master is None or not torch.equal(master.to(weight), weight):
            return at_least_float32(weight)
        return master.to(weight.device)

    def with_update(self, path: str, tensor: Tensor | None, update: WeightUpdate) -> Tensor:
        """Return a layer's tensor plus an update, bitwise as :meth:`apply` computes it, without changing the layer."""
        assert tensor is not None
        return changed_weight(self.modules[path], tensor, update.added_to(None).to(tensor.device))

    def apply(self, path: str, update: WeightUpdate) -> None:
        """Add an update to a layer.

        Raises:
            EditError: the result is not finite.
        """
        changed = self.with_update(path, self.master_weight(path), update)
        check_finite(changed.to(weight_of(self.modules[path]).dtype), path)
        self.restore({path: changed})

    def finish_batch(self) -> None:
        """Complete a batch after it has been added to the editor's history. Here, nothing is left to do."""

    @torch.no_grad()
    def restore(self, tensors: LayerTensors) -> None:
        """Set the tensors of layers, bitwise."""
        for path, tensor in tensors.items():
            assert tensor is not None
            weight = weight_of(self.modules[path])
            with torch.inference_mode() if weight.is_inference() else nullcontext():
                weight.copy_(tensor)
            self._masters.pop(path, None)
            if tensor.dtype != weight.dtype:
                self._masters[path] = tensor

    def weights(self) -> dict[str, Tensor]:
        """Return the weight of each layer with all updates, by path."""
        return {path: weight_of(module).detach() for path, module in self.modules.items()}

    @contextmanager
    def without_edits(self, unedited: LayerTensors) -> Iterator[None]:
        """Restore the layers of the base model within the context.

        Args:
            unedited: the tensors of all layers before the first batch.
        """
        edited = self.tensors()
        try:
            self.restore(unedited)
            yield
        finally:
            self.restore(edited)


def weight_of(module: nn.Module) -> Tensor:
    """Return the weight of a projection."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def changed_weight(module: nn.Module, weight: Tensor, delta: Tensor) -> Tensor:
    """Return W + ΔW in the dtype and orientation of W.

    Args:
        module: the projection, whose class determines whether W is stored transposed.
        weight: W.
        delta: ΔW, shape ``(outputs, inputs)``.
    """
    change = delta.t() if is_transposed(module) else delta
    return (weight.to(change.dtype) + change).to(weight.dtype)


def check_finite(values: Tensor, path: str) -> None:
    """Check that a layer's tensor is finite after an update.

    Raises:
        EditError: it has NaN or infinite values.
    """
    if not torch.isfinite(values).all():
        raise EditError(
            f"the update of {path} isn't finite; a smaller learning rate (v_lr, lr) or clamp_norm_factor may help"
        )


def check_has_weight(path: str, module: nn.Module) -> None:
    """Check that a projection has a weight to which updates can be added.

    Raises:
        EditError: the weight is quantised.
    """
    if (quantised := quantised_weight(module)) is not None:
        raise EditError(
            f"{path} has {quantised}, so there is no weight W + ΔW to export. Load the model without "
            "quantisation, load the saved edits onto it, and export that."
        )
