"""What the methods that write batches of updates into weights register: the same ports, for an editor class each."""

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
    **ports: Any,
) -> EditMethod:
    """Return the method of an editor that writes its updates into the weights.

    Args:
        editor_class: the class of the editor, which names its hyperparameter class.
        apply: the apply function of the method.
        label: what messages call the method.
        shown_settings: the hyperparameters that ``inspect`` shows.
        batchable: whether one update can write several requests.
        **ports: further ports of the method, such as ``check``, by name.
    """
    store = BatchStore(editor_class, shown_settings)
    hparams_class = editor_class.hparams_class
    return EditMethod(
        hparams_class.ALG_NAME,
        hparams_class,
        apply,
        batchable=batchable,
        edits=store,
        remove_batches=store,
        describe=store.describe,
        plain_weights=store.plain_weights,
        reasons=batch_reasons(label) | {"explain": "its edits are in the weights and act at every token."},
        **ports,
    )
