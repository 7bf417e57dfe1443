"""GRACE's edits on their way to a file and back: every edit with the rows that it changed, so each can be undone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.hyperparams import hparams_values
from easyedit_lifelong.methods.base import EditsPart, PlainWeights
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.methods.grace.serialized import (
    PackedEdits,
    replay_support,
    stored_edits,
    stored_hits,
    stored_space,
)
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.models.modules import find_module


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
        edits = stored_edits(part, where)
        hits = stored_hits(part, 1 + max((at for _, rows, _ in edits for at, _, _ in rows), default=-1), where)
        space = stored_space(part, hparams, where)
        layer, _ = find_module(model, hparams.inner_params[0])
        if layer in GraceEditor.all_of(model):
            raise EditError(f"{where}: {layer} carries GRACE edits already; roll those back first")
        editor = GraceEditor.on(model, tok, hparams)
        undo = editor.restore(edits, replay_support(part), space)
        if editor.codebook is not None:
            editor.codebook.hits = hits
        return undo

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
    assert editor.codebook is not None
    hparams = hparams_values(editor.hparams, model_label(model))
    edits = PackedEdits(
        hparams, editor.codebook, editor.changes, editor.records, editor.replay_support, editor.space
    )  # fmt: skip
    return edits.part()
