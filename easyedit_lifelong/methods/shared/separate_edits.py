"""Base class for methods whose edits are independent of each other: each can be stored, applied and removed alone.

A method derives its editor from :class:`SeparateEditor`. :func:`separate_edit_ports` returns the ports ``edits``,
``remove`` and ``describe`` for it.
"""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.hparams_files import hparams_values
from easyedit_lifelong.hyperparams import PluginHyperParams
from easyedit_lifelong.methods.base import InspectedPart
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.methods.shared.editors import editors_on, register_editor, unregister_editor
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.models.load import model_label

_PLACE = "model"
"""The place under which an editor is registered: it edits the model as a whole, not one layer."""


@dataclass(frozen=True, eq=False)
class SeparateEdit:
    """One edit.

    Attributes:
        record: the record of the edit.
        data: the values that the method needs to apply the edit, by name; JSON-serializable.
    """

    record: EditRecord
    data: Mapping[str, Any]


class SeparateEditor(ABC):
    """Holds a method's edits of one model, and applies them in every forward pass.

    Args:
        model: the model to edit.
        hparams: the method's hyperparameters.

    Attributes:
        hparams_class: the method's hyperparameter class; its ``ALG_NAME`` is the method's name.
        columns: the entries of the edits' data that ``inspect`` shows: column heading to name of the entry.
        edits: the edits, in the order in which they were made.
    """

    hparams_class: ClassVar[type[PluginHyperParams]]
    columns: ClassVar[Mapping[str, str]] = {}

    def __init__(self, model: Any, hparams: Any) -> None:
        self.hparams = hparams
        self.edits: list[SeparateEdit] = []
        self._detach = self.attach(model)

    @abstractmethod
    def attach(self, model: Any) -> Callable[[], None]:
        """Attach the editor to a model, so that every forward pass applies the current :attr:`edits`.

        Attach a bound method of the editor and not a closure: then a deep copy of the model has its own editor.

        Args:
            model: the model.

        Returns:
            A function that detaches the editor.
        """

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
        """
        if not edits:
            return lambda: None
        if not (editors := cls.all_on(model)):
            editors = [cls(model, hparams)]
            register_editor(model, cls.hparams_class.ALG_NAME, _PLACE, editors[0])
        editors[0].hparams = hparams
        editors[0].edits += edits
        return functools.partial(cls.remove, model, [edit.record for edit in edits])

    @classmethod
    def remove(cls, model: Any, records: Sequence[EditRecord]) -> None:
        """Remove the edits that these records belong to from a model; with the last edit, remove the editor.

        Records are compared by identity, since two edits can have equal records.
        """
        removed_records = {id(record) for record in records}
        for editor in cls.all_on(model):
            editor.edits = [edit for edit in editor.edits if id(edit.record) not in removed_records]
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
    """

    def __init__(self, editor: type[SeparateEditor]) -> None:
        self._editor = editor

    def parts(self, model: Any) -> list[EditsPart]:
        """Return all edits of a model as one part; an empty list if it has none."""
        steps = list(self.steps(model, 0))
        return [self.join(steps, "the model")] if steps else []

    def attach(self, model: Any, tok: Any, part: EditsPart, where: str) -> Callable[[], None]:
        """Add the edits of a part to a model; see :meth:`.EditStore.attach`.

        Raises:
            RunError: the part is incomplete.
        """
        hparams = self._editor.hparams_class.from_values(part.hparams, where)
        stored = zip(part.edits, _data_of(part, where), strict=True)
        edits = [SeparateEdit(EditRecord.from_dict(record, where), data) for record, data in stored]
        return self._editor.add(model, hparams, edits)

    def history(self, model: Any) -> list[SeparateEdit]:
        """Return a model's edits, in order."""
        return [edit for editor in self._editor.all_on(model) for edit in editor.edits]

    def steps(self, model: Any, begin: int) -> Iterator[EditsPart]:
        """Yield each edit from index ``begin`` on as a part."""
        for editor in self._editor.all_on(model):
            hparams = hparams_values(editor.hparams, model_label(model))
            for edit in editor.edits[begin:]:
                yield EditsPart(hparams, [edit.record.to_dict()], {"data": [dict(edit.data)]}, {})

    def join(self, steps: Sequence[EditsPart], where: str) -> EditsPart:
        """Return consecutive edits as one part.

        Raises:
            RunError: a step is incomplete.
        """
        edits = [edit for step in steps for edit in step.edits]
        data = [values for step in steps for values in _data_of(step, where)]
        return EditsPart(steps[-1].hparams, edits, {"data": data}, {})

    def shared_settings(self, hparams: Any) -> dict[str, Any]:
        """Return no settings, since edits with different settings may share a folder. It stores the latest settings."""
        return {}

    def records(self, model: Any) -> list[EditRecord]:
        """Return the records of a model's edits, in order."""
        return [edit.record for edit in self.history(model)]

    def remove(self, model: Any, records: Sequence[EditRecord], *, check_only: bool = False) -> None:
        """Remove edits from a model; with ``check_only`` do nothing, since separate edits can always be removed."""
        if not check_only:
            self._editor.remove(model, records)

    def remove_from(self, part: EditsPart, numbers: Collection[int], where: str) -> EditsPart:
        """Return a part without some of its edits.

        Raises:
            RunError: the part is incomplete.
        """
        data = _data_of(part, where)
        kept = [n for n in range(len(part.edits)) if n not in numbers]
        return EditsPart(part.hparams, [part.edits[n] for n in kept], {"data": [data[n] for n in kept]}, {})

    def describe(self, part: EditsPart, where: str, nearly: float) -> InspectedPart:
        """Return the requests and the data of a part's edits; see :class:`EditMethod`.

        Raises:
            RunError: the part is incomplete.
        """
        edits = [{**data, **edit} for edit, data in zip(part.edits, _data_of(part, where), strict=True)]
        hparams_class = self._editor.hparams_class
        common = {field.name for field in dataclasses.fields(PluginHyperParams)} | {"alg_name"}
        settings = {name: value for name, value in part.hparams.items() if name not in common}
        return InspectedPart(hparams_class.ALG_NAME, [_PLACE], settings, edits, columns=self._editor.columns)


def _data_of(part: EditsPart, where: str) -> list[dict[str, Any]]:
    """Return the data of each edit of a part.

    Raises:
        RunError: the part does not hold data for each edit.
    """
    data = part.state.get("data")
    if not isinstance(data, list) or len(data) != len(part.edits) or not all(isinstance(v, dict) for v in data):
        raise RunError(f"{where}: {len(part.edits)} edits need as many entries of data")
    return data
