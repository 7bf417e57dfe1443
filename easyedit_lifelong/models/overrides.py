"""Give objects other attributes for a while, and run each call of a module's method within a context.

Not with hooks: an interrupt would leave them half done, and a caller of ``forward`` itself (PEFT) bypasses them.
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

_ABSENT = object()

CallContext = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], contextlib.AbstractContextManager[None]]
"""Gives the context of a call, from the module and the arguments."""

_CHECKPOINT = "_gradient_checkpointing_func"
"""What transformers' blocks call to be computed again when their gradients are."""


@contextlib.contextmanager
def overridden(name: str, values: Mapping[Any, Any]) -> Iterator[None]:
    """Set an attribute of some objects inside, and put back after what was there before.

    Only the objects' own ``__dict__`` is read and written. So a module gets a ``forward`` beside that of its class, and
    a ``forward`` that it had already (accelerate's moves modules between devices) comes back.

    Args:
        name: of the attribute.
        values: the value for each object.
    """
    before: dict[Any, Any] = {}
    try:
        for owner, value in values.items():
            before[owner] = vars(owner).get(name, _ABSENT)
            vars(owner)[name] = value
        yield
    finally:
        for owner, value in before.items():
            if value is _ABSENT:
                vars(owner).pop(name, None)
            else:
                vars(owner)[name] = value


class CallWrapper:
    """Stands in for a method of a module, and runs each call within a context; the signature stays the original's.

    Others may wrap it in their turn (accelerate does). What they keep of it after :meth:`remove` calls the original.

    Args:
        module: the module; its instance gets this in place of the method, so that its class stays as it is.
        context: gives each call's context.
        name: of the method.
    """

    def __init__(self, module: nn.Module, context: CallContext, name: str = "forward") -> None:
        self.module, self._name = module, name
        self._context: CallContext | None = context
        self._before = module.__dict__.get(name)
        # Not its attributes: another's wrapper has copied those of a call context that was removed since.
        functools.update_wrapper(self, getattr(module, name), updated=())
        module.__dict__[name] = self

    # All that is inside, too: what was compiled of one block runs for all of its kind, and without their hooks.
    @torch.compiler.disable(reason="an edited model's hooks would be left out")
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method."""
        original = self._of_class() if self._before is None else self._before
        if self._context is None:
            return original(*args, **kwargs)
        with self._context(self.module, args, kwargs):
            return original(*args, **kwargs)

    def in_place(self) -> bool:
        """Whether a call of the module's method still gets here, perhaps through others' wrappers."""
        method = self.module.__dict__.get(self._name)
        while method is not None and method is not self:
            method = getattr(method, "__wrapped__", None)
        return method is self

    def remove(self) -> None:
        """Put back the method from before, wherever this one is kept by now."""
        self._context = None
        for name in (self._name, f"_old_{self._name}"):  # the second is accelerate's, for the forward that it wraps
            if self.module.__dict__.get(name) is not self:
                continue
            if self._before is not None or name != self._name:
                self.module.__dict__[name] = self._before or self._of_class()
            else:
                del self.module.__dict__[name]

    def _of_class(self) -> Callable[..., Any]:
        return types.MethodType(getattr(type(self.module), self._name), self.module)


def recomputing_in(
    model: nn.Module, context: Callable[[], contextlib.AbstractContextManager[None]]
) -> contextlib.AbstractContextManager[None]:
    """Have gradient checkpointing compute blocks of the pass inside again in this context, after the pass.

    Args:
        model: the model; unless it is in training mode, there is nothing to do.
        context: gives the context.
    """
    found: dict[nn.Module, Callable[..., Any]] = {}
    if model.training and torch.is_grad_enabled():
        found = {module: vars(module)[_CHECKPOINT] for module in model.modules() if _CHECKPOINT in vars(module)}

    def within(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with context():
            return function(*args, **kwargs)

    def checkpoint(own: Callable[..., Any], function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return own(functools.partial(within, function), *args, **kwargs)

    return overridden(_CHECKPOINT, {module: functools.partial(checkpoint, own) for module, own in found.items()})
