"""NeuralDB and its ports."""

from __future__ import annotations

from typing import Any

from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.locate_edit.check import check_model, check_requests
from easyedit_lifelong.methods.neuraldb.config import NeuralDBHyperParams
from easyedit_lifelong.methods.neuraldb.editor import NeuralDBEditor
from easyedit_lifelong.methods.neuraldb.explain import explain
from easyedit_lifelong.methods.neuraldb.make_edits import apply_neuraldb_to_model
from easyedit_lifelong.methods.neuraldb.merge import merge
from easyedit_lifelong.methods.neuraldb.search import SEARCH_SPACE
from easyedit_lifelong.methods.neuraldb.store import NeuralDBStore

_NO_WEIGHTS = (
    "NeuralDB's edits can't be put into plain weights: its gate compares each token with every key and adds a residual "
    "only above a threshold. No weight matrix can do that. Save these edits and put them on the model with load_edits, "
    "or edit with MEMIT-native, whose updates are weights."
)


def count_keys(model: Any) -> dict[str, float]:
    """Return the number of edits that can answer: those that no later edit replaces."""
    return {"n_keys": sum(len(editor.table.edits) for editor in NeuralDBEditor.all_on(model))}


_STORE = NeuralDBStore()

METHODS = (
    EditMethod(
        "NeuralDB",
        NeuralDBHyperParams,
        apply_neuraldb_to_model,
        batchable=True,
        check=check_model,
        check_requests=check_requests,
        edits=_STORE,
        counts=count_keys,
        remove=_STORE,
        explain=explain,
        describe=_STORE.describe,
        merge=merge,
        search_space=SEARCH_SPACE,
        edits_by_row=True,
        reasons={"plain_weights": _NO_WEIGHTS, "remove_batches": "NeuralDB's edits are rolled back case by case"},
    ),
)
