"""Edits in a folder of their own, apart from the model: save them, and load them onto the same model."""

from __future__ import annotations

from easyedit_lifelong.edits.export import export_model
from easyedit_lifelong.edits.hub import pull_edits, push_edits
from easyedit_lifelong.edits.load import load_edits
from easyedit_lifelong.edits.save import save_edits

__all__ = ["export_model", "load_edits", "pull_edits", "push_edits", "save_edits"]
