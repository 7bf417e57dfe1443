"""The only place that knows EasyEdit: how to find it, import it, and add our methods to it.

:func:`install` is cheap: it puts a finder in front of the import system and imports neither torch
nor EasyEdit. The rest happens when somebody imports ``easyeditor``. No file of EasyEdit is changed.
"""

from __future__ import annotations

import importlib
from typing import Any

from easyedit_lifelong.bridge.finder import install
from easyedit_lifelong.bridge.locate import EasyEditInfo, find_easyedit, import_easyedit, install_hint, require_easyedit

_LAZY = {
    "easyedit_hparams": "easyedit_methods",
    "easyedit_method": "easyedit_methods",
    "easyedit_method_for": "easyedit_methods",
    "read_counterfact": "easyedit_loaders",
    "read_easyedit_hparams": "easyedit_methods",
    "read_zsre": "easyedit_loaders",
}
"""Names whose modules import torch or the methods' modules, loaded at their first use."""

__all__ = ["EasyEditInfo", "base_editor", "find_easyedit", "install", "install_hint", "require_easyedit", *_LAZY]


def __getattr__(name: str) -> Any:
    """Load a name of :data:`_LAZY`."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def base_editor() -> Any:
    """Import EasyEdit, with our methods registered, and return its ``BaseEditor`` class.

    Raises:
        EasyEditMissingError: EasyEdit isn't installed, or can't be imported.
    """
    install()
    return import_easyedit().BaseEditor
