"""GRACE's edits on their way to a file and back: every edit with the rows that it changed, so each can be undone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from easyedit_lifelong.errors import EditError, RunError
from easyedit_lifelong.hyperparams import hparams_values
from easyedit_lifelong.methods.grace.codebook import Row
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.methods.record import EditRecord
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.registry import EditsPart, PlainWeights

_TENSORS = ("keys", "values", "radii")


class GracePorter:
    """Packs and unpacks the edits of each layer's codebook."""

    def parts(self, model: Any) -> list[EditsPart]:
        """Return one part for each edited layer."""
        return [_part(model, editor) for editor in GraceEditor.all_of(model).values() if editor.changes]

    def attach(self, model: Any, tok: Any, part: EditsPart, where: str) -> Callable[[], None]:
        """Put a layer's edits on a model that carries none on that layer.

        Raises:
            RunError: the part isn't whole.
            ModelError: the model has no such layer, or one of another width.
            EditError: the layer carries GRACE edits already.
        """
        hparams = GraceHyperParams.from_values(part.hparams, where)
        edits = _edits(part, where)
        layer, _ = find_module(model, hparams.inner_params[0])
        if layer in GraceEditor.all_of(model):
            raise EditError(f"{where}: {layer} carries GRACE edits already; roll those back first")
        found_out = part.state.get("in_part"), part.state.get("checked_length", 0)
        return GraceEditor.on(model, tok, hparams).restore(edits, found_out)

    def plain_weights(self, model: Any) -> PlainWeights:
        """Refuse: no weights do what a codebook does.

        Raises:
            EditError: always.
        """
        raise EditError(
            "GRACE's edits can't be put into plain weights: its codebook looks at how far a prompt is from each edited "
            "one, and acts only within a radius; no weight matrix can decide that. Keep these edits apart and put "
            "them on the model with load_edits, or edit with CoachHook, whose updates are weights."
        )


def _part(model: Any, editor: GraceEditor) -> EditsPart:
    history = _history(editor)
    rows = [row for changed in history for row in changed]
    in_part, checked_length = editor.found_out
    state = {
        "changed": [
            {"keys": [at for at, _, _ in changed], "labels": [list(label) for _, label, _ in changed]}
            for changed in history
        ],
        "in_part": in_part,
        "checked_length": checked_length,
    }
    tensors = {name: torch.stack([row[n] for _, _, row in rows]) for n, name in enumerate(_TENSORS)}
    records = [record.to_dict() for record in editor.records]
    return EditsPart(hparams_values(editor.hparams, model_label(model)), records, state, tensors)


def _history(editor: GraceEditor) -> list[list[Row]]:
    """Return the rows that each edit changed, as they were right after it: the codebook, walked back."""
    codebook = editor.codebook
    assert codebook is not None
    rows = [codebook.row(at) for at in range(len(codebook))]
    history: list[list[Row]] = []
    for change in reversed(editor.changes):
        touched = [] if change.index is None else [rows[change.index]]
        history.append(touched + rows[change.length :])
        del rows[change.length :]
        if change.index is not None:
            rows[change.index] = (change.index, change.label, change.row)
    return history[::-1]


def _edits(part: EditsPart, where: str) -> list[tuple[EditRecord, list[Row]]]:
    """Return each edit's record and rows."""
    try:
        keys, values, radii = (part.tensors[name] for name in _TENSORS)
        changed = part.state["changed"]
        taken, edits, length = 0, [], 0
        for record, change in zip(part.edits, changed, strict=True):
            rows: list[Row] = []
            for at, label in zip(change["keys"], change["labels"], strict=True):
                if not 0 <= at <= length:
                    raise IndexError(f"key {at} of {length}")
                length = max(length, at + 1)
                rows.append((at, tuple(label), (keys[taken], values[taken], radii[taken])))
                taken += 1
            edits.append((EditRecord.from_dict(record, where), rows))
        if not taken == len(keys) == len(values) == len(radii):
            raise IndexError(f"{taken} rows of {len(keys)}, {len(values)} and {len(radii)}")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise RunError(f"{where}: GRACE's edits aren't whole: {error}") from error
    return edits
