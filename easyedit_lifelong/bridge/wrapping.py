"""Replace parts of EasyEdit by wrappers of them, once and for all, or for a while."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from easyedit_lifelong.bridge.locate import PACKAGE

_MARK = "_easyedit_lifelong_wrapper"


def wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> Any:
    """Replace a function by ``wrapper(original, *args, **kwargs)``. Doing it again does nothing.

    Args:
        owner: the class or module that holds the function; one without it is left alone.
        name: the function's name.
        wrapper: what is called instead.

    Returns:
        The original, or None if nothing was replaced.
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
    """Give an object other attributes inside, and its own ones after."""
    before = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


def easyedit_modules() -> list[ModuleType]:
    """Return the modules of EasyEdit that are imported."""
    names = [name for name in list(sys.modules) if f"{name}.".startswith(f"{PACKAGE}.")]
    return [module for module in map(sys.modules.get, names) if module is not None]
