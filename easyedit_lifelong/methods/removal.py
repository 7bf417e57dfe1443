"""The ports that remove edits: single ones, or the latest batches."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from easyedit_lifelong.methods.edit_stores import EditsPart

if TYPE_CHECKING:
    from easyedit_lifelong.methods.shared.records import EditRecord


class CaseRemoval(Protocol):
    """Removes single edits from a model, or from a folder without the model.

    ``rollback_case`` and ``rollback --case`` use this port.
    """

    def records(self, model: Any) -> list[EditRecord]:
        """Return the records of all the method's edits on a model, of all its editors, in order."""

    def remove(self, model: Any, records: Sequence[EditRecord], *, check_only: bool = False) -> None:
        """Remove edits from a model, as if they had never been made. The other edits stay.

        Args:
            model: the edited model.
            records: the records of the edits to remove: objects that :meth:`records` returned.
            check_only: only check whether the edits can be removed.

        Raises:
            EditError: the edits cannot be removed. Then the model is unchanged.
        """

    def remove_from(self, part: EditsPart, numbers: Collection[int], where: str) -> EditsPart:
        """Return a part without some of its edits.

        Args:
            part: the edits.
            numbers: the indices of the edits to leave out, counted from 0.
            where: the file that the part was read from, for messages.

        Raises:
            EditError: the edits cannot be removed.
            RunError: the part is incomplete.
        """


class BatchRemoval(Protocol):
    """Removes the latest batches from a model, or from a folder without the model.

    ``rollback_to_batch`` and ``rollback --to-batch`` use this port.
    """

    def back_to(self, model: Any, batch: int) -> None:
        """Restore a model to what it was, bitwise, after its first ``batch`` batches.

        Args:
            model: the edited model.
            batch: how many batches to keep.

        Raises:
            EditError: the model has fewer batches.
        """

    def first_batches(self, part: EditsPart, batch: int, where: str) -> EditsPart:
        """Return the part with its first ``batch`` batches only.

        Args:
            part: the edits.
            batch: how many batches to keep.
            where: the file that the part was read from, for messages.

        Raises:
            EditError: the part has fewer batches.
            RunError: the part is incomplete.
        """
