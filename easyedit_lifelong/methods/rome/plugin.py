"""Register the native ROME, with the same hook as a third-party plugin."""

from __future__ import annotations

from collections.abc import Callable

from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.locate_edit.weight_method import weight_method
from easyedit_lifelong.methods.rome.editor import RomeEditor, apply_rome_to_model
from easyedit_lifelong.methods.rome.search import SEARCH_SPACE


@hookimpl
def register_methods(register: Callable[[EditMethod], None]) -> None:
    """Register ``ROME-native``; the name ``ROME`` belongs to EasyEdit's ROME."""
    register(
        weight_method(
            RomeEditor, apply_rome_to_model, "ROME", ["mom2_adjustment"], batchable=False, search_space=SEARCH_SPACE
        )
    )
