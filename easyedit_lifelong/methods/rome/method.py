"""The native ROME and its ports."""

from __future__ import annotations

from easyedit_lifelong.methods.locate_edit.weight_method import weight_method
from easyedit_lifelong.methods.rome.editor import RomeEditor, apply_rome_to_model
from easyedit_lifelong.methods.rome.search import SEARCH_SPACE

METHODS = (
    weight_method(
        RomeEditor, apply_rome_to_model, "ROME", ["mom2_adjustment"], batchable=False, search_space=SEARCH_SPACE
    ),
)
"""``ROME-native``; the name ``ROME`` belongs to EasyEdit's ROME."""
