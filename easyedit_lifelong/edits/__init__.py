"""Edits in a folder of their own, apart from the model: save, load, look into, take back and merge them."""

from __future__ import annotations

from easyedit_lifelong.edits.explained import Explanation
from easyedit_lifelong.edits.explanation import explain
from easyedit_lifelong.edits.export import export_model
from easyedit_lifelong.edits.hub import pull_edits, push_edits
from easyedit_lifelong.edits.inspection import Inspection, inspect_edits
from easyedit_lifelong.edits.load import load_edits
from easyedit_lifelong.edits.merge import MergeReport, merge_edits
from easyedit_lifelong.edits.save import save_edits
from easyedit_lifelong.edits.undo import FolderRollback, rollback_case, rollback_folder, rollback_to_batch

__all__ = [
    "Explanation", "FolderRollback", "Inspection", "MergeReport", "explain", "export_model", "inspect_edits",
    "load_edits", "merge_edits", "pull_edits", "push_edits", "rollback_case", "rollback_folder", "rollback_to_batch",
    "save_edits",
]  # fmt: skip
