"""Editors whose edits are separate: each edit is a record with data, acts by itself, and can be removed alone.

A method derives its editor from :class:`SeparateEditor`; :func:`separate_edit_ports` then gives it the ports ``edits``,
``remove`` and ``describe``.
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


@dataclass(frozen=True, eq=False)
class SeparateEdit:
    """One edit.

    Attributes:
        record: its record.
        data: what the method needs to apply it, as JSON holds it, by name.
    """

    record: EditRecord
    data: Mapping[str, Any]


class SeparateEditor(ABC):
    """The edits of one method on a model.

    Args:
        model: the model.
        hparams: the method's hyperparameters.

    Attributes:
        hparams_class: the method's hyperparameter class; its ``ALG_NAME`` is the method's name.
        columns: the data that ``inspect`` shows of each edit: the heading, and the name.
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
        """Make a model apply :attr:`edits`, whatever they are at the time of a forward pass.

        What is attached must be a bound method of the editor, not a closure, so that a deep copy of the model gets
        its own.

        Returns:
            A function that undoes it.
        """

    @classmethod
    def all_on(cls, model: Any) -> list[Any]:
        """Return the editors that are on a model: one, or none."""
        return list(editors_on(model, cls.hparams_class.ALG_NAME).values())

    @classmethod
    def add(cls, model: Any, hparams: Any, edits: Sequence[SeparateEdit]) -> Callable[[], None]:
        """Add edits to a model; return a function that removes those of them that are left."""
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
        """Remove the edits with these records from a model; with the last edit, the editor."""
        chosen = {id(record) for record in records}
        for editor in cls.all_on(model):
            editor.edits = [edit for edit in editor.edits if id(edit.record) not in chosen]
            if not editor.edits:
                editor._detach()
                unregister_editor(model, cls.hparams_class.ALG_NAME, _PLACE)


def separate_edit_ports(editor: type[SeparateEditor]) -> dict[str, Any]:
    """Return the ports ``edits``, ``remove`` and ``describe``, by the names of :class:`EditMethod`'s fields."""
    store = SeparateEditStore(editor)
    return {"edits": store, "remove": store, "describe": store.describe}


class SeparateEditStore:
    """Separate edits as data: an edit store to which a run appends each edit, and the removal of single edits.

    Args:
        editor: the method's editor class.
    """

    def __init__(self, editor: type[SeparateEditor]) -> None:
        self._editor = editor

    def parts(self, model: Any) -> list[EditsPart]:
        """Return all edits as one part."""
        steps = list(self.steps(model, 0))
        return [self.join(steps, "the model")] if steps else []

    def attach(self, model: Any, tok: Any, part: EditsPart, where: str) -> Callable[[], None]:
        """Add the edits of a part to those of a model.

        Raises:
            RunError: the part is incomplete.
        """
        hparams = self._editor.hparams_class.from_values(part.hparams, where)
        pairs = zip(part.edits, _data_of(part, where), strict=True)
        edits = [SeparateEdit(EditRecord.from_dict(edit, where), data) for edit, data in pairs]
        return self._editor.add(model, hparams, edits)

    def history(self, model: Any) -> list[SeparateEdit]:
        """Return a model's edits, in order."""
        return [edit for editor in self._editor.all_on(model) for edit in editor.edits]

    def steps(self, model: Any, begin: int) -> Iterator[EditsPart]:
        """Yield each edit from number ``begin`` on as a part."""
        for editor in self._editor.all_on(model):
            hparams = hparams_values(editor.hparams, model_label(model))
            for edit in editor.edits[begin:]:
                yield EditsPart(hparams, [edit.record.to_dict()], {"data": [dict(edit.data)]}, {})

    def join(self, steps: Sequence[EditsPart], where: str) -> EditsPart:
        """Return consecutive edits as one part.

        Raises:
            RunError: a step is incomplete.
        """
        data = [one for step in steps for one in _data_of(step, where)]
        return EditsPart(steps[-1].hparams, [edit for step in steps for edit in step.edits], {"data": data}, {})

    def shared_settings(self, hparams: Any) -> dict[str, Any]:
        """Return no settings: edits of different settings may share a folder, which names the latest."""
        return {}

    def records(self, model: Any) -> list[EditRecord]:
        """Return the records of a model's edits, in order."""
        return [edit.record for edit in self.history(model)]

    def remove(self, model: Any, records: Sequence[EditRecord], *, check_only: bool = False) -> None:
        """Remove edits from a model, which is always possible."""
        if not check_only:
            self._editor.remove(model, records)

    def remove_from(self, part: EditsPart, numbers: Collection[int], where: str) -> EditsPart:
        """Return a part without some of its edits.

        Raises:
            RunError: the part is incomplete.
        """
        data = _data_of(part, where)
        left = [n for n in range(len(part.edits)) if n not in numbers]
        return EditsPart(part.hparams, [part.edits[n] for n in left], {"data": [data[n] for n in left]}, {})

    def describe(self, part: EditsPart, where: str, nearly: float) -> InspectedPart:
        """Return what a part's edits are: their requests and their data; see :class:`EditMethod`.

        Raises:
            RunError: the part is incomplete.
        """
        edits = [{**data, **edit} for edit, data in zip(part.edits, _data_of(part, where), strict=True)]
        hparams_class = self._editor.hparams_class
        common = {field.name for field in dataclasses.fields(PluginHyperParams)} | {"alg_name"}
        own = {name: value for name, value in part.hparams.items() if name not in common}
        return InspectedPart(hparams_class.ALG_NAME, [_PLACE], own, edits, columns=self._editor.columns)


def _data_of(part: EditsPart, where: str) -> list[dict[str, Any]]:
    """Return the data of each edit of a part."""
    data = part.state.get("data")
    if not isinstance(data, list) or len(data) != len(part.edits) or not all(isinstance(one, dict) for one in data):
        raise RunError(f"{where}: {len(part.edits)} edits need as many entries of data")
    return data
