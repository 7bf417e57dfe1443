"""The ports for a method's edits as data: an edit store, and a keeper of a run's state for methods without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class EditsPart:
    """The edits that one editor has put on a model, ready for a file, or read from one.

    Attributes:
        hparams: the method's hyperparameters, as a YAML file holds them.
        edits: what each edit was asked to do, in order: JSON objects with at least ``case_id``, ``prompt``,
            ``target_new`` and ``time`` (:meth:`EditRecord.to_dict` makes them).
        state: whatever else the method needs that is not a tensor, as JSON has it.
        tensors: by name.
    """

    hparams: dict[str, Any]
    edits: list[dict[str, Any]]
    state: dict[str, Any]
    tensors: dict[str, Tensor]


class EditStore(Protocol):
    """Takes a method's edits off a model as data, and puts such data on a model. ``save_edits``, ``load_edits``."""

    def parts(self, model: Any) -> list[EditsPart]:
        """Return the edits that a model carries, one part for each editor; none if it carries none."""

    def attach(self, model: Any, tok: Any, part: EditsPart, where: str) -> Callable[[], None]:
        """Put edits on a model; its logits must be bitwise those of the model that they were taken from.

        Args:
            model: the base model, perhaps with other edits.
            tok: its tokenizer; None if nobody gave one, which must do unless edits are added later.
            part: the edits.
            where: the file that they come from, for messages.

        Returns:
            A function that takes them off again.

        Raises:
            RunError: the part is incomplete.
            ModelError: it does not fit the model.
            EditError: the model carries edits in their place already.
        """


@runtime_checkable
class AppendableEditStore(EditStore, Protocol):
    """An edit store whose edits come in steps that never change: a run appends each step to its folder once.

    A step is what can be loaded or left out as a whole: an edit of GRACE, a batch of CoachHook.
    """

    def history(self, model: Any) -> Sequence[object]:
        """Return one object for each step that a model carries, in order; the same object for the same step.

        Raises:
            RunError: the model carries edits that one folder cannot hold as one sequence of steps.
        """

    def steps(self, model: Any, begin: int) -> Iterator[EditsPart]:
        """Yield each step from number ``begin`` (counted from 0) on, as a separate part."""

    def join(self, steps: Sequence[EditsPart], where: str) -> EditsPart:
        """Return consecutive steps, from the first one on, as one part.

        Raises:
            RunError: they do not belong together.
        """

    def shared_settings(self, hparams: Any) -> dict[str, Any]:
        """Return the hyperparameters, by name, that all steps of a folder must have been made with."""


@runtime_checkable
class OldStateReader(Protocol):
    """An edit store that reads the state folders that version 0.1 of this package wrote for its method's runs.

    Attributes:
        old_state_files: patterns of the files in them, which are deleted once the folder has the present format.
    """

    old_state_files: Sequence[str]

    def read_old_state(
        self, folder: Path, case_ids: Sequence[int | str] | None = None, *, tensors: bool = True
    ) -> OldState | None:
        """Return the steps of such a folder; None if it is not one.

        Args:
            folder: the folder.
            case_ids: only the first steps, which must be the edits of these cases in order. None: all of them.
            tensors: whether the steps have their tensors, or only what the files say of them.

        Raises:
            RunError: the folder is incomplete or damaged; the message names the file.
        """


@dataclass(frozen=True)
class OldState:
    """The state folder of a run that version 0.1 wrote.

    Attributes:
        path: its index, for messages.
        model: name of the model that the edits were made on.
        fingerprint: of that model's unedited weights.
        settings: the hyperparameters that a resumed run must share, by name.
        steps: a part for each step, in order.
    """

    path: Path
    model: str
    fingerprint: str
    settings: dict[str, Any]
    steps: list[EditsPart]


class StateKeeper(Protocol):
    """Puts what a method has done to a model on disk, and back on a model that carries no edit.

    For methods without an :class:`AppendableEditStore`. The loops save after every edit (or batch), always into the
    same folder, and note each in their journal afterwards. A run can be killed in between: the folder may hold an edit
    that the journal does not list, never the other way round. A method that can only write everything at once wraps
    what it has in :class:`~easyedit_lifelong.snapshots.Snapshots`.

    A method ``carries(model) -> bool``, if there is one, tells whether a model carries the method's edits; the
    loops then refuse to begin a run on one that does.
    """

    def save(self, model: Any, folder: Path, case_ids: Sequence[int | str] = ()) -> None:
        """Bring a folder up to date with the edits that a model carries; they are on disk when this returns.

        Args:
            model: the edited model.
            folder: where to; it may not be there yet.
            case_ids: the requests of all these edits, in order.

        Raises:
            OSError: it cannot be written.
            RunError: likewise.
        """

    def load(
        self, model: Any, tok: Any, hparams: Any, folder: Path, case_ids: Sequence[int | str] | None = None
    ) -> None:
        """Give an unedited model the edits of a folder; it must continue exactly as the saved model would have.

        Args:
            model: the model.
            tok: its tokenizer.
            hparams: the method's hyperparameters.
            folder: what was saved.
            case_ids: the requests whose edits count, in order: the folder's first ones. What it holds beyond
                them is left out, and replaced by the next save. None: all of them.

        Raises:
            RunError: the folder does not hold them; the message names the file.
        """
