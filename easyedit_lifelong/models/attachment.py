"""Attach an editor to a layer of a model, and detach it. Every method uses this.

The layer isn't wrapped or replaced, so every module and weight of the model keeps its name. A forward hook reads the
layer's input and can change its output. The editor's tensors become a child module of the layer, so that they are saved
and moved with the model. The model's :class:`PositionTracker` provides the positions where prompts end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.models.modules import contains_layer
from easyedit_lifelong.models.partial_pass import hidden_of
from easyedit_lifelong.models.pickling import NotPicklable
from easyedit_lifelong.models.row_axis import with_row_axis, without_row_axis
from easyedit_lifelong.models.stack_trackers import attach_tracker
from easyedit_lifelong.models.windows import Window

if TYPE_CHECKING:
    from typing_extensions import Self

Replace = Callable[[tuple[Any, ...], dict[str, Any], Any], Any]
"""Returns the new output of a layer, given its arguments, keyword arguments and output; None keeps the output.

If the layer gets the tokens of all rows in one axis, input and output are given and returned with an axis of rows."""


class EditBuffers(nn.Module):
    """An editor's tensors as buffers of a child module. They keep their dtype when the model is cast."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the buffers to another device when the model moves; do not cast them."""
        for name, tensor in self._buffers.items():
            if tensor is not None:
                self._buffers[name] = tensor.to(fn(tensor).device)
        return self


class Attachment(NotPicklable):
    """The connection of an editor to one layer.

    Args:
        model: the model that contains the layer.
        layer: any module of the model.
        child: name of the child module that holds the editor's tensors.
        replace: called in every pass through the layer.
        whole_prompts: whether the layer must run in full passes, which read a prompt from its first token on.
        spanning: whether the editor finds an edit at this layer and applies it at a later one. It needs full passes.

    Attributes:
        attached: whether the editor is still attached to the layer.
        replace: the function that was given.

    Raises:
        ModelError: the model is an encoder-decoder, and the layer is neither in the encoder nor in the decoder.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: nn.Module,
        child: str,
        replace: Replace,
        *,
        whole_prompts: bool = False,
        spanning: bool = False,
    ) -> None:
        self.layer = layer
        self._child_name, self.replace = child, replace
        self._whole_prompts, self._spanning = whole_prompts, spanning
        self.attached = True
        self._child_module: nn.Module | None = None
        self._parent, self._name = _place_of(layer, model)
        self._tracker = attach_tracker(model, layer)
        if self._tracker is not None:
            self._tracker.pass_checks.append(self._check_in_place)
            self._tracker.attachments.append(self)
            if whole_prompts:
                self._tracker.whole_prompt_layers.append(layer)
            if spanning:
                self._tracker.spanning += 1
        self._handle = layer.register_forward_hook(self._after_layer, with_kwargs=True)

    @property
    def tracked(self) -> bool:
        """Whether positions of prompts are known. They aren't for a plain module, which reads no tokens."""
        return self._tracker is not None

    @property
    def window(self) -> Window | None:
        """The window of the running forward pass; None for a plain module, or if only a part of the model runs."""
        return self._tracker.current() if self._tracker is not None else None

    def set_child(self, child: nn.Module | None) -> None:
        """Add the editor's child module to the layer, in place of the previous one.

        Args:
            child: the module; None: only remove the previous one.
        """
        # The layer's child of that name can be another editor's.
        if self._child_module is not None and self.layer._modules.get(self._child_name) is self._child_module:
            del self.layer._modules[self._child_name]
        self._child_module = child
        if child is not None:
            self.layer.add_module(self._child_name, child)

    def detach(self) -> None:
        """Remove everything that the editor put on the model. A second call does nothing."""
        if not self.attached:
            return
        self.attached = False
        self.set_child(None)
        self._handle.remove()
        if self._tracker is not None:
            self._tracker.pass_checks.remove(self._check_in_place)
            self._tracker.attachments.remove(self)
            if self._whole_prompts:
                self._tracker.whole_prompt_layers.remove(self.layer)
            if self._spanning:
                self._tracker.spanning -= 1
            self._tracker.detach()

    def _check_in_place(self) -> None:
        """Check that the model still runs the layer.

        Raises:
            EditError: the layer has been replaced since it was edited, so that the edits would be lost without a word.
        """
        module = self._parent._modules.get(self._name) if self._parent is not None else self.layer
        if not contains_layer(module, self.layer):
            raise EditError(
                f"the edited layer {self._name!r} has been replaced since it was edited (by PEFT's merge_and_unload, "
                "or unload?), so its edits can't act. Save the edits and roll them back before you replace layers; "
                "afterwards, edit again."
            )

    def _after_layer(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Return the layer's new output; None keeps its output. This is the forward hook."""
        # Editors compare activations in float32, even if the model runs in autocast's lower precision.
        with torch.autocast(hidden_of(output).device.type, enabled=False):
            if not self._has_flat_rows(args, output):
                return self.replace(args, kwargs, output)
            assert self.window is not None
            rows = len(self.window.real)
            replaced = self.replace((with_row_axis(args[0], rows), *args[1:]), kwargs, with_row_axis(output, rows))
            return None if replaced is None else without_row_axis(replaced)

    def _has_flat_rows(self, args: tuple[Any, ...], output: Any) -> bool:
        """Whether the layer got the tokens of all rows in one axis; see :mod:`.row_axis`."""
        inputs = args[0] if args else None
        if not isinstance(inputs, Tensor) or not isinstance(output, Tensor) or not inputs.dim() == output.dim() == 2:
            return False
        window = self.window
        return window is not None and len(inputs) == len(output) == window.real.numel()


def _place_of(layer: nn.Module, model: nn.Module) -> tuple[nn.Module | None, str]:
    """Return the module that holds a layer as a child, and the child's name; None if the layer is the model."""
    for module in model.modules():
        for name, child in module._modules.items():
            if child is layer:
                return module, name
    return None, ""
