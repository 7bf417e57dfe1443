"""The edit store of methods that edit in batches: save and load batches, roll back to a batch, describe batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic

import torch
from torch import Tensor

from easyedit_lifelong.errors import EditError, RunError
from easyedit_lifelong.hparams_files import hparams_values
from easyedit_lifelong.methods.base import PlainWeights
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.methods.inspection import InspectedPart
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.methods.weight_updates.batch_editor import BatchEditor
from easyedit_lifelong.methods.weight_updates.history import AnyBatch
from easyedit_lifelong.methods.weight_updates.layer_update import WeightUpdate
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.models.modules import module_path
from easyedit_lifelong.plurals import counted


class BatchStore(Generic[AnyBatch]):
    """Saves and loads the batches of an editor, and rolls back later batches. Each batch is a step.

    It implements the ports ``edits``, ``remove_batches``, ``describe`` and ``plain_weights`` of an
    :class:`~easyedit_lifelong.methods.base.EditMethod`.

    Args:
        editor_class: the class of the editor.
        shown_settings: the hyperparameters that ``inspect`` shows.

    Attributes:
        shown_columns: the columns that ``inspect`` shows of each batch: heading to name of the batch's field, which
            has a number for each layer.
    """

    shown_columns: ClassVar[Mapping[str, str]] = {}

    def __init__(self, editor_class: type[BatchEditor[AnyBatch]], shown_settings: Sequence[str]) -> None:
        self._shown_settings = shown_settings
        self._editor_class, self._name = editor_class, editor_class.hparams_class.ALG_NAME
        self._update_class = editor_class.batch_class.update_class
        # In a part, the names of tensors are PATH.FIELD, with the columns of all batches side by side.
        self._tensor_names = tuple(field.name for field in dataclasses.fields(self._update_class))
        fields = dataclasses.fields(editor_class.batch_class)
        self._tensor_fields = editor_class.batch_class.tensor_fields
        not_extra = {"records", "layers", *self._tensor_fields}
        self._extra_fields = [field for field in fields if field.name not in not_extra]

    def parts(self, model: Any) -> list[EditsPart]:
        """Return the edits of a model as one part; an empty list if it has no edits of this method."""
        steps = list(self.steps(model, 0)) if self.history(model) else []
        return [self.join(steps, "the model")] if steps else []

    def attach(self, model: Any, tok: Any, part: EditsPart, where: str) -> Callable[[], None]:
        """Apply saved batches to a model; see :class:`~easyedit_lifelong.methods.edit_stores.EditStore`."""
        hparams = self._editor_class.hparams_class.from_values(part.hparams, where)
        if self._editor_class.of(model) is not None:
            raise EditError(f"{where}: the model carries {self._name} edits already; roll those back first")
        batches = self.batches(part, where)
        parts: dict[str, Any] = {}
        if self._editor_class.has_templates:
            parts["templates"] = part.state.get("templates")
            if not _are_templates(parts["templates"]):
                raise RunError(
                    f"{where}: {self._name}'s edits are incomplete or damaged: templates is missing or damaged"
                )
        editor = self._editor_class.on(model, tok, hparams, **parts)
        try:
            return editor.load_batches(batches)
        except (RuntimeError, KeyError) as error:  # tensors of other shapes; an EditError is a RuntimeError
            raise RunError(f"{where}: {self._name}'s edits don't fit this model: {error}") from error

    def history(self, model: Any) -> Sequence[AnyBatch]:
        """Return the batches that have edited a model."""
        editor = self._editor_class.of(model)
        return [] if editor is None else editor.state.batches

    def steps(self, model: Any, begin: int) -> Iterator[EditsPart]:
        """Yield each batch as a part, from number ``begin`` (counted from 0) on."""
        editor = self._editor_class.require(model)
        hparams = hparams_values(editor.hparams, model_label(model))
        for batch in editor.state.batches[begin:]:
            tensors = {
                f"{path}.{name}": getattr(update, name)
                for path, update in batch.layers.items()
                for name in self._tensor_names
            }
            fields = {name: getattr(batch, name) for name in self._tensor_fields}
            tensors.update({name: tensor for name, tensor in fields.items() if tensor is not None})
            entry = {"edits": len(batch.records), **self._extra_values(batch)}
            columns = {
                name: tensor.shape[1] for name, tensor in tensors.items() if tensor.shape[1] != len(batch.records)
            }
            if columns:
                entry["columns"] = columns
            state: dict[str, Any] = {"templates": editor.state.templates} if editor.has_templates else {}
            state["batches"] = [entry]
            yield EditsPart(hparams, [record.to_dict() for record in batch.records], state, tensors)

    def join(self, steps: Sequence[EditsPart], where: str) -> EditsPart:
        """Return consecutive batches as one part.

        Raises:
            RunError: the batches are for different layers, or a step is incomplete.
        """
        try:
            batches = [batch for step in steps for batch in step.state["batches"]]
            tensors = {name: torch.cat([step.tensors[name] for step in steps], dim=1) for name in steps[0].tensors}
        except (KeyError, TypeError, RuntimeError, IndexError) as error:
            raise RunError(f"{where}: {self._name}'s edits are incomplete or damaged: {error}") from error
        edits = [edit for step in steps for edit in step.edits]
        return EditsPart(steps[-1].hparams, edits, {**steps[-1].state, "batches": batches}, tensors)

    def shared_settings(self, hparams: Any) -> dict[str, Any]:
        """Return the hyperparameters, by name, that all batches on a model must share."""
        return {name: getattr(hparams, name) for name in hparams.SAME_SETTINGS}

    def batches(self, part: EditsPart, where: str) -> list[AnyBatch]:
        """Return the batches of a part.

        Raises:
            RunError: the part is incomplete.
        """
        batches: list[AnyBatch] = []
        begin = 0
        columns = _Columns(part.tensors)
        hparams = self._editor_class.hparams_class.from_values(part.hparams, where)
        paths = [module_path(name) for name in hparams.rewrite_modules]
        try:
            for entry in part.state["batches"]:
                end = begin + entry["edits"]
                tensors = columns.next_batch(entry)
                layers = {path: self._update(path, tensors) for path in paths}
                records = tuple(EditRecord.from_dict(edit, where) for edit in part.edits[begin:end])
                if len(records) != entry["edits"]:
                    raise ValueError(f"batch {len(batches) + 1} has {len(records)} of {entry['edits']} edits")
                names = [field.name for field in self._extra_fields if field.name in entry or not _has_default(field)]
                extra = {name: entry[name] for name in names}
                extra.update({name: tensors[name] for name in self._tensor_fields if name in tensors})
                batches.append(self._editor_class.batch_class(records, layers, **extra))  # type: ignore[arg-type]
                begin = end
            if begin != len(part.edits) or not columns.at_end:
                raise ValueError(f"the batches list {counted(begin, 'edit')}, but the part has {len(part.edits)}")
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise RunError(f"{where}: {self._name}'s edits are incomplete or damaged: {error}") from error
        return batches

    def _extra_values(self, batch: AnyBatch) -> dict[str, Any]:
        """Return the values of the fields that a batch class adds, without those that have their default value."""
        return {
            field.name: getattr(batch, field.name)
            for field in self._extra_fields
            if not _has_default(field) or getattr(batch, field.name) != _default(field)
        }

    def _update(self, path: str, tensors: Mapping[str, Tensor]) -> WeightUpdate:
        """Return the update of a layer, from the tensors of a batch."""
        return self._update_class(**{name: tensors[f"{path}.{name}"] for name in self._tensor_names})

    def back_to(self, model: Any, batch: int) -> None:
        """Roll back all batches of a model after the first ``batch``; see :meth:`BatchEditor.back_to`."""
        self._editor_class.require(model).back_to(batch)

    def first_batches(self, part: EditsPart, batch: int, where: str) -> EditsPart:
        """Return a part with its first ``batch`` batches.

        Raises:
            RunError: the part is incomplete.
            EditError: the part has fewer batches.
        """
        sizes = [len(saved.records) for saved in self.batches(part, where)]
        if not 0 <= batch <= len(sizes):
            raise EditError(
                f"{where}: can't roll back to batch {batch}: the folder has {counted(len(sizes), 'batch', 'batches')}"
            )
        columns = _Columns(part.tensors)
        for entry in part.state["batches"][:batch]:
            columns.next_batch(entry)
        state = {**part.state, "batches": part.state["batches"][:batch]}
        return EditsPart(part.hparams, part.edits[: sum(sizes[:batch])], state, columns.before())

    def describe(self, part: EditsPart, where: str, nearly: float) -> InspectedPart:
        """Return what ``inspect`` shows of a part; see :class:`~easyedit_lifelong.methods.base.EditMethod`."""
        batches = self.batches(part, where)
        edits = [
            {**record.to_dict(), "batch": number}
            for number, batch in enumerate(batches, start=1)
            for record in batch.records
        ]
        return InspectedPart(
            self._name,
            list(batches[-1].layers) if batches else [],
            {name: part.hparams.get(name) for name in self._shown_settings},
            edits,
            batches=[
                {"edits": len(batch.records), **{name: getattr(batch, name) for name in self.shown_columns.values()}}
                for batch in batches
            ],
            columns={"batch": "batch"},
            batch_columns=self.shown_columns,
        )

    def plain_weights(self, model: Any) -> PlainWeights:
        """Return the weights of the edited projections with all updates; nothing is lost."""
        return PlainWeights(self._editor_class.require(model).plain_weights())


def batch_reasons(name: str) -> dict[str, str]:
    """Return the reasons for which a method that edits in batches lacks ports; see :attr:`EditMethod.reasons`.

    Args:
        name: the name of the method, for the messages.
    """
    return {
        "remove": (
            f"{name}'s edits can't be rolled back one by one: each batch was computed with the batches before it in "
            "place."
        ),
        "merge": (
            "every batch was computed with the batches before it in place, and is wrong after others. "
            "Apply all requests again, in one run."
        ),
    }


class _Columns:
    """Reads the columns of one batch after the other from the tensors of a part.

    Args:
        tensors: the tensors by name, with the columns of all batches side by side.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._ends = dict.fromkeys(tensors, 0)

    def next_batch(self, entry: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the tensors of the next batch, by name.

        Args:
            entry: what the part's state says of the batch: a tensor has as many columns as the batch has ``edits``,
                unless ``columns`` gives another number.
        """
        counts = entry.get("columns", {})
        batch = {}
        for name, tensor in self._tensors.items():
            begin = self._ends[name]
            self._ends[name] = end = begin + counts.get(name, entry["edits"])
            batch[name] = tensor[:, begin:end].clone()
        return batch

    def before(self) -> dict[str, Tensor]:
        """Return the tensors of all batches that have been read, by name."""
        return {name: tensor[:, : self._ends[name]].contiguous() for name, tensor in self._tensors.items()}

    @property
    def at_end(self) -> bool:
        """Whether exactly all columns have been read."""
        return all(tensor.shape[1] == self._ends[name] for name, tensor in self._tensors.items())


def _default(field: dataclasses.Field[Any]) -> Any:
    """Return the default value of a field; ``dataclasses.MISSING`` if it has none."""
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def _has_default(field: dataclasses.Field[Any]) -> bool:
    """Return whether a field has a default value."""
    return _default(field) is not dataclasses.MISSING


def _are_templates(value: Any) -> bool:
    """Return whether a value that was read from a file has the structure of context templates."""
    return isinstance(value, list) and any(value) and all(_is_template_group(group) for group in value)


def _is_template_group(value: Any) -> bool:
    """Return whether a value is a list of templates."""
    return isinstance(value, list) and all(isinstance(text, str) and text.count("{}") == 1 for text in value)
