"""Lifelong model editing as a plugin to EasyEdit: GRACE, CoachHook, and the loops to trust them by.

Importing this package makes ``import easyeditor`` work on today's Python and registers the plugin's
methods with EasyEdit as soon as EasyEdit is imported. Nothing else happens at import; public names
load when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from easyedit_lifelong import bridge
from easyedit_lifelong.errors import LifelongError
from easyedit_lifelong.versions import __version__ as __version__

_LAZY = {
    "GraceHyperParams": "easyedit_lifelong.methods.grace.config",
    "apply_grace_to_model": "easyedit_lifelong.methods.grace.apply",
    "apply_grace_to_module": "easyedit_lifelong.methods.grace.apply",
    "CoachHookHyperParams": "easyedit_lifelong.methods.coachhook.config",
    "apply_coachhook_to_model": "easyedit_lifelong.methods.coachhook.apply",
    "NativeMemitHyperParams": "easyedit_lifelong.methods.memit.config",
    "apply_memit_to_model": "easyedit_lifelong.methods.memit.editor",
    "SecondMoment": "easyedit_lifelong.covariance",
    "collect_covariance": "easyedit_lifelong.covariance",
    "PluginHyperParams": "easyedit_lifelong.hyperparams",
    "EditMethod": "easyedit_lifelong.methods.base",
    "ReportPlot": "easyedit_lifelong.methods.report_sections",
    "ReportSection": "easyedit_lifelong.methods.report_sections",
    "RunRecord": "easyedit_lifelong.methods.report_sections",
    "Series": "easyedit_lifelong.methods.report_sections",
    "DatasetReader": "easyedit_lifelong.registry",
    "TrackerType": "easyedit_lifelong.registry",
    "EditRequest": "easyedit_lifelong.data.request",
    "Probe": "easyedit_lifelong.data.request",
    "read_requests": "easyedit_lifelong.data.readers",
    "load_model": "easyedit_lifelong.models.load",
    "save_edits": "easyedit_lifelong.edits",
    "load_edits": "easyedit_lifelong.edits",
    "export_model": "easyedit_lifelong.edits",
    "push_edits": "easyedit_lifelong.edits",
    "pull_edits": "easyedit_lifelong.edits",
    "explain": "easyedit_lifelong.edits",
    "inspect_edits": "easyedit_lifelong.edits",
    "merge_edits": "easyedit_lifelong.edits",
    "rollback_case": "easyedit_lifelong.edits",
    "rollback_folder": "easyedit_lifelong.edits",
    "rollback_to_batch": "easyedit_lifelong.edits",
    "run_lifelong": "easyedit_lifelong.runs.api",
    "run_consecutive": "easyedit_lifelong.runs.api",
    "prompt_lengths": "easyedit_lifelong.models.positions",
    "PositionTracker": "easyedit_lifelong.models.positions",
    "Rollback": "easyedit_lifelong.methods.shared.rollback",
    "EditResult": "easyedit_lifelong.methods.shared.results",
    "EditError": "easyedit_lifelong.errors",
    "get_plugins": "easyedit_lifelong.plugins",
    "hookimpl": "easyedit_lifelong.hookspecs",
}

if TYPE_CHECKING:
    from easyedit_lifelong.covariance import SecondMoment, collect_covariance
    from easyedit_lifelong.data.readers import read_requests
    from easyedit_lifelong.data.request import EditRequest, Probe
    from easyedit_lifelong.edits import (
        explain,
        export_model,
        inspect_edits,
        load_edits,
        merge_edits,
        pull_edits,
        push_edits,
        rollback_case,
        rollback_folder,
        rollback_to_batch,
        save_edits,
    )
    from easyedit_lifelong.errors import EditError
    from easyedit_lifelong.hookspecs import hookimpl
    from easyedit_lifelong.hyperparams import PluginHyperParams
    from easyedit_lifelong.methods.base import EditMethod
    from easyedit_lifelong.methods.coachhook.apply import apply_coachhook_to_model
    from easyedit_lifelong.methods.coachhook.config import CoachHookHyperParams
    from easyedit_lifelong.methods.grace.apply import apply_grace_to_model, apply_grace_to_module
    from easyedit_lifelong.methods.grace.config import GraceHyperParams
    from easyedit_lifelong.methods.memit.config import NativeMemitHyperParams
    from easyedit_lifelong.methods.memit.editor import apply_memit_to_model
    from easyedit_lifelong.methods.report_sections import ReportPlot, ReportSection, RunRecord, Series
    from easyedit_lifelong.methods.shared.results import EditResult
    from easyedit_lifelong.methods.shared.rollback import Rollback
    from easyedit_lifelong.models.load import load_model
    from easyedit_lifelong.models.positions import PositionTracker, prompt_lengths
    from easyedit_lifelong.plugins import get_plugins
    from easyedit_lifelong.registry import DatasetReader, TrackerType
    from easyedit_lifelong.runs.api import run_consecutive, run_lifelong

__all__ = [
    "CoachHookHyperParams", "DatasetReader", "EditError", "EditMethod", "EditRequest", "EditResult", "GraceHyperParams",
    "LifelongError", "NativeMemitHyperParams",
    "PluginHyperParams", "PositionTracker", "Probe", "ReportPlot", "ReportSection", "Rollback",
    "RunRecord", "SecondMoment", "Series", "TrackerType",
    "apply_coachhook_to_model", "apply_grace_to_model", "apply_grace_to_module", "apply_memit_to_model",
    "collect_covariance", "explain",
    "export_model", "get_plugins", "hookimpl", "inspect_edits", "load_edits", "load_model", "merge_edits",
    "prompt_lengths", "pull_edits", "push_edits", "read_requests", "rollback_case", "rollback_folder",
    "rollback_to_batch", "run_consecutive", "run_lifelong", "save_edits",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load a public name at its first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *_LAZY})


bridge.install()
