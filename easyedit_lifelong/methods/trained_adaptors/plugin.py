"""Register Defer and Memory network, with the same hook as a third-party plugin."""

from __future__ import annotations

from collections.abc import Callable

from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.registry import DeferredMethod


@hookimpl
def register_methods(register: Callable[[DeferredMethod], None]) -> None:
    """Register ``Defer-native`` and ``Memory``."""
    for name in ("Defer-native", "Memory"):
        register(DeferredMethod(name, "easyedit_lifelong.methods.trained_adaptors.method"))
