"""Base class for methods whose edits are independent of each other: each can be stored, applied and removed alone.

A method derives its editor from :class:`SeparateEditor`. :func:`separate_edit_ports` returns the ports ``edits``,
``remove`` and ``describe`` for it.
"""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch

from easyedit_lifelong.errors import LifelongError, RunError
from easyedit_lifelong.hparams_files import hparams_values
from easyedit_lifelong.hyperparams import PluginHyperParams
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.methods.inspection import InspectedPart
from easyedit_lifelong.methods.shared.apply import check_same_settings
from easyedit_lifelong.methods.shared.editors import editors_on, register_editor, unregister_editor
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.methods.shared.separate_edit import SeparateEdit, check_same_tensors, check_storable
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.models.wrappers import unwrap_model

_PLACE = "model"
"""The place under which an editor is registered: it edits the model as a whole, not one layer."""


class SeparateEditor(ABC):
    """Holds a method's edits of one model, and applies them in every forward pass.

    Args:
        model: the model to edit.
        hparams: the method's hyperparameters.

    Attributes:
        hparams_class: the method's hyperparameter class; its ``ALG_NAME`` is the method's name.
        columns: the entries of the edits' data that ``inspect`` shows: column heading to name of the entry.
        same_settings: the hyperparameters that all edits on a model, or in a folder, must share.
        edits: the edits, in the order in which they were made.
    """

    hparams_class: ClassVar[type[PluginHyperParams]]
    columns: ClassVar[Mapping[str, str]] = {}
    same_settings: ClassVar[Sequence[str]] = ()

    def __init__(self, model: Any, hparams: Any) -> None:
        self.hparams = hparams
        self.edits: list[SeparateEdit] = []
        self._detach = self.attach(unwrap_model(model))

    @abstractmethod
    def attach(self, model: Any) -> Callable[[], None]:
        """Attach the editor to a model, so that every forward pass applies the current :attr:`edits`.

        Attach a bound method of the editor and not a closure: then a deep copy of the model has its own editor.

        Args:
            model: the model inside PEFT's and ``torch.compile``'s wrappers, if it has any.

        Returns:
            A function that detaches the editor.
        """

    def edits_changed(self) -> None:  # noqa: B027
        """Drop what was computed from :attr:`edits`, which have changed. By default, there is nothing."""

    @classmethod
    def all_on(cls, model: Any) -> list[Any]:
        """Return a list with the model's editor; an empty list if it has none."""
        return list(editors_on(model, cls.hparams_class.ALG_NAME).values())

    @classmethod
    def add(cls, model: Any, hparams: Any, edits: Sequence[SeparateEdit]) -> Callable[[], None]:
        """Add edits to a model.

        Args:
            model: the model.
            hparams: the method's hyperparameters; the editor uses them from now on, for earlier edits, too.
            edits: the edits.

        Returns:
            A function that removes these edits, as far as they have not been removed.

        Raises:
            EditError: the model has edits with other values of :attr:`same_settings`; or a number of an edit is not
                finite.
            TypeError: the data of an edit can't be saved as JSON, or one of its tensors is none.
            ValueError: the tensors of an edit have other names or shapes than those of the others.
        """
        if not edits:
            return lambda: None
        editors = cls.all_on(model)
        check_storable(edits)
        name = cls.hparams_class.ALG_NAME
        if editors:
            carried = f"the model carries {name} edits"
            check_same_settings(carried, editors[0].hparams, hparams, cls.same_settings, "Roll them back first.")
        check_same_tensors(edits, editors[0].edits[0] if editors else edits[0])
        if not editors:
            editors = [cls(model, hparams)]
            register_editor(model, name, _PLACE, editors[0])
        editor, records = editors[0], [edit.record for edit in edits]
        earlier, editor.hparams = editor.hparams, hparams
        editor.edits += edits
        try:
            editor.edits_changed()
        except BaseException:  # of the method; a failed edit leaves no trace
            editor.hparams = earlier
            cls.remove(model, records)
            raise
        return functools.partial(cls.remove, model, records)

    @classmethod
    def remove(cls, model: Any, records: Sequence[EditRecord]) -> None:
        """Remove the edits that these records belong to from a model; with the last edit, remove the editor.

        Records are compared by identity, since two edits can have equal records.
        """
        removed_records = {id(record) for record in records}
        for editor in cls.all_on(model):
            editor.edits = [edit for edit in editor.edits if id(edit.record) not in removed_records]
            editor.edits_changed()
            if not editor.edits:
                editor._detach()
                unregister_editor(model, cls.hparams_class.ALG_NAME, _PLACE)


def separate_edit_ports(editor: type[SeparateEditor]) -> dict[str, Any]:
    """Return the ports ``edits``, ``remove`` and ``describe``, as keyword arguments for :class:`EditMethod`."""
    store = SeparateEditStore(editor)
    return {"edits": store, "remove": store, "describe": store.describe}


class SeparateEditStore:
    """The ports ``edits``, ``remove`` and ``describe`` of a :class:`SeparateEditor`. Each edit is one step.

    Args:
        editor: the method's editor class.

    Attributes:
        editor: as given.
    """

    def __init__(self, editor: type[SeparateEditor]) -> None:
        self.editor = editor

    def parts(self, model: Any) -> list[EditsPart]:
        """Return all edits of a model as one part; an empty list if it has none."""
        steps = list(self.steps(model, 0))
        return [self.join(steps, "the model")] if steps else []

    def attach(self, model: Any, tok: Any, part: EditsPart, where: str) -> Callable[[], None]:
        """Add the edits of a part to a model; see :meth:`.EditStore.attach`.

        Raises:
            EditError: the model has edits with other settings, or a number of an edit is not finite.
            RunError: the part is incomplete, or its tensors have other names or shapes than those of the model's edits.
        """
        hparams = self.editor.hparams_class.from_values(part.hparams, where)
        try:
            return self.editor.add(model, hparams, self.edits_of(part, where))
        except ValueError as error:
            if isinstance(error, LifelongError):
                raise
            raise RunError(f"{where}: {error}") from error

    def edits_of(self, part: EditsPart, where: str) -> list[SeparateEdit]:
        """Return the edits of a part.

        Raises:
            RunError: the part is incomplete.
        """
        return [
            SeparateEdit(
                EditRecord.from_dict(record, where), data, {name: rows[n] for name, rows in part.tensors.items()}
            )
            for n, (record, data) in enumerate(zip(part.edits, _data_of(part, where), strict=True))
        ]

    def part_of(self, hparams: dict[str, Any], edits: Sequence[SeparateEdit]) -> EditsPart:
        """Return edits, at least one, as a part; the opposite of :meth:`edits_of`."""
        names = edits[0].tensors
        tensors = {name: torch.stack([edit.tensors[name].cpu() for edit in edits]) for name in names}
        records = [edit.record.to_dict() for edit in edits]
        return EditsPart(hparams, records, {"data": [dict(edit.data) for edit in edits]}, tensors)

    def history(self, model: Any) -> list[SeparateEdit]:
        """Return a model's edits, in order."""
        return [edit for editor in self.editor.all_on(model) for edit in editor.edits]

    def steps(self, model: Any, begin: int) -> Iterator[EditsPart]:
        """Yield each edit from index ``begin`` on as a part."""
        for editor in self.editor.all_on(model):
            hparams = hparams_values(editor.hparams, model_label(model))
            for edit in editor.edits[begin:]:
                yield self.part_of(hparams, [edit])

    def join(self, steps: Sequence[EditsPart], where: str) -> EditsPart:
        """Return consecutive edits as one part.

        Raises:
            RunError: a step is incomplete.
        """
        edits = [edit for step in steps for edit in step.edits]
        data = [values for step in steps for values in _data_of(step, where)]
        try:
            tensors = {name: torch.cat([step.tensors[name] for step in steps]) for name in steps[0].tensors}
        except (KeyError, RuntimeError) as error:
            raise RunError(f"{where}: the tensors of the edits are incomplete or damaged: {error}") from error
        return EditsPart(steps[-1].hparams, edits, {"data": data}, tensors)

    def shared_settings(self, hparams: Any) -> dict[str, Any]:
        """Return the settings that all edits of a folder must share. The folder stores the latest of the others."""
        return {name: getattr(hparams, name) for name in self.editor.same_settings}

    def records(self, model: Any) -> list[EditRecord]:
        """Return the records of a model's edits, in order."""
        return [edit.record for edit in self.history(model)]

    def remove(self, model: Any, records: Sequence[EditRecord], *, check_only: bool = False) -> None:
        """Remove edits from a model; with ``check_only`` do nothing, since separate edits can always be removed."""
        if not check_only:
            self.editor.remove(model, records)

    def remove_from(self, part: EditsPart, numbers: Collection[int], where: str) -> EditsPart:
        """Return a part without some of its edits.

        Raises:
            RunError: the part is incomplete.
        """
        data = _data_of(part, where)
        kept = [n for n in range(len(part.edits)) if n not in numbers]
        tensors = {name: rows[kept] for name, rows in part.tensors.items()}
        return EditsPart(part.hparams, [part.edits[n] for n in kept], {"data": [data[n] for n in kept]}, tensors)

    def describe(self, part: EditsPart, where: str, nearly: float) -> InspectedPart:
        """Return the requests and the data of a part's edits; see :class:`EditMethod`.

        Raises:
            RunError: the part is incomplete.
        """
        edits = [{**data, **edit} for edit, data in zip(part.edits, _data_of(part, where), strict=True)]
        hparams_class = self.editor.hparams_class
        common = {field.name for field in dataclasses.fields(PluginHyperParams)} | {"alg_name"}
        settings = {name: value for name, value in part.hparams.items() if name not in common}
        return InspectedPart(hparams_class.ALG_NAME, [_PLACE], settings, edits, columns=self.editor.columns)


def _data_of(part: EditsPart, where: str) -> list[dict[str, Any]]:
    """Return the data of each edit of a part.

    Raises:
        RunError: the part does not hold data, or a row of each tensor, for each edit.
    """
    data = part.state.get("data")
    if not isinstance(data, list) or len(data) != len(part.edits) or not all(isinstance(v, dict) for v in data):
        raise RunError(f"{where}: {len(part.edits)} edits need as many entries of data")
    for name, rows in part.tensors.items():
        if rows.dim() == 0 or len(rows) != len(part.edits):
            raise RunError(f"{where}: {len(part.edits)} edits need as many rows of the tensor {name!r}")
    return data
