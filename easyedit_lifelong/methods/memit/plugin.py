"""Register the native MEMIT, with the same hook as a third-party plugin."""

from __future__ import annotations

from collections.abc import Callable

from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.locate_edit.check import check_model, check_requests
from easyedit_lifelong.methods.locate_edit.moments import second_moments
from easyedit_lifelong.methods.locate_edit.store import BatchStore, batch_reasons
from easyedit_lifelong.methods.memit.config import NativeMemitHyperParams
from easyedit_lifelong.methods.memit.editor import MemitEditor, apply_memit_to_model


@hookimpl
def register_methods(register: Callable[[EditMethod], None]) -> None:
    """Register ``MEMIT-native``; the name ``MEMIT`` belongs to EasyEdit's MEMIT."""
    store = BatchStore(MemitEditor)
    register(
        EditMethod(
            NativeMemitHyperParams.ALG_NAME,
            NativeMemitHyperParams,
            apply_memit_to_model,
            batchable=True,
            check=check_model,
            check_requests=check_requests,
            prepare=second_moments,
            edits=store,
            remove_batches=store,
            describe=store.describe,
            plain_weights=store.plain_weights,
            reasons=batch_reasons("MEMIT") | {"explain": "its edits are in the weights and act at every token."},
        )
    )
