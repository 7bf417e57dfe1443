"""Know of every pass of a module, by standing in for its ``forward``.

Not with hooks: an interrupt would leave them half done, and who calls ``forward`` itself (PEFT does) goes past them.
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

Passing = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], contextlib.AbstractContextManager[None]]

_CHECKPOINT = "_gradient_checkpointing_func"
"""What transformers' blocks call to be computed again when their gradients are."""


class Watch:
    """Stands in for a module's ``forward``, and has each pass run within a context; the signature stays the original's.

    Others may put theirs around it (accelerate does). What they keep of it when it is removed only passes on.

    Args:
        module: the module; its instance gets this as ``forward``, so that its class stays as it is.
        passing: gives each pass's context, from the module and the arguments it is called with.
    """

    def __init__(self, module: nn.Module, passing: Passing) -> None:
        self.module = module
        self._passing: Passing | None = passing
        self._before = module.__dict__.get("forward")
        functools.update_wrapper(self, module.forward)
        module.__dict__["forward"] = self

    # All that is inside, too: what was compiled of one block runs for all of its kind, and without their hooks.
    @torch.compiler.disable(reason="an edited model's hooks would be left out")
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module."""
        own = functools.partial(type(self.module).forward, self.module)
        forward = own if self._before is None else self._before
        if self._passing is None:
            return forward(*args, **kwargs)
        with self._passing(self.module, args, kwargs):
            return forward(*args, **kwargs)

    def in_place(self) -> bool:
        """Whether the module's ``forward`` still leads here, perhaps through others'."""
        forward = self.module.__dict__.get("forward")
        while forward is not None and forward is not self:
            forward = getattr(forward, "__wrapped__", None)
        return forward is self

    def remove(self) -> None:
        """Put back the ``forward`` from before, wherever this one is kept by now."""
        self._passing = None
        for name in ("forward", "_old_forward"):  # the second is accelerate's, for the forward that it is around
            if self.module.__dict__.get(name) is not self:
                continue
            if self._before is not None:
                self.module.__dict__[name] = self._before
            elif name == "forward":
                del self.module.__dict__[name]
            else:
                self.module.__dict__[name] = types.MethodType(type(self.module).forward, self.module)


@contextlib.contextmanager
def recomputing_in(model: nn.Module, context: Callable[[], contextlib.AbstractContextManager[None]]) -> Iterator[None]:
    """Have blocks that gradient checkpointing computes again do so in this context, when the pass inside is over.

    Args:
        model: the model; where it isn't being trained, there is nothing to do.
        context: of the pass inside.
    """
    found: dict[nn.Module, Callable[..., Any]] = {}
    if model.training and torch.is_grad_enabled():
        found = {module: vars(module)[_CHECKPOINT] for module in model.modules() if _CHECKPOINT in vars(module)}

    def within(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with context():
            return function(*args, **kwargs)

    def checkpoint(own: Callable[..., Any], function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return own(functools.partial(within, function), *args, **kwargs)

    for module, own in found.items():
        module.__dict__[_CHECKPOINT] = functools.partial(checkpoint, own)
    try:
        yield
    finally:
        for module, own in found.items():
            module.__dict__[_CHECKPOINT] = own
