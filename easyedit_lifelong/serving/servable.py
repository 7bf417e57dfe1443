"""What serving needs of a method, whatever the method is."""

from __future__ import annotations

from easyedit_lifelong.edits.state_folder import StateFolder
from easyedit_lifelong.errors import PluginError
from easyedit_lifelong.methods.base import EditMethod


def check_servable(method: EditMethod) -> None:
    """Check that a method can be served.

    Raises:
        PluginError: it can't write edits one by one, or can't remove them.
    """
    if not isinstance(method.state, StateFolder):
        raise PluginError(f"the edits of {method.name} can't be served: they can't be saved one after the other")
    if method.remove is None and method.remove_batches is None:
        raise PluginError(f"the edits of {method.name} can't be served: they can't be removed")
