"""Register the fine-tuning methods, with the same hook as a third-party plugin."""

from __future__ import annotations

from collections.abc import Callable

from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.registry import DeferredMethod


@hookimpl
def register_methods(register: Callable[[DeferredMethod], None]) -> None:
    """Register ``FT-native``, ``FT-L``, ``FT-EWC``, ``FT-Retrain`` and ``LocFT-BF``."""
    for name in ("FT-native", "FT-L", "FT-EWC", "FT-Retrain", "LocFT-BF"):
        register(DeferredMethod(name, "easyedit_lifelong.methods.finetune.method"))
