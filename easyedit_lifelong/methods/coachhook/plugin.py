"""CoachHook, registered through the hook that any plugin uses."""

from __future__ import annotations

from collections.abc import Callable

from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.coachhook.apply import apply_coachhook_to_model
from easyedit_lifelong.methods.coachhook.config import CoachHookHyperParams
from easyedit_lifelong.methods.coachhook.porter import CoachHookPorter
from easyedit_lifelong.methods.coachhook.store import CoachHookKeeper
from easyedit_lifelong.methods.locate_edit.check import check_model, check_requests
from easyedit_lifelong.methods.locate_edit.moments import second_moments


@hookimpl
def register_methods(register: Callable[[EditMethod], None]) -> None:
    """Register CoachHook."""
    method = EditMethod(
        "CoachHook", CoachHookHyperParams, apply_coachhook_to_model, batchable=True,
        check=check_model, check_requests=check_requests, prepare=second_moments, state=CoachHookKeeper(),
        edits=CoachHookPorter(),
    )  # fmt: skip
    register(method)
