"""How an editor gets onto a layer of a model, and off again: the one mechanism of every method.

The layer isn't wrapped or replaced: every module and weight of the model keeps its name. A forward hook sees
what goes in and may change what comes out; what it needs for that joins the layer as a child, so that it is
saved and moved with the model; and the model's :class:`PositionTracker` says where prompts end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.models.prompt_positions import attach_tracker
from easyedit_lifelong.models.windows import Window

Replace = Callable[[tuple[Any, ...], dict[str, Any], Any], Any]
"""From a layer's arguments and output to its output with edits in it, or to None if it stays."""


class Attachment:
    """An editor's place on one layer.

    Args:
        model: the model that the layer belongs to.
        layer: any module of it.
        child: name that what the editor keeps on the layer gets.
        replace: called for every pass through the layer.
        whole_prompts: whether the editor must see a prompt in one pass, from its first token on.
        spanning: whether another layer of the editor's needs this one to run in every pass.

    Attributes:
        attached: whether the editor is still on the layer.

    Raises:
        ModelError: the layer is outside of what reads tokens.
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
        self._child, self._replace, self._whole_prompts, self._spanning = child, replace, whole_prompts, spanning
        self.attached = True
        self._kept: nn.Module | None = None
        self._tracker = attach_tracker(model, layer)
        if self._tracker is not None:
            if whole_prompts:
                self._tracker.whole_prompt_layers.append(layer)
            self._tracker.spanning += spanning
        self._handle = layer.register_forward_hook(self._after_layer, with_kwargs=True)

    @property
    def tracked(self) -> bool:
        """Whether there are prompts: a plain module has none."""
        return self._tracker is not None

    @property
    def window(self) -> Window | None:
        """The pass under way, if it is one through the model."""
        return self._tracker.current() if self._tracker is not None else None

    def keep(self, child: nn.Module | None) -> None:
        """Keep something on the layer, in place of what was kept there; None for nothing."""
        if self._kept is not None and self.layer._modules.get(self._child) is self._kept:  # another editor's stays
            del self.layer._modules[self._child]
        self._kept = child
        if child is not None:
            self.layer.add_module(self._child, child)

    def detach(self) -> None:
        """Leave the model as it was before the editor came; at the second call, do nothing."""
        if not self.attached:
            return
        self.attached = False
        self.keep(None)
        self._handle.remove()
        if self._tracker is not None:
            if self._whole_prompts:
                self._tracker.whole_prompt_layers.remove(self.layer)
            self._tracker.spanning -= self._spanning
            self._tracker.detach()

    def _after_layer(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        whole = output if isinstance(output, Tensor) else output[0]
        # What an editor compares, it compares in its own float32, also where the model's products are rounded more.
        with torch.autocast(whole.device.type, enabled=False):
            return self._replace(args, kwargs, output)
