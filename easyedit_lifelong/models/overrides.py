"""Override attributes temporarily, and run every call of a module's method in a context.

Module hooks can't replace this: an interrupt between the two hooks of a call would leave the context open, and callers
that use ``forward`` directly (PEFT) bypass hooks.
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

_ABSENT = object()

CallContext = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], contextlib.AbstractContextManager[None]]
"""Returns the context for a call, given the module, the positional and the keyword arguments."""

_CHECKPOINT = "_gradient_checkpointing_func"
"""Attribute that holds the function with which a transformers block checkpoints its activations."""


@contextlib.contextmanager
def overridden(name: str, values: Mapping[Any, Any]) -> Iterator[None]:
    """Set an attribute of some objects in this context, and restore the previous values at its end.

    Only the instances' ``__dict__`` is read and written. So a module gets a ``forward`` that overrides that of its
    class, and a ``forward`` that the instance had before (from accelerate, which moves modules between devices) is
    restored.

    Args:
        name: name of the attribute.
        values: the value for each object.
    """
    previous: dict[Any, Any] = {}
    try:
        for owner, value in values.items():
            previous[owner] = vars(owner).get(name, _ABSENT)
            vars(owner)[name] = value
        yield
    finally:
        for owner, value in previous.items():
            if value is _ABSENT:
                vars(owner).pop(name, None)
            else:
                vars(owner)[name] = value


def without_hooks(module: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Run no hooks of a module and of its submodules in this context.

    A pass inside another pass has other rows and columns than those that the hooks were made for. A hook
    that is registered inside the context runs. It must be removed inside the context, too.
    """
    return _without_hooks_of(module.modules())


def without_own_hooks(module: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Run no hooks of a module in this context; those of its submodules run. See :func:`without_hooks`."""
    return _without_hooks_of([module])


@contextlib.contextmanager
def _without_hooks_of(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Run no hooks of these modules in this context."""
    owners = list(modules)
    with contextlib.ExitStack() as stack:
        for name in ("_forward_pre_hooks", "_forward_hooks"):
            hooked = [part for part in owners if vars(part)[name]]
            stack.enter_context(overridden(name, {part: OrderedDict() for part in hooked}))
        yield


class CallWrapper:
    """Replaces a method of one module, and runs every call of that method in a context.

    The wrapper has the signature of the original method. Other libraries may wrap it again (accelerate does). If they
    still hold it after :meth:`remove`, it calls the original method without a context.

    Args:
        module: the module; the wrapper goes into its instance, so that the class doesn't change.
        context: returns the context for a call.
        name: name of the method.
    """

    def __init__(self, module: nn.Module, context: CallContext, name: str = "forward") -> None:
        self.module, self._name = module, name
        self._context: CallContext | None = context
        self._original = module.__dict__.get(name)  # None: the class's method
        # Don't copy attributes: another library's wrapper may hold those of a CallWrapper that was removed.
        functools.update_wrapper(self, getattr(module, name), updated=())
        module.__dict__[name] = self

    def __new__(cls, *args: Any, **kwargs: Any) -> CallWrapper:
        """Make a wrapper, also a copy of one; before the first, exclude the calls of all from torch.compile."""
        _exclude_from_compilation()
        return super().__new__(cls)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the original method in a context."""
        original = self._class_method() if self._original is None else self._original
        if self._context is None:
            return original(*args, **kwargs)
        with self._context(self.module, args, kwargs):
            return original(*args, **kwargs)

    def in_place(self) -> bool:
        """Whether calls of the module's method still reach this wrapper, directly or through other wrappers."""
        method = self.module.__dict__.get(self._name)
        while method is not None and method is not self:
            method = getattr(method, "__wrapped__", None)
        return method is self

    def remove(self) -> None:
        """Restore the original method, in the module and where accelerate stores it."""
        self._context = None
        attributes = self.module.__dict__
        if attributes.get(self._name) is self:
            if self._original is None:
                del attributes[self._name]
            else:
                attributes[self._name] = self._original
        wrapped_by_accelerate = f"_old_{self._name}"
        if attributes.get(wrapped_by_accelerate) is self:
            attributes[wrapped_by_accelerate] = self._original or self._class_method()

    def _class_method(self) -> Callable[..., Any]:
        """Return the method that the module's class defines, bound to the module."""
        return types.MethodType(getattr(type(self.module), self._name), self.module)


@functools.cache
def _exclude_from_compilation() -> None:
    """Make torch.compile compile neither a call of a wrapper nor the blocks that it calls.

    Code that torch.compile compiles for one block runs for all blocks of that class, without their hooks.
    """
    # Not a decorator of the method: it would import torch._dynamo, which takes a second, with this module. Classes of
    # models have imported it.
    uncompiled = torch.compiler.disable(CallWrapper.__call__, reason="an edited model's hooks would be left out")
    CallWrapper.__call__ = uncompiled  # type: ignore[method-assign]


def recomputing_in(
    model: nn.Module, context: Callable[[], contextlib.AbstractContextManager[None]]
) -> contextlib.AbstractContextManager[None]:
    """Return a context for a forward pass whose blocks gradient checkpointing then recomputes in another context.

    Gradient checkpointing runs blocks a second time in the backward pass, when the contexts of the forward pass have
    ended. ``context`` makes the context for this second time.

    Args:
        model: the model; if it isn't in training mode, nothing changes.
        context: returns the context of one block's recomputation.
    """
    checkpoints: dict[nn.Module, Callable[..., Any]] = {}
    if model.training and torch.is_grad_enabled():
        checkpoints = {module: vars(module)[_CHECKPOINT] for module in model.modules() if _CHECKPOINT in vars(module)}

    def run_in_context(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with context():
            return function(*args, **kwargs)

    def checkpoint(original: Callable[..., Any], function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return original(functools.partial(run_in_context, function), *args, **kwargs)

    wrapped = {module: functools.partial(checkpoint, original) for module, original in checkpoints.items()}
    return overridden(_CHECKPOINT, wrapped)
