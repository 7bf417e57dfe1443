"""AlphaEdit and its ports."""

from __future__ import annotations

from easyedit_lifelong.methods.alphaedit.config import AlphaEditHyperParams
from easyedit_lifelong.methods.alphaedit.editor import AlphaEditEditor, apply_alphaedit_to_model
from easyedit_lifelong.methods.alphaedit.search import SEARCH_SPACE
from easyedit_lifelong.methods.locate_edit.weight_method import weight_method

_SHOWN_SETTINGS = (*AlphaEditHyperParams.NULL_SPACE_SETTINGS, *AlphaEditHyperParams.TARGET_SETTINGS)

METHODS = (
    weight_method(AlphaEditEditor, apply_alphaedit_to_model, "AlphaEdit", _SHOWN_SETTINGS, search_space=SEARCH_SPACE),
)
