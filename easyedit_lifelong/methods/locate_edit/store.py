"""Batches of edits as data: taken off a model, put on one, cut at any batch, and described without a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic

import torch

from easyedit_lifelong.errors import EditError, RunError
from easyedit_lifelong.hparams_files import hparams_values
from easyedit_lifelong.methods.base import InspectedPart, PlainWeights
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.methods.locate_edit.editor import WeightEditor
from easyedit_lifelong.methods.locate_edit.history import AnyBatch
from easyedit_lifelong.methods.locate_edit.update import LayerUpdate
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.models.modules import module_path

_FIELDS = tuple(field.name for field in dataclasses.fields(LayerUpdate))


class BatchStore(Generic[AnyBatch]):
    """Saves and loads the batches of a model's editor; each batch is a step. Takes later batches out.

    It fills the ports ``edits``, ``remove_batches``, ``describe`` and ``plain_weights`` of an
    :class:`~easyedit_lifelong.methods.base.EditMethod`.

    Args:
        editor: the editor's class.

    Attributes:
        settings: the hyperparameters that ``inspect`` shows.
        shown: what it shows of each batch: the heading, and the batch's field, which holds a number for each layer.
    """

    settings: Sequence[str] = ("mom2_update_weight",)
    shown: ClassVar[Mapping[str, str]] = {}

    def __init__(self, editor: type[WeightEditor[AnyBatch]]) -> None:
        self._editor, self._name = editor, editor.hparams_class.ALG_NAME
        fields = [field.name for field in dataclasses.fields(editor.batch_class)]
        self._own = [name for name in fields if name not in ("records", "layers")]

    def parts(self, model: Any) -> list[EditsPart]:
        """Return one part, if the model carries edits of the method."""
        steps = list(self.steps(model, 0)) if self.history(model) else []
        return [self.join(steps, "the model")] if steps else []

    def attach(self, model: Any, tok: Any, part: EditsPart, where: str) -> Callable[[], None]:
        """Put batches on a model that carries none; see :class:`~easyedit_lifelong.methods.edit_stores.EditStore`."""
        hparams = self._editor.hparams_class.from_values(part.hparams, where)
        if self._editor.of(model) is not None:
            raise EditError(f"{where}: the model carries {self._name} edits already; roll those back first")
        batches = self.batches(part, where)
        templates = part.state.get("templates")
        if not _are_templates(templates):
            raise RunError(f"{where}: {self._name}'s edits aren't whole: templates is missing or damaged")
        editor = self._editor.on(model, tok, hparams, templates=templates)
        try:
            return editor.restore(batches)
        except (RuntimeError, KeyError) as error:  # tensors of other shapes, or an EditError
            raise RunError(f"{where}: {self._name}'s edits don't fit this model: {error}") from error

    def history(self, model: Any) -> Sequence[AnyBatch]:
        """Return the batches on a model."""
        editor = self._editor.of(model)
        return [] if editor is None else editor.state.batches

    def steps(self, model: Any, begin: int) -> Iterator[EditsPart]:
        """Yield each batch from number ``begin`` on as a part."""
        editor = self._editor.required(model)
        hparams = hparams_values(editor.hparams, model_label(model))
        for batch in editor.state.batches[begin:]:
            tensors = {f"{path}.{name}": getattr(batch.layers[path], name) for path in batch.layers for name in _FIELDS}
            entry = {"edits": len(batch.records), **{name: getattr(batch, name) for name in self._own}}
            state = {"templates": editor.state.templates, "batches": [entry]}
            yield EditsPart(hparams, [record.to_dict() for record in batch.records], state, tensors)

    def join(self, steps: Sequence[EditsPart], where: str) -> EditsPart:
        """Return consecutive batches as one part.

        Raises:
            RunError: they are of different layers, or a step is incomplete.
        """
        try:
            batches = [batch for step in steps for batch in step.state["batches"]]
            tensors = {name: torch.cat([step.tensors[name] for step in steps], dim=1) for name in steps[0].tensors}
        except (KeyError, TypeError, RuntimeError, IndexError) as error:
            raise RunError(f"{where}: {self._name}'s edits aren't whole: {error}") from error
        edits = [edit for step in steps for edit in step.edits]
        return EditsPart(steps[-1].hparams, edits, {**steps[-1].state, "batches": batches}, tensors)

    def shared_settings(self, hparams: Any) -> dict[str, Any]:
        """Return the settings that all batches of a model must share."""
        return {name: getattr(hparams, name) for name in hparams.SAME_SETTINGS}

    def batches(self, part: EditsPart, where: str) -> list[AnyBatch]:
        """Return a part's batches.

        Raises:
            RunError: the part is incomplete.
        """
        batches: list[AnyBatch] = []
        begin = 0
        paths = list(map(module_path, self._editor.hparams_class.from_values(part.hparams, where).rewrite_modules))
        try:
            for entry in part.state["batches"]:
                end = begin + entry["edits"]
                layers = {
                    path: LayerUpdate(*(part.tensors[f"{path}.{name}"][:, begin:end].clone() for name in _FIELDS))
                    for path in paths
                }
                records = tuple(EditRecord.from_dict(edit, where) for edit in part.edits[begin:end])
                if len(records) != entry["edits"]:
                    raise ValueError(f"batch {len(batches) + 1} lacks a part")
                own = {name: entry[name] for name in self._own}
                batches.append(self._editor.batch_class(records, layers, **own))  # type: ignore[arg-type]
                begin = end
            if begin != len(part.edits) or any(tensor.shape[1] != begin for tensor in part.tensors.values()):
                raise ValueError(f"{begin} edits of {len(part.edits)}")
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise RunError(f"{where}: {self._name}'s edits aren't whole: {error}") from error
        return batches

    def back_to(self, model: Any, batch: int) -> None:
        """Make a model bitwise what it was after so many batches; see :meth:`WeightEditor.back_to`."""
        self._editor.required(model).back_to(batch)

    def first_batches(self, part: EditsPart, batch: int, where: str) -> EditsPart:
        """Return the first batches of a part.

        Raises:
            RunError: the part is incomplete.
            EditError: it does not hold as many.
        """
        sizes = [len(one.records) for one in self.batches(part, where)]
        if not 0 <= batch <= len(sizes):
            raise EditError(f"{where}: there is no going back to batch {batch}: the folder has {len(sizes)} batches")
        end = sum(sizes[:batch])
        tensors = {name: tensor[:, :end].contiguous() for name, tensor in part.tensors.items()}
        state = {**part.state, "batches": part.state["batches"][:batch]}
        return EditsPart(part.hparams, part.edits[:end], state, tensors)

    def describe(self, part: EditsPart, where: str, nearly: float) -> InspectedPart:
        """Return what a part's batches are; see :class:`~easyedit_lifelong.methods.base.EditMethod`."""
        batches = self.batches(part, where)
        edits = [
            {**record.to_dict(), "batch": number}
            for number, batch in enumerate(batches, start=1)
            for record in batch.records
        ]
        return InspectedPart(
            self._name,
            list(batches[-1].layers) if batches else [],
            {name: part.hparams.get(name) for name in self.settings},
            edits,
            batches=[
                {"edits": len(batch.records), **{name: getattr(batch, name) for name in self.shown.values()}}
                for batch in batches
            ],
            columns={"batch": "batch"},
            batch_columns=self.shown,
        )

    def plain_weights(self, model: Any) -> PlainWeights:
        """Return the edited projections' weights with all updates in them; nothing is lost."""
        return PlainWeights(self._editor.required(model).plain_weights())


def batch_reasons(name: str) -> dict[str, str]:
    """Return why a method that edits in batches lacks ports: :attr:`EditMethod.reasons`."""
    return {
        "remove": (
            f"{name}'s edits can't be taken back one by one: each batch was solved for with those before it in place. "
            "Go back to a whole batch instead (rollback_to_batch, --to-batch)."
        ),
        "merge": (
            "every batch was solved for with the weights and keys of those before it, so in another place it would "
            "write something else. Make the edits anew, in one sequence."
        ),
    }


def _are_templates(value: Any) -> bool:
    """Tell whether a value read from a file is groups of context templates."""
    groups = value if isinstance(value, list) else [None]
    return all(
        isinstance(group, list) and all(isinstance(text, str) and text.count("{}") == 1 for text in group)
        for group in groups
    )
