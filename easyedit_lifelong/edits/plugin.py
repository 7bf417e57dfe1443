"""The plugin of this package: it adds ``save_edits`` to edited models, and saving of runs to editing methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from easyedit_lifelong.edits.save import save_edits
from easyedit_lifelong.edits.state_folder import StateFolder
from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.edit_stores import AppendableEditStore
from easyedit_lifelong.registry import ModelMethod


@hookimpl
def register_model_methods(register: Callable[[ModelMethod], None]) -> None:
    """Register ``model.save_edits(folder)``."""
    register(ModelMethod("save_edits", save_edits))


@hookimpl
def complete_method(method: EditMethod) -> EditMethod | None:
    """Give a method with an appendable edit store a :class:`StateFolder`, which saves its edits during a run."""
    if method.state is None and isinstance(method.edits, AppendableEditStore):
        return dataclasses.replace(method, state=StateFolder(method.name, method.edits))
    return None
