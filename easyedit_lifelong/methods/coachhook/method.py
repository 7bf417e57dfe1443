"""CoachHook and its ports."""

from __future__ import annotations

from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.coachhook.apply import apply_coachhook_to_model
from easyedit_lifelong.methods.coachhook.config import CoachHookHyperParams
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor
from easyedit_lifelong.methods.coachhook.explain import explain
from easyedit_lifelong.methods.coachhook.scope import study_scope
from easyedit_lifelong.methods.coachhook.search import SEARCH_SPACE
from easyedit_lifelong.methods.coachhook.store import CoachHookStore
from easyedit_lifelong.methods.locate_edit.check import check_model, check_requests
from easyedit_lifelong.methods.locate_edit.moments import second_moments
from easyedit_lifelong.methods.weight_updates.store import batch_reasons

_STORE = CoachHookStore(CoachHookEditor, ("update", "alpha_z", "scope_score", "z_tokens", "wohk"))

METHODS = (
    EditMethod(
        "CoachHook",
        CoachHookHyperParams,
        apply_coachhook_to_model,
        batchable=True,
        check=check_model,
        check_requests=check_requests,
        prepare=second_moments,
        edits=_STORE,
        remove_batches=_STORE,
        explain=explain,
        describe=_STORE.describe,
        plain_weights=_STORE.plain_weights,
        search_space=SEARCH_SPACE,
        study_scope=study_scope,
        edits_by_row=True,
        reasons=batch_reasons("CoachHook"),
    ),
)
