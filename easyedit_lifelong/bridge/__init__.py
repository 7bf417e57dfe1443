"""The only package that imports EasyEdit: it finds EasyEdit, repairs its imports, and registers our methods with it.

:func:`install` adds a finder to Python's import system; it imports neither torch nor EasyEdit. All other steps run when
``easyeditor`` is imported. No file of EasyEdit is changed.
"""

from __future__ import annotations

from typing import Any

from easyedit_lifelong.bridge.easyedit_location import (
    EasyEditInfo,
    find_easyedit,
    import_easyedit,
    install_hint,
    require_easyedit,
)
from easyedit_lifelong.bridge.finder import install
from easyedit_lifelong.lazy_names import lazy_names

_LAZY = {
    "easyedit_hparams": "easyedit_lifelong.bridge.method_hparams",
    "easyedit_method": "easyedit_lifelong.bridge.easyedit_methods",
    "easyedit_method_for": "easyedit_lifelong.bridge.easyedit_methods",
    "easyedits_full_name": "easyedit_lifelong.bridge.method_names",
    "full_name": "easyedit_lifelong.bridge.method_names",
    "hparams_folders": "easyedit_lifelong.bridge.method_names",
    "read_counterfact": "easyedit_lifelong.bridge.easyedit_loaders",
    "read_easyedit_hparams": "easyedit_lifelong.bridge.method_hparams",
    "read_zsre": "easyedit_lifelong.bridge.easyedit_loaders",
    "unambiguous_hparams": "easyedit_lifelong.bridge.method_hparams",
}
"""Names whose modules import torch or editing methods, and the modules. They are imported when first used."""

__all__ = ["EasyEditInfo", "base_editor", "find_easyedit", "install", "install_hint", "require_easyedit", *_LAZY]

__getattr__, __dir__ = lazy_names(__name__, _LAZY)


def base_editor() -> Any:
    """Import EasyEdit, register our methods with it, and return its ``BaseEditor`` class.

    Raises:
        EasyEditMissingError: EasyEdit isn't installed, or can't be imported.
    """
    install()
    return import_easyedit().BaseEditor
