"""Saved edits: write a model's edits to a folder, load, inspect, explain, remove, merge and export them."""

from __future__ import annotations

from easyedit_lifelong.edits.edits_hub import pull_edits, push_edits
from easyedit_lifelong.edits.explain_prompt import explain
from easyedit_lifelong.edits.export import export_model
from easyedit_lifelong.edits.inspect_folder import inspect_edits
from easyedit_lifelong.edits.load import load_edits
from easyedit_lifelong.edits.merge import merge_edits
from easyedit_lifelong.edits.remove import rollback_case, rollback_folder, rollback_to_batch
from easyedit_lifelong.edits.save import save_edits

__all__ = [
    "explain",
    "export_model",
    "inspect_edits",
    "load_edits",
    "merge_edits",
    "pull_edits",
    "push_edits",
    "rollback_case",
    "rollback_folder",
    "rollback_to_batch",
    "save_edits",
]
