"""The native MEMIT and its ports."""

from __future__ import annotations

from easyedit_lifelong.methods.locate_edit.weight_method import weight_method
from easyedit_lifelong.methods.memit.config import NativeMemitHyperParams
from easyedit_lifelong.methods.memit.editor import MemitEditor, apply_memit_to_model
from easyedit_lifelong.methods.memit.search import SEARCH_SPACE

_SHOWN_SETTINGS = ("mom2_update_weight", "accumulate_keys", *NativeMemitHyperParams.TARGET_SETTINGS)

METHODS = (weight_method(MemitEditor, apply_memit_to_model, "MEMIT", _SHOWN_SETTINGS, search_space=SEARCH_SPACE),)
"""``MEMIT-native``; the name ``MEMIT`` belongs to EasyEdit's MEMIT."""
