"""Register KE, with the same hook as a third-party plugin."""

from __future__ import annotations

from collections.abc import Callable

from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.registry import DeferredMethod


@hookimpl
def register_methods(register: Callable[[DeferredMethod], None]) -> None:
    """Register ``KE``."""
    register(DeferredMethod("KE", "easyedit_lifelong.methods.ke.method"))
