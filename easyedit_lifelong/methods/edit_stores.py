"""The ports that save and load a method's edits: the edit store, and the state keeper for methods without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


MANY_EDITS = 10_000
"""From more edits than this on, edits are stored in columns of tensors, which are opened without reading every edit."""


@dataclass(frozen=True)
class EditsPart:
    """The edits of one editor in the form in which they are written to and read from files.

    Attributes:
        hparams: the method's hyperparameters, as in a YAML file.
        edits: the record of each edit, in order: JSON objects with at least ``case_id``, ``prompt``, ``target_new`` and
            ``time``, as :meth:`EditRecord.to_dict` returns them. Many of them may be in a
            :class:`~easyedit_lifelong.lazy_list.LazyList`.
        state: further JSON-serializable data that the method needs.
        tensors: the method's tensors, by name.
    """

    hparams: dict[str, Any]
    edits: Sequence[dict[str, Any]]
    state: dict[str, Any]
    tensors: dict[str, Tensor]


def are_many(count: int) -> bool:
    """Return whether so many edits are stored in columns; see :data:`MANY_EDITS`."""
    return count > MANY_EDITS


class EditStore(Protocol):
    """Converts a model's edits to data, and attaches saved edits to a model.

    ``save_edits`` and ``load_edits`` use this port.
    """

    def parts(self, model: Any) -> list[EditsPart]:
        """Return the edits on a model, one part for each editor; an empty list if there are none."""

    def attach(self, model: Any, tok: Any, part: EditsPart, where: str) -> Callable[[], None]:
        """Attach edits to a model. Its logits must be bitwise those of the model that the edits were saved from.

        Args:
            model: the base model, perhaps with other edits.
            tok: its tokenizer, or None. A method may need it only for further edits, not to attach these.
            part: the edits.
            where: the file that the part was read from, for messages.

        Returns:
            A function that removes these edits.

        Raises:
            RunError: the part is incomplete.
            ModelError: the edits do not fit the model.
            EditError: the model already has edits in the same place.
        """


@runtime_checkable
class AppendableEditStore(EditStore, Protocol):
    """An edit store that writes edits in steps, so that a run can append each step to its folder.

    A step is the smallest unit that can be loaded or left out: an edit of GRACE, a batch of CoachHook. A written step
    never changes.
    """

    def history(self, model: Any) -> Sequence[object]:
        """Return one object for each step on a model, in order.

        A run compares these objects by identity to find the steps that it has written already. So every call must
        return the same object for a step.

        Raises:
            RunError: the model has edits that one folder cannot hold as one sequence of steps.
        """

    def steps(self, model: Any, begin: int) -> Iterator[EditsPart]:
        """Yield each step from index ``begin`` on as a separate part.

        Args:
            model: the edited model.
            begin: index of the first step to yield, counted from 0.
        """

    def join(self, steps: Sequence[EditsPart], where: str) -> EditsPart:
        """Return consecutive steps, from the first step on, as one part.

        Args:
            steps: the steps.
            where: the file that they were read from, for messages.

        Raises:
            RunError: the steps do not belong to one sequence.
        """

    def shared_settings(self, hparams: Any) -> dict[str, Any]:
        """Return the hyperparameters, by name, that must be equal for all steps of a folder."""


@runtime_checkable
class ExtendableEditStore(AppendableEditStore, Protocol):
    """An edit store whose steps can follow a part, so that edits are appended to a folder of many edits."""

    def extended(self, part: EditsPart, steps: Sequence[EditsPart], where: str) -> EditsPart:
        """Return a part with the consecutive steps that followed it.

        Args:
            part: what :meth:`parts` returned when the folder was written.
            steps: the steps after it, at least one.
            where: the file that they were read from, for messages.

        Raises:
            RunError: a step is incomplete or damaged.
        """


@runtime_checkable
class OldStateReader(Protocol):
    """An edit store that also reads the state folders of runs that version 0.1 of this package wrote.

    Attributes:
        old_state_files: glob patterns of the files in such a folder. They are deleted when the folder has been
            converted to the present format.
    """

    old_state_files: Sequence[str]

    def read_old_state(
        self, folder: Path, case_ids: Sequence[int | str] | None = None, *, tensors: bool = True
    ) -> OldState | None:
        """Return the contents of a state folder of version 0.1; None if the folder is not one.

        Args:
            folder: the folder.
            case_ids: return only the first steps, which must be the edits of these cases in order; None for all steps.
            tensors: whether to read the tensors of the steps.

        Raises:
            RunError: the folder is incomplete or damaged; the message names the file.
        """


@dataclass(frozen=True)
class OldState:
    """The contents of a state folder that version 0.1 wrote.

    Attributes:
        path: the index file of the folder, for messages.
        model: name of the model that the edits were made on.
        fingerprint: fingerprint of that model's base weights.
        settings: the hyperparameters that must be equal in a resumed run, by name.
        steps: one part for each step, in order.
    """

    path: Path
    model: str
    fingerprint: str
    settings: dict[str, Any]
    steps: list[EditsPart]


class StateKeeper(Protocol):
    """Saves the edits of a run to disk and loads them again, for methods without an :class:`AppendableEditStore`.

    The loops save into the same folder after every edit (or batch), and then write the edit's line of the journal. A
    run can be killed between the two. The folder can then hold an edit that the journal does not list, but the journal
    never lists an edit that the folder does not hold. A method that can only write all its edits at once can use
    :class:`~easyedit_lifelong.snapshots.Snapshots`.

    A keeper can have another method, ``carries(model) -> bool``, that returns whether a model has edits of the method.
    The loops then refuse to start a run on such a model.
    """

    def save(self, model: Any, folder: Path, case_ids: Sequence[int | str] = ()) -> None:
        """Write a model's edits to a folder. They are on disk when this method returns.

        Args:
            model: the edited model.
            folder: the folder; it may not exist yet.
            case_ids: the ``case_id`` of all these edits' requests, in order.

        Raises:
            OSError: the folder cannot be written.
            RunError: the edits cannot be written.
        """

    def load(
        self, model: Any, tok: Any, hparams: Any, folder: Path, case_ids: Sequence[int | str] | None = None
    ) -> None:
        """Load the edits of a folder onto a base model. Further edits must give the same results as on the saved model.

        Args:
            model: the base model.
            tok: its tokenizer.
            hparams: the method's hyperparameters.
            folder: the folder that was saved.
            case_ids: load only the folder's first edits, which must be those of these cases in order; None for all
                edits. Further edits in the folder are ignored, and the next save replaces them.

        Raises:
            RunError: the folder does not hold these edits; the message names the file.
        """
