"""What a plugin can register: editing methods, dataset readers and result trackers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from easyedit_lifelong.errors import DuplicateNameError, PluginError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from easyedit_lifelong.data.request import EditRequest


class Tracker(Protocol):
    """Receives a run's results while they come in."""

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record a point of the curve.

        Args:
            step: how many edits were made.
            metrics: the rest of its line in ``metrics.jsonl``: scores by name, ``intervals``, and where the run was.
        """

    def close(self) -> None:
        """Flush and release whatever the tracker holds."""


class StateKeeper(Protocol):
    """Puts what a method has done to a model on disk, and back on a model that carries no edit.

    The loops save after every edit (or batch), always into the same folder, and note each in their
    journal afterwards. A run can be killed in between: the folder may hold an edit that the journal doesn't
    know, never the other way round. A save should write what is new and leave the rest alone; a method that
    can't, wraps what it has in :class:`~easyedit_lifelong.snapshots.Snapshots`.

    A method ``carries(model) -> bool``, if there is one, tells whether a model carries the method's edits; the
    loops then refuse to begin a run on one that does.
    """

    def save(self, model: Any, folder: Path, case_ids: Sequence[int | str] = ()) -> None:
        """Bring a folder up to the edits that a model carries; they are on disk when this returns.

        Args:
            model: the edited model.
            folder: where to; it may not be there yet.
            case_ids: the requests of all these edits, in order.

        Raises:
            OSError: it can't be written.
            RunError: likewise.
        """

    def load(
        self, model: Any, tok: Any, hparams: Any, folder: Path, case_ids: Sequence[int | str] | None = None
    ) -> None:
        """Give an unedited model the edits that a folder holds; it must go on exactly as the model saved would have.

        Args:
            model: the model.
            tok: its tokenizer.
            hparams: the method's hyperparameters.
            folder: what was saved.
            case_ids: the requests whose edits count, in order: the folder's first ones. What it holds beyond
                them is left out, and replaced by the next save. None: all of them.

        Raises:
            RunError: the folder doesn't hold them; the message names the file.
        """


@dataclass(frozen=True)
class EditsPart:
    """The edits that one editor has put on a model, ready for a file, or read from one.

    Attributes:
        hparams: the method's hyperparameters, as a YAML file holds them.
        edits: what each edit was asked to do, in order: JSON objects with at least ``case_id``, ``prompt``,
            ``target_new`` and ``time``.
        state: whatever else the method needs that isn't a tensor, as JSON has it.
        tensors: by name.
    """

    hparams: dict[str, Any]
    edits: list[dict[str, Any]]
    state: dict[str, Any]
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class PlainWeights:
    """What a model without this package needs to come as close as it can to an edited one.

    Attributes:
        weights: the parameters that are others than the model holds, by name.
        lost: what that model can't do, in a sentence or two; empty if nothing is lost.
    """

    weights: dict[str, Tensor]
    lost: str = ""


class EditsPorter(Protocol):
    """Takes a method's edits off a model to be saved, and puts loaded ones on a model.

    A method ``plain_weights(model) -> PlainWeights``, if there is one, puts the edits into plain weights, for
    :func:`easyedit_lifelong.export_model`; it raises an :class:`EditError` that says why if weights can't hold them.
    """

    def parts(self, model: Any) -> list[EditsPart]:
        """Return the edits that a model carries, one part for each editor; none if it carries none."""

    def attach(self, model: Any, tok: Any, part: EditsPart, where: str) -> Callable[[], None]:
        """Put edits on a model; its logits must be bitwise those of the model that they were taken of.

        Args:
            model: the base model, perhaps with other edits.
            tok: its tokenizer; None if nobody gave one, which must do unless edits are added later.
            part: the edits.
            where: the file that they come from, for messages.

        Returns:
            What takes them off again.

        Raises:
            RunError: the part isn't whole.
            ModelError: it doesn't fit the model.
            EditError: the model carries edits in their place already.
        """


@dataclass(frozen=True)
class EditMethod:
    """An editing method, as ``BaseEditor`` and the loops use it.

    Attributes:
        name: EasyEdit's ``alg_name``.
        hparams_class: the method's hyperparameter class. Dispatch is on this type, so a method of
            the same name that comes with EasyEdit keeps working for its own class.
        apply: ``apply(model, tok, requests, hparams, copy=, return_orig_weights=,
            keep_original_weight=, **kw) -> (edited_model, rollback)``.
        batchable: whether EasyEdit's ``batch_edit`` may hand it several requests at once.
        check: ``check(model, tok, hparams)`` raises a :class:`LifelongError` if the method can't edit this
            model with these hyperparameters; the loops call it before they start anything.
        check_requests: ``check_requests(model, tok, hparams, requests)`` raises a :class:`DataError` that names
            the record and the field if the method can't edit one of them; called as early.
        prepare: ``prepare(model, tok, hparams, progress)`` computes what is needed once per model, before its
            first edit, and stores it where the method finds it; the loops call it once everything is checked,
            and ``progress(done, total)``, if given, hears how far it is. Its time isn't the edits'.
        state: saves and loads the method's edits, so that a run that was cut short can be resumed.
        edits: packs the method's edits for :func:`easyedit_lifelong.save_edits`, and unpacks them.
        counts: ``counts(model)`` says how many of what the method keeps in an edited model, by name (``n_keys``);
            it is reported with every scoring.
    """

    name: str
    hparams_class: type
    apply: Callable[..., tuple[Any, Any]]
    batchable: bool = False
    check: Callable[[Any, Any, Any], None] | None = None
    check_requests: Callable[[Any, Any, Any, Sequence[EditRequest]], None] | None = None
    prepare: Callable[[Any, Any, Any, Callable[[int, int], None] | None], object] | None = None
    state: StateKeeper | None = None
    edits: EditsPorter | None = None
    counts: Callable[[Any], Mapping[str, float]] | None = None


@dataclass(frozen=True)
class DatasetReader:
    """A dataset format: ``read(path)`` yields validated requests, in the file's order.

    Attributes:
        name: what ``--format`` calls it.
        read: reads a file.
        description: one line for people.
        task: what the data ask of a model: ``qa`` (answers) or ``generation`` (whole sentences).
    """

    name: str
    read: Callable[[Path], Iterable[EditRequest]]
    description: str = ""
    task: str = "qa"


@dataclass(frozen=True)
class TrackerType:
    """A result tracker: ``create(run_folder, config)`` returns one for a run.

    Attributes:
        name: what ``--track`` calls it.
        create: makes one; a resumed run's is told the earlier points again.
        description: one line for people.
        check: raises a :class:`PluginError` if the tracker can't work here (a package isn't installed);
            called before anything is loaded.
    """

    name: str
    create: Callable[[Path, Mapping[str, Any]], Tracker]
    description: str = ""
    check: Callable[[], object] = lambda: None


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Entry = TypeVar("Entry", bound=_Named)


class Registry(Generic[Entry]):
    """Entries of one kind by name, each with the plugin it came from.

    Args:
        kind: what an entry is called in messages, e.g. ``"editing method"``.
    """

    def __init__(self, kind: str, entry_class: type = object) -> None:
        self.kind, self.entry_class = kind, entry_class
        self._entries: dict[str, tuple[Entry, str]] = {}

    def add(self, entry: Entry, plugin: str) -> None:
        """Register an entry.

        Raises:
            PluginError: the name is taken; the message names both plugins.
        """
        if not isinstance(entry, self.entry_class):
            raise PluginError(f"plugin {plugin!r} registers {entry!r}, which is no {self.entry_class.__name__}")
        if entry.name in self._entries:
            first = self._entries[entry.name][1]
            raise DuplicateNameError(
                f"{self.kind} {entry.name!r} is registered twice: by plugin {first!r} and by plugin "
                f"{plugin!r}. Rename one of them or uninstall one of the two plugins."
            )
        self._entries[entry.name] = (entry, plugin)

    def discard(self, plugin: str) -> None:
        """Take back what a plugin registered."""
        self._entries = {name: entry for name, entry in self._entries.items() if entry[1] != plugin}

    def get(self, name: str) -> Entry:
        """Return the entry of that name.

        Raises:
            PluginError: there is none; the message lists what there is.
        """
        if name not in self._entries:
            raise PluginError(
                f"no {self.kind} is called {name!r}.{did_you_mean(name, self._entries)} "
                f"Known: {', '.join(sorted(self._entries)) or 'none'}."
            )
        return self._entries[name][0]

    def origin(self, name: str) -> str:
        """Return the name of the plugin that registered an entry."""
        return self._entries[name][1]

    def __iter__(self) -> Iterator[Entry]:
        """Iterate over the entries in the order of their registration."""
        return (entry for entry, _ in self._entries.values())

    def __contains__(self, name: object) -> bool:
        """Tell whether an entry of that name is registered."""
        return name in self._entries

    def __len__(self) -> int:
        """Count the entries."""
        return len(self._entries)
