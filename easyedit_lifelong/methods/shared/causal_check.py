"""The check of methods that edit causal language models only; its error names methods that edit the other kinds."""

from __future__ import annotations

from typing import Any

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.models.model_kinds import ModelKind, kind_of
from easyedit_lifelong.models.wrappers import unwrap_model
from easyedit_lifelong.plugins import get_plugins


def check_causal(model: Any, method: str) -> None:
    """Check that a model is a causal language model.

    Args:
        model: the model.
        method: the name of the method that edits such models only.

    Raises:
        ModelError: the model is of another kind; the message names methods that edit that kind, as they declare it.
    """
    if (kind := kind_of(model)) is not ModelKind.CAUSAL:
        raise ModelError(
            f"{method} edits causal language models; {type(unwrap_model(model)).__name__} is a {kind.value}. "
            f"{methods_for(kind)}"
        )


def methods_for(kind: ModelKind) -> str:
    """Return a sentence that names the registered methods that edit a kind of model other than causal ones."""
    names = [method.name for method in get_plugins().methods if kind in method.further_model_kinds]
    if not names:
        return f"No registered method edits a {kind.value} (docs/methods.md)."
    return f"Methods that edit a {kind.value}: {', '.join(names)} (docs/methods.md)."
