"""Register AlphaEdit, with the same hook as a third-party plugin."""

from __future__ import annotations

from collections.abc import Callable

from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.methods.alphaedit.config import AlphaEditHyperParams
from easyedit_lifelong.methods.alphaedit.editor import AlphaEditEditor, apply_alphaedit_to_model
from easyedit_lifelong.methods.alphaedit.search import SEARCH_SPACE
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.locate_edit.weight_method import weight_method


@hookimpl
def register_methods(register: Callable[[EditMethod], None]) -> None:
    """Register ``AlphaEdit``."""
    shown_settings = (*AlphaEditHyperParams.NULL_SPACE_SETTINGS, *AlphaEditHyperParams.TARGET_SETTINGS)
    register(
        weight_method(AlphaEditEditor, apply_alphaedit_to_model, "AlphaEdit", shown_settings, search_space=SEARCH_SPACE)
    )
