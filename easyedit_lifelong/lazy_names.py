"""Names of a package, and functions, that are imported when they are first used: importing what has them is quick."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the functions ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: the package's ``__name__``.
        modules: the names, each with the module that defines it.
    """

    def import_name(name: str) -> Any:
        """Import a name when it is first used, and keep it in the package."""
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def all_names() -> list[str]:
        """Return all names of the package, imported or not."""
        return sorted({*vars(sys.modules[package]), *modules})

    return import_name, all_names


def lazy_function(module: str, name: str) -> Callable[..., Any]:
    """Return a function that imports a function or a class of a module when it is called, and calls that one.

    Args:
        module: the name of the module.
        name: the name of the function or the class in the module.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*args, **kwargs)

    call.__name__ = call.__qualname__ = name
    return call
