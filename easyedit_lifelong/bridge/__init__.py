"""The only place that knows EasyEdit: how to find it, import it, and add our methods to it.

:func:`install` is cheap: it puts a finder in front of the import system and imports neither torch
nor EasyEdit. The rest happens when somebody imports ``easyeditor``. No file of EasyEdit is changed.
"""

from __future__ import annotations

from typing import Any

from easyedit_lifelong.bridge.easyedit_loaders import read_counterfact, read_zsre
from easyedit_lifelong.bridge.easyedit_methods import (
    easyedit_hparams,
    easyedit_method,
    easyedit_method_for,
    read_easyedit_hparams,
)
from easyedit_lifelong.bridge.finder import install
from easyedit_lifelong.bridge.locate import EasyEditInfo, find_easyedit, install_hint, require_easyedit

__all__ = [
    "EasyEditInfo",
    "base_editor",
    "easyedit_hparams",
    "easyedit_method",
    "easyedit_method_for",
    "find_easyedit",
    "install",
    "install_hint",
    "read_counterfact",
    "read_easyedit_hparams",
    "read_zsre",
    "require_easyedit",
]


def base_editor() -> Any:
    """Import EasyEdit, with our methods registered, and return its ``BaseEditor`` class.

    Raises:
        EasyEditMissingError: EasyEdit isn't installed, or can't be imported.
    """
    install()
    require_easyedit()
    from easyeditor import BaseEditor

    return BaseEditor
