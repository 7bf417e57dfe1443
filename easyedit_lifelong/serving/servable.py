"""What serving needs of a method and of a model, whatever they are."""

from __future__ import annotations

from typing import Any

from easyedit_lifelong.edits.state_folder import StateFolder
from easyedit_lifelong.errors import ModelError, PluginError
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.models.model_kinds import ModelKind, kind_of


def check_servable(method: EditMethod) -> None:
    """Check that a method can be served.

    Raises:
        PluginError: it can't write edits one by one, or can't remove them.
    """
    if not isinstance(method.state, StateFolder):
        raise PluginError(f"the edits of {method.name} can't be served: they can't be saved one after the other")
    if method.remove is None and method.remove_batches is None:
        raise PluginError(f"the edits of {method.name} can't be served: they can't be removed")


def check_generates(model: Any) -> None:
    """Check that a model is a causal language model.

    Raises:
        ModelError: it is not.
    """
    if kind_of(model) is not ModelKind.CAUSAL:
        raise ModelError(f"{type(model).__name__} can't be served: only causal language models can")
