"""CoachHook and its ports."""

from __future__ import annotations

from easyedit_lifelong.methods.coachhook.apply import apply_coachhook_to_model
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor
from easyedit_lifelong.methods.coachhook.explain import explain
from easyedit_lifelong.methods.coachhook.scope import study_scope
from easyedit_lifelong.methods.coachhook.search import SEARCH_SPACE
from easyedit_lifelong.methods.coachhook.store import CoachHookStore
from easyedit_lifelong.methods.locate_edit.check import check_model, check_requests
from easyedit_lifelong.methods.locate_edit.moments import second_moments
from easyedit_lifelong.methods.weight_updates.batch_method import batch_method

METHODS = (
    batch_method(
        CoachHookEditor,
        apply_coachhook_to_model,
        "CoachHook",
        ("update", "alpha_z", "scope_score", "z_tokens", "wohk"),
        store_class=CoachHookStore,
        check=check_model,
        check_requests=check_requests,
        prepare=second_moments,
        explain=explain,
        search_space=SEARCH_SPACE,
        study_scope=study_scope,
        edits_by_row=True,
    ),
)
