"""What each editing method can do, as its ports say."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from easyedit_lifelong.errors import PluginError
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.serving.servable import check_servable


def is_servable(method: EditMethod) -> bool:
    """Return whether the command ``serve`` accepts a method."""
    try:
        check_servable(method)
    except PluginError:
        return False
    return True


CAPABILITIES: Mapping[str, Callable[[EditMethod], bool]] = {
    "batch": lambda method: method.batchable,
    "undo edit": lambda method: method.remove is not None,
    "undo batch": lambda method: method.remove_batches is not None,
    "save": lambda method: method.edits is not None,
    "resume": lambda method: method.state is not None,
    "merge": lambda method: method.merge is not None,
    "export": lambda method: method.plain_weights is not None,
    "serve": is_servable,
    "explain": lambda method: method.explain is not None,
}
"""What a method can or cannot do, each with a function that returns whether it can."""


def capabilities_of(method: EditMethod) -> dict[str, bool]:
    """Return whether a method can do each of :data:`CAPABILITIES`, by name."""
    return {name: can(method) for name, can in CAPABILITIES.items()}
