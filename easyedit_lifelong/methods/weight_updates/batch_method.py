"""What the methods that edit in batches register: the same ports, for an editor class each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.weight_updates.batch_editor import BatchEditor
from easyedit_lifelong.methods.weight_updates.store import BatchStore, batch_reasons


def batch_method(
    editor_class: type[BatchEditor[Any]],
    apply: Callable[..., Any],
    label: str,
    shown_settings: Sequence[str],
    batchable: bool = True,
    store_class: type[BatchStore[Any]] = BatchStore,
    **ports: Any,
) -> EditMethod:
    """Return the method of an editor whose edits are batches of updates.

    Args:
        editor_class: the class of the editor, which names its hyperparameter class.
        apply: the apply function of the method.
        label: what messages call the method.
        shown_settings: the hyperparameters that ``inspect`` shows.
        batchable: whether one update can write several requests.
        store_class: the class of the store.
        **ports: further ports of the method, such as ``check``, by name. A method whose edits don't act at every token
            has ``explain``.
    """
    store = store_class(editor_class, shown_settings)
    hparams_class = editor_class.hparams_class
    reasons = batch_reasons(label)
    if "explain" not in ports:
        reasons["explain"] = "its edits are in the weights and act at every token."
    return EditMethod(
        hparams_class.ALG_NAME,
        hparams_class,
        apply,
        batchable=batchable,
        edits=store,
        remove_batches=store,
        describe=store.describe,
        plain_weights=store.plain_weights,
        reasons=reasons,
        **ports,
    )
