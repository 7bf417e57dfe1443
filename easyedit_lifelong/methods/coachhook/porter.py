"""CoachHook's edits on their way to a file and back: every batch's updates, so each can be undone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from easyedit_lifelong.errors import EditError, RunError
from easyedit_lifelong.hyperparams import hparams_values
from easyedit_lifelong.methods.base import EditsPart, PlainWeights
from easyedit_lifelong.methods.coachhook.config import CoachHookHyperParams
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor, coachhook_editor
from easyedit_lifelong.methods.coachhook.state import BatchUpdate, LayerUpdate
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.models.load import model_label

_FIELDS = tuple(field.name for field in dataclasses.fields(LayerUpdate))
_LOST = (
    "CoachHook's hook layers, which decided at every token whether the edits are in scope. In plain weights the "
    "updates act at every token, as with wohk: what no edit is about changes, too, and the more so the more edits "
    "there are (locality falls)."
)


class CoachHookPorter:
    """Packs and unpacks the batches of a model's editor."""

    def parts(self, model: Any) -> list[EditsPart]:
        """Return one part, if the model carries CoachHook edits."""
        editor = CoachHookEditor.of(model)
        return [_part(model, editor)] if editor is not None and editor.state.batches else []

    def attach(self, model: Any, tok: Any, part: EditsPart, where: str) -> Callable[[], None]:
        """Put batches on a model that carries none.

        Raises:
            RunError: the part isn't whole.
            ModelError: the model lacks a layer.
            EditError: the model carries CoachHook edits already.
        """
        hparams = CoachHookHyperParams.from_values(part.hparams, where)
        if CoachHookEditor.of(model) is not None:
            raise EditError(f"{where}: the model carries CoachHook edits already; roll those back first")
        batches = stored_batches(part, where)
        templates = part.state.get("templates")
        if not isinstance(templates, list):
            raise RunError(f"{where}: CoachHook's edits aren't whole: templates is missing")
        editor = CoachHookEditor.on(model, tok, hparams, templates=templates)
        try:
            return editor.restore(batches)
        except (RuntimeError, KeyError) as error:  # tensors of other shapes, or an EditError
            raise RunError(f"{where}: CoachHook's edits don't fit this model: {error}") from error

    def plain_weights(self, model: Any) -> PlainWeights:
        """Return W + ΔW of the edited projections; nothing where ``wohk`` has put them into the weights already."""
        editor = coachhook_editor(model)
        return PlainWeights({} if editor.hparams.wohk else editor.plain_weights(), "" if editor.hparams.wohk else _LOST)


def _part(model: Any, editor: CoachHookEditor) -> EditsPart:
    batches = editor.state.batches
    state = {
        "templates": editor.state.templates,
        "batches": [
            {
                "edits": len(batch.records),
                "alphas": batch.alphas,
                "ordinary": batch.ordinary,
                "prompts": [list(prompt) for prompt in batch.prompts],
            }
            for batch in batches
        ],
    }
    tensors = {
        f"{path}.{name}": torch.cat([getattr(batch.layers[path], name) for batch in batches], dim=1)
        for path in editor.state.paths
        for name in _FIELDS
    }
    records = [record.to_dict() for batch in batches for record in batch.records]
    return EditsPart(hparams_values(editor.hparams, model_label(model)), records, state, tensors)


def first_batches(part: EditsPart, count: int, where: str) -> EditsPart:
    """Return the first ``count`` batches of a part.

    Raises:
        RunError: the part isn't whole.
        EditError: it hasn't as many.
    """
    sizes = [len(batch.records) for batch in stored_batches(part, where)]
    if not 0 <= count <= len(sizes):
        raise EditError(f"{where}: there is no going back to batch {count}: the folder has {len(sizes)} batches")
    end = sum(sizes[:count])
    tensors = {name: tensor[:, :end].contiguous() for name, tensor in part.tensors.items()}
    state = {**part.state, "batches": part.state["batches"][:count]}
    return EditsPart(part.hparams, part.edits[:end], state, tensors)


def stored_batches(part: EditsPart, where: str) -> list[BatchUpdate]:
    """Return a part's batches.

    Raises:
        RunError: the part isn't whole.
    """
    batches: list[BatchUpdate] = []
    begin = 0
    try:
        for entry in part.state["batches"]:
            end = begin + entry["edits"]
            layers = {
                path: LayerUpdate(*(part.tensors[f"{path}.{name}"][:, begin:end].clone() for name in _FIELDS))
                for path in entry["alphas"]
            }
            records = tuple(EditRecord.from_dict(edit, where) for edit in part.edits[begin:end])
            prompts = tuple(tuple(prompt) for prompt in entry["prompts"])
            if len(records) != entry["edits"]:
                raise ValueError(f"batch {len(batches) + 1} lacks a part")
            batches.append(BatchUpdate(records, layers, entry["alphas"], entry["ordinary"], prompts))
            begin = end
        if begin != len(part.edits) or any(tensor.shape[1] != begin for tensor in part.tensors.values()):
            raise ValueError(f"{begin} edits of {len(part.edits)}")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise RunError(f"{where}: CoachHook's edits aren't whole: {error}") from error
    return batches
