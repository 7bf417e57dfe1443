"""GRACE, registered through the hook that any plugin uses."""

from __future__ import annotations

from collections.abc import Callable

from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.editor import apply_grace_to_model, check_layer
from easyedit_lifelong.registry import EditMethod


@hookimpl
def register_methods(register: Callable[[EditMethod], None]) -> None:
    """Register GRACE."""
    register(EditMethod("GRACE", GraceHyperParams, apply_grace_to_model, batchable=True, check=check_layer))
