"""Replace functions of EasyEdit by wrappers, permanently or within a context."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from easyedit_lifelong.bridge.easyedit_location import PACKAGE

_MARK = "_easyedit_lifelong_wrapper"
_MISSING = object()


def wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> Any:
    """Replace a function by ``wrapper(original, *args, **kwargs)``. A second call does nothing.

    Args:
        owner: the class or module with the function; if it has no such function, nothing is done.
        name: the function's name.
        wrapper: the function to call instead.

    Returns:
        The original function, or None if nothing was replaced.
    """
    original = getattr(owner, name, None)
    if original is None or hasattr(original, _MARK):
        return None

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    setattr(wrapped, _MARK, True)
    is_static = isinstance(owner, type) and isinstance(owner.__dict__.get(name), staticmethod)
    setattr(owner, name, staticmethod(wrapped) if is_static else wrapped)
    return original


@contextlib.contextmanager
def replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Set attributes of an object within a context; restore them afterwards, and delete those that were missing."""
    before = {name: getattr(owner, name, _MISSING) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            if value is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


def easyedit_modules() -> list[ModuleType]:
    """Return all imported modules of EasyEdit."""
    names = [name for name in list(sys.modules) if f"{name}.".startswith(f"{PACKAGE}.")]
    return [module for module in map(sys.modules.get, names) if module is not None]
