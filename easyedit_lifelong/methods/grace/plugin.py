"""Register GRACE through the hook that every plugin uses."""

from __future__ import annotations

from collections.abc import Callable

from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.methods.grace.report import report_sections
from easyedit_lifelong.registry import DeferredMethod


@hookimpl
def register_methods(register: Callable[[DeferredMethod], None]) -> None:
    """Register GRACE."""
    register(DeferredMethod("GRACE", "easyedit_lifelong.methods.grace.method", report_sections=report_sections))
