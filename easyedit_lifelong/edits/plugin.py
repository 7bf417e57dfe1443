"""What saved edits add to an edited model, registered through the hook that any plugin uses."""

from __future__ import annotations

from collections.abc import Callable

from easyedit_lifelong.edits.save import save_edits
from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.registry import ModelMethod


@hookimpl
def register_model_methods(register: Callable[[ModelMethod], None]) -> None:
    """Register ``model.save_edits(folder)``."""
    register(ModelMethod("save_edits", save_edits))
