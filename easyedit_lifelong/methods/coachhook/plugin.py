"""Register CoachHook, with the same hook as a third-party plugin."""

from __future__ import annotations

from collections.abc import Callable

from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.methods.coachhook.report import report_sections
from easyedit_lifelong.registry import DeferredMethod


@hookimpl
def register_methods(register: Callable[[DeferredMethod], None]) -> None:
    """Register CoachHook."""
    register(DeferredMethod("CoachHook", "easyedit_lifelong.methods.coachhook.method", report_sections=report_sections))
