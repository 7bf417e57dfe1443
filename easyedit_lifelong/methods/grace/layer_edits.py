"""The edits that a layer carries: which they are, how they are taken out again, and how saved ones are put on it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.decisions import Change
from easyedit_lifelong.methods.grace.codebook.history import keys_of
from easyedit_lifelong.methods.grace.codebook.key_space import KeySpace
from easyedit_lifelong.methods.grace.codebook.lookup import rounding_of
from easyedit_lifelong.methods.grace.codebook.removal import check_known, without
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.layer import GraceAdaptor
from easyedit_lifelong.methods.grace.serialized import SerializedEdits
from easyedit_lifelong.methods.grace.subject.subject_layer import SubjectAdaptor
from easyedit_lifelong.methods.shared.editors import unregister_editor
from easyedit_lifelong.methods.shared.records import EditRecord, numbers_of_case
from easyedit_lifelong.models.devices import device_of


class LayerEdits:
    """The edits in one layer's codebook, in order.

    Args:
        model: the model.
        path: of the edited layer.

    Attributes:
        adaptor: puts the codebook to work on the layer; set by the editor.
        changes: what each edit so far changed.
        records: what each of them was asked to do.
        gate_size: width of a gate; 0 without.
    """

    adaptor: GraceAdaptor

    def __init__(self, model: Any, path: str) -> None:
        self.model, self.path = model, path
        self.changes: list[Change] = []
        self.records: list[EditRecord] = []
        self.gate_size = 0

    @property
    def case_ids(self) -> list[int | str]:
        """Of the requests of the edits so far."""
        return [record.case_id for record in self.records]

    @property
    def codebook(self) -> Codebook | None:
        """The codebook, once there is an edit."""
        return self.adaptor.codebook

    @property
    def space(self) -> KeySpace:
        """What the keys are compared in, beyond the hyperparameters."""
        whitening = self.adaptor.whitening if isinstance(self.adaptor, SubjectAdaptor) else None
        return KeySpace(self.gate_size, whitening)

    @property
    def rounding(self) -> float:
        """How far the model's activations move as batch and padding change, relative to their norm."""
        return rounding_of(next(self.model.parameters()).dtype)

    def remove(self, case_id: int | str, prompt: str | None = None) -> list[EditRecord]:
        """Take the edits of one case out, as if they had never been entered.

        Edits after them enter again, in their order, with the queries and values that they have: what a split
        halved, or an expansion widened, is as it would be without them.

        Args:
            case_id: which case.
            prompt: only its edit of this prompt, where several edits have the same id.

        Returns:
            The records of what was taken out.

        Raises:
            EditError: there is no such edit, or several of different prompts; or it isn't known what a later one
                was entered with. Then nothing is changed.
        """
        numbers = numbers_of_case(self.records, case_id, prompt)
        removed = [self.records[n] for n in numbers]
        self.take_back(removed)
        return removed

    def take_back(self, records: Sequence[EditRecord], *, check_only: bool = False) -> None:
        """Take out those of some edits that are still in; see :meth:`remove`.

        Args:
            records: of the edits; the very objects of :attr:`records` count, not what they say.
            check_only: only look whether it can be done.

        Raises:
            EditError: it isn't known what a later edit was entered with.
        """
        own = {id(record) for record in records}
        numbers = {n for n, record in enumerate(self.records) if id(record) in own}
        if not numbers or self.codebook is None:
            return
        if check_only:
            return check_known(self.codebook, self.changes, numbers, self.case_ids)
        self.changes[:] = without(self.codebook, self.changes, numbers, self.case_ids)
        self.records[:] = [record for n, record in enumerate(self.records) if n not in numbers]
        self.undo_to(len(self.changes))  # nothing, but what goes with the last edit

    def edits_of_keys(self) -> dict[int, EditRecord]:
        """Return the edit that each key answers for, by the key's index: the last one that entered it."""
        if self.codebook is None:
            return {}
        return dict(zip(keys_of(self.codebook, self.changes), self.records, strict=True))

    def adopt(self, stored: SerializedEdits) -> Callable[[], None]:
        """Take over saved edits, on a layer without any.

        Returns:
            A function that takes them off again.

        Raises:
            EditError: there are edits already.
        """
        if self.changes:
            raise EditError("edits can be restored onto an unedited model only")
        layer, codebook = self.adaptor.layer, stored.codebook
        place = layer if next(layer.parameters(), None) is not None else self.model
        codebook.rounding = self.rounding
        if isinstance(self.adaptor, SubjectAdaptor):
            self.gate_size, self.adaptor.whitening = stored.space.gate_size, stored.space.whitening
        self.adaptor.install(codebook.to(device_of(place)))
        self.changes, self.records = stored.changes, stored.records
        return functools.partial(self.take_back, list(self.records))

    def undo_to(self, mark: int) -> None:
        """Undo all edits but the first ``mark``; with the last edit, the adaptor and the editor leave the model."""
        del self.records[mark:]
        while len(self.changes) > mark:
            change = self.changes.pop()
            if self.codebook is not None:
                self.codebook.undo(change)
        if not self.changes:
            self.adaptor.detach()
            unregister_editor(self.model, GraceHyperParams.ALG_NAME, self.path)
