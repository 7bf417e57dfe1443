"""Saved edits: write a model's edits to a folder, load, inspect, explain, remove, merge and export them.

The functions are imported when they are first used: a command that reads a folder doesn't import what edits a model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from easyedit_lifelong.lazy_names import lazy_names

_LAZY = {
    "pull_edits": "easyedit_lifelong.edits.edits_hub",
    "push_edits": "easyedit_lifelong.edits.edits_hub",
    "explain": "easyedit_lifelong.edits.explain_prompt",
    "export_model": "easyedit_lifelong.edits.export",
    "inspect_edits": "easyedit_lifelong.edits.inspect_folder",
    "load_edits": "easyedit_lifelong.edits.load",
    "merge_edits": "easyedit_lifelong.edits.merge",
    "rollback_case": "easyedit_lifelong.edits.remove",
    "rollback_folder": "easyedit_lifelong.edits.remove",
    "rollback_to_batch": "easyedit_lifelong.edits.remove",
    "save_edits": "easyedit_lifelong.edits.save",
}

if TYPE_CHECKING:
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

__getattr__, __dir__ = lazy_names(__name__, _LAZY)
