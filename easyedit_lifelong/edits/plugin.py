"""The plugin of this package: it adds ``save_edits`` to edited models, and saving of runs to editing methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.lazy_names import lazy_function
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.edit_stores import AppendableEditStore
from easyedit_lifelong.registry import ModelMethod

_new_state_folder = lazy_function("easyedit_lifelong.edits.state_folder", "StateFolder")


@hookimpl
def register_model_methods(register: Callable[[ModelMethod], None]) -> None:
    """Register ``model.save_edits(folder)``."""
    register(ModelMethod("save_edits", lazy_function("easyedit_lifelong.edits.save", "save_edits")))


@hookimpl
def complete_method(method: EditMethod) -> EditMethod | None:
    """Give a method with an appendable edit store a ``StateFolder``, which saves its edits during a run."""
    if method.state is None and isinstance(method.edits, AppendableEditStore):
        return dataclasses.replace(method, state=_new_state_folder(method.name, method.edits))
    return None
