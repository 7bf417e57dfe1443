"""Register the native MEMIT, with the same hook as a third-party plugin."""

from __future__ import annotations

from collections.abc import Callable

from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.locate_edit.weight_method import weight_method
from easyedit_lifelong.methods.memit.config import NativeMemitHyperParams
from easyedit_lifelong.methods.memit.editor import MemitEditor, apply_memit_to_model
from easyedit_lifelong.methods.memit.search import SEARCH_SPACE


@hookimpl
def register_methods(register: Callable[[EditMethod], None]) -> None:
    """Register ``MEMIT-native``; the name ``MEMIT`` belongs to EasyEdit's MEMIT."""
    shown_settings = ("mom2_update_weight", "accumulate_keys", *NativeMemitHyperParams.TARGET_SETTINGS)
    register(weight_method(MemitEditor, apply_memit_to_model, "MEMIT", shown_settings, search_space=SEARCH_SPACE))
