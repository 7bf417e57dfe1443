"""CoachHook's edits as data: every batch's updates, taken off a model, put on one, and cut at any batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from easyedit_lifelong.errors import EditError, RunError
from easyedit_lifelong.hparams_files import hparams_values
from easyedit_lifelong.methods.base import EditsPart, OldState, PlainWeights
from easyedit_lifelong.methods.coachhook import old_state
from easyedit_lifelong.methods.coachhook.config import CoachHookHyperParams
from easyedit_lifelong.methods.coachhook.editor import SAME_SETTINGS, CoachHookEditor, coachhook_editor
from easyedit_lifelong.methods.coachhook.state import BatchUpdate, LayerUpdate
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.models.load import model_label

_FIELDS = tuple(field.name for field in dataclasses.fields(LayerUpdate))
_LOST = (
    "CoachHook's hook layers, which decided at every token whether the edits are in scope. In plain weights the "
    "updates act at every token, as with wohk: what no edit is about changes, too, and the more so the more edits "
    "there are (locality falls)."
)


class CoachHookStore:
    """Saves and loads the batches of a model's editor; every batch is a step."""

    old_state_files = old_state.FILES

    def parts(self, model: Any) -> list[EditsPart]:
        """Return one part, if the model carries CoachHook edits."""
        steps = list(self.steps(model, 0)) if self.history(model) else []
        return [self.join(steps, "the model")] if steps else []

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

    def history(self, model: Any) -> Sequence[BatchUpdate]:
        """Return the batches on a model."""
        editor = CoachHookEditor.of(model)
        return [] if editor is None else editor.state.batches

    def steps(self, model: Any, begin: int) -> Iterator[EditsPart]:
        """Yield each batch from number ``begin`` on as a part."""
        editor = coachhook_editor(model)
        hparams = hparams_values(editor.hparams, model_label(model))
        for batch in editor.state.batches[begin:]:
            entry = {
                "edits": len(batch.records),
                "alphas": batch.alphas,
                "ordinary": batch.ordinary,
                "prompts": [list(prompt) for prompt in batch.prompts],
            }
            tensors = {
                f"{path}.{name}": getattr(batch.layers[path], name) for path in editor.state.paths for name in _FIELDS
            }
            state = {"templates": editor.state.templates, "batches": [entry]}
            yield EditsPart(hparams, [record.to_dict() for record in batch.records], state, tensors)

    def join(self, steps: Sequence[EditsPart], where: str) -> EditsPart:
        """Return consecutive batches as one part.

        Raises:
            RunError: they are of different layers, or a step isn't whole.
        """
        try:
            batches = [batch for step in steps for batch in step.state["batches"]]
            tensors = {name: torch.cat([step.tensors[name] for step in steps], dim=1) for name in steps[0].tensors}
        except (KeyError, TypeError, RuntimeError, IndexError) as error:
            raise RunError(f"{where}: CoachHook's edits aren't whole: {error}") from error
        edits = [edit for step in steps for edit in step.edits]
        return EditsPart(steps[-1].hparams, edits, {**steps[-1].state, "batches": batches}, tensors)

    def shared_settings(self, hparams: CoachHookHyperParams) -> dict[str, Any]:
        """Return the settings that all batches of a model must share."""
        return {name: getattr(hparams, name) for name in SAME_SETTINGS}

    def read_old_state(
        self, folder: Path, case_ids: Sequence[int | str] | None = None, *, tensors: bool = True
    ) -> OldState | None:
        """Return the batches of a state folder that version 0.1 wrote; None if it isn't one of CoachHook's."""
        return old_state.read_old_state(folder, case_ids, tensors=tensors)


class CoachHookRemoval:
    """Takes later batches out; single edits can't be."""

    def back_to(self, model: Any, batch: int) -> None:
        """Make a model bitwise what it was after so many batches; see :meth:`CoachHookEditor.back_to`."""
        coachhook_editor(model).back_to(batch)

    def first_batches(self, part: EditsPart, batch: int, where: str) -> EditsPart:
        """Return the first batches of a part.

        Raises:
            RunError: the part isn't whole.
            EditError: it hasn't as many.
        """
        sizes = [len(one.records) for one in stored_batches(part, where)]
        if not 0 <= batch <= len(sizes):
            raise EditError(f"{where}: there is no going back to batch {batch}: the folder has {len(sizes)} batches")
        end = sum(sizes[:batch])
        tensors = {name: tensor[:, :end].contiguous() for name, tensor in part.tensors.items()}
        state = {**part.state, "batches": part.state["batches"][:batch]}
        return EditsPart(part.hparams, part.edits[:end], state, tensors)


def plain_weights(model: Any) -> PlainWeights:
    """Return W + ΔW of the edited projections; nothing where ``wohk`` has put them into the weights already."""
    editor = coachhook_editor(model)
    return PlainWeights() if editor.hparams.wohk else PlainWeights(editor.plain_weights(), _LOST)


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
