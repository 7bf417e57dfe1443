"""Edits in a folder of their own, apart from the model: save them, and load them onto the same model."""

from __future__ import annotations

from easyedit_lifelong.edits.load import load_edits
from easyedit_lifelong.edits.save import save_edits

__all__ = ["load_edits", "save_edits"]
