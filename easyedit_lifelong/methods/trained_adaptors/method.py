"""Defer and Memory network, and their ports."""

from __future__ import annotations

import functools
from typing import Any

from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.trained_adaptors.config import AdaptorHyperParams
from easyedit_lifelong.methods.trained_adaptors.editor import EDITORS, AdaptorEditor, apply_adaptor_to_model
from easyedit_lifelong.methods.trained_adaptors.explain import explain
from easyedit_lifelong.methods.weight_updates.check import check_block_projections, check_encodable
from easyedit_lifelong.methods.weight_updates.store import BatchStore, batch_reasons

_SHOWN_SETTINGS = {"Defer-native": ("edit_lr", "n_iter", "threshold"), "Memory": ("edit_lr", "n_iter", "nkeys")}
"""The hyperparameters that ``inspect`` shows, by method."""


def check_model(model: Any, tokenizer: Any, hparams: AdaptorHyperParams) -> None:
    """Check that the model is a causal language model with the projection that the hyperparameters name.

    Raises:
        ModelError: it is not.
    """
    check_block_projections(model, hparams, "inner_params")


def _method(editor_class: type[AdaptorEditor]) -> EditMethod:
    """Return the method of an editor class."""
    name = editor_class.hparams_class.ALG_NAME
    store = BatchStore(editor_class, _SHOWN_SETTINGS[name])
    no_weights = (
        f"{name}'s edits can't be put into plain weights: what replaces the output of the layer depends on the last "
        "token of the prompt. Save these edits and put them on the model with load_edits."
    )
    return EditMethod(
        name,
        editor_class.hparams_class,
        apply_adaptor_to_model,
        batchable=True,
        check=check_model,
        check_requests=check_encodable,
        edits=store,
        remove_batches=store,
        describe=store.describe,
        explain=functools.partial(explain, editor_class),
        edits_by_row=True,
        reasons=batch_reasons(name) | {"plain_weights": no_weights},
    )


METHODS = tuple(_method(editor_class) for editor_class in EDITORS)
"""``Defer-native`` and ``Memory``."""
