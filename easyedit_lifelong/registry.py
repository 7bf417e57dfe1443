"""What a plugin can register beside editing methods (:mod:`~easyedit_lifelong.methods.base`), and the registries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from easyedit_lifelong.errors import DuplicateNameError, PluginError, did_you_mean

if TYPE_CHECKING:
    from easyedit_lifelong.covariance.corpus import Corpus
    from easyedit_lifelong.covariance.moments import SecondMoment
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
class RecordLoader:
    """Reads the files of a dataset format in place of the format's native loader.

    Attributes:
        name: the format's name.
        load: ``load(path)`` returns the records in EasyEdit's request fields, each with a ``case_id``.
        available: whether the loader can be used here; if not, the native loader reads the file.
    """

    name: str
    load: Callable[[Path], Sequence[Mapping[str, Any]]]
    available: Callable[[], bool] = lambda: True


@dataclass(frozen=True)
class CovarianceEngine:
    """Collects second moments of keys.

    Attributes:
        name: what ``--engine`` and ``mom2_engine`` call it.
        collect: ``collect(model, tokenizer, job, shard, progress)`` collects what a
            :class:`~easyedit_lifelong.covariance.job.Job` asks for, stores it, and returns it by module.
        check: ``check(corpus, n_samples, n_tokens)`` raises a :class:`LifelongError` if the engine can't work here, or
            can't collect this; called before a model is loaded.
        counts_tokens: whether it collects a number of tokens where a number of documents is given as well.
    """

    name: str
    collect: Callable[..., dict[str, SecondMoment]]
    check: Callable[[Corpus, int | None, int | None], object] = lambda corpus, n_samples, n_tokens: None
    counts_tokens: bool = True


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


@dataclass(frozen=True)
class ModelMethod:
    """A function that a model gets as a method while it carries edits.

    Attributes:
        name: of the method.
        call: ``call(model, *args, **kwargs)``.
    """

    name: str
    call: Callable[..., Any]


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
