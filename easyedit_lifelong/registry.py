"""The registries of plugins, and their entry types.

The entry type of editing methods, ``EditMethod``, is in :mod:`easyedit_lifelong.methods.base`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from easyedit_lifelong.errors import DataError, DuplicateNameError, PluginError, did_you_mean

if TYPE_CHECKING:
    from easyedit_lifelong.covariance.corpus import Corpus
    from easyedit_lifelong.covariance.moments import SecondMoment
    from easyedit_lifelong.data.request import EditRequest
    from easyedit_lifelong.evaluation.judges import Judge
    from easyedit_lifelong.methods.base import EditMethod
    from easyedit_lifelong.methods.report_sections import ReportSection, RunRecord


class Tracker(Protocol):
    """Receives the scores of a run while it is in progress."""

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record the scores after a number of edits.

        Args:
            step: number of edits so far.
            metrics: the other fields of the line in ``metrics.jsonl``: scores by name, ``intervals``, and fields that
                locate the scoring in the run, such as ``batch``.
        """

    def close(self) -> None:
        """Write what is not written yet, and release all resources."""


@dataclass(frozen=True)
class DatasetReader:
    """A dataset format.

    Attributes:
        name: its name for ``--format``.
        read: ``read(path)`` yields validated requests, in the file's order (see below).
        description: one line, for lists of formats.
        task: the task of the data: ``qa`` (short answers), ``generation`` (full sentences) or ``classification``
            (labels).
        fields: the fields that every record has, by which the format is recognised; ``a|b`` means one of them. A format
            without fields isn't recognised.

    A reader may be a generator. It can raise a DataError, or yield one for each record that can't be used: then all of
    them are reported together, and ``--skip-unusable`` can leave them out.
    """

    name: str
    read: Callable[[Path], Iterable[EditRequest | DataError]]
    description: str = ""
    task: str = "qa"
    fields: Sequence[str] = ()


@dataclass(frozen=True)
class RecordLoader:
    """A loader that replaces the native loader of a dataset format.

    Attributes:
        name: the format's name.
        load: ``load(path)`` returns the records with EasyEdit's request fields, each with a ``case_id``.
        available: whether the loader can be used in this environment; if not, the native loader reads the file.
    """

    name: str
    load: Callable[[Path], Sequence[Mapping[str, Any]]]
    available: Callable[[], bool] = lambda: True


@dataclass(frozen=True)
class CovarianceEngine:
    """An engine that collects second moments of keys.

    Attributes:
        name: its name for ``--engine`` and ``mom2_engine``.
        collect: ``collect(model, tokenizer, job, shard, progress)`` collects the second moments that a
            :class:`~easyedit_lifelong.covariance.job.Job` describes, stores them, and returns them by module.
        check: ``check(corpus, n_samples, n_tokens)`` raises a :class:`LifelongError` if the engine can't be used in
            this environment or for this corpus and amount; called before a model is loaded.
        counts_tokens: whether the number of tokens has precedence if the number of documents is given as well.
    """

    name: str
    collect: Callable[..., dict[str, SecondMoment]]
    check: Callable[[Corpus, int | None, int | None], object] = lambda corpus, n_samples, n_tokens: None
    counts_tokens: bool = True


@dataclass(frozen=True)
class TrackerType:
    """A type of result tracker.

    Attributes:
        name: its name for ``--track``.
        create: ``create(run_folder, config)`` returns the tracker of a run. When a run is resumed, all earlier points
            are logged to it again.
        description: one line, for lists of trackers.
        check: raises a :class:`PluginError` if the tracker can't be used in this environment, for example because a
            package isn't installed; called before a model is loaded.
    """

    name: str
    create: Callable[[Path, Mapping[str, Any]], Tracker]
    description: str = ""
    check: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class JudgeType:
    """A type of judge of generated answers.

    Attributes:
        name: its name for ``--judge``.
        create: ``create(argument)`` returns the judge; the argument is what follows the name and a colon in
            ``--judge NAME:ARGUMENT``, or empty.
        description: one line, for lists of judges.
        check: ``check(argument)`` raises a :class:`PluginError` if the judge can't be used in this environment, or with
            this argument; called before a model is loaded.
    """

    name: str
    create: Callable[[str], Judge]
    description: str = ""
    check: Callable[[str], object] = lambda argument: None


@dataclass(frozen=True)
class ModelMethod:
    """A function that is added to a model as a method while the model has edits.

    Attributes:
        name: name of the method, such as ``save_edits``.
        call: the function; ``model.name(...)`` calls ``call(model, ...)``.
    """

    name: str
    call: Callable[..., Any]


@dataclass(frozen=True)
class DeferredMethod:
    """An editing method that is imported when it is first used, so that other commands do not wait for its imports.

    Attributes:
        name: the method's name.
        module: the name of the module that is imported. Its ``METHODS`` are :class:`EditMethod` objects, one of which
            has this name.
        report_sections: the method's port of this name. It is here, and not in the module, since a report of a run
            needs nothing else of the method.
    """

    name: str
    module: str
    report_sections: Callable[[RunRecord], Sequence[ReportSection]] | None = None

    def load(self) -> EditMethod:
        """Import the method.

        Raises:
            PluginError: the module has no such method, or its ``EditMethod`` has report sections.
        """
        methods = getattr(importlib.import_module(self.module), "METHODS", ())
        method = next((method for method in methods if method.name == self.name), None)
        if method is None:
            raise PluginError(f"METHODS of {self.module} has no method {self.name!r}")
        if method.report_sections is not None:
            raise PluginError(f"give report_sections of {self.name!r} to its DeferredMethod, not to its EditMethod")
        return dataclasses.replace(method, report_sections=self.report_sections)


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Entry = TypeVar("Entry", bound=_Named)


class Registry(Generic[Entry]):
    """The entries of one kind by name, each with the plugin that registered it.

    Args:
        kind: the kind of entry for error messages, such as ``"editing method"``.
        entry_class: the class that every entry must be an instance of.
    """

    def __init__(self, kind: str, entry_class: type = object) -> None:
        self.kind, self.entry_class = kind, entry_class
        self._entries: dict[str, tuple[Callable[[], Entry | None], str]] = {}
        self._loading = threading.RLock()

    def add(self, entry: Entry, plugin: str) -> None:
        """Register an entry.

        Raises:
            PluginError: the entry is of another class.
            DuplicateNameError: the name is already registered; the message names both plugins.
        """
        if not isinstance(entry, self.entry_class):
            raise PluginError(
                f"plugin {plugin!r} registers {entry!r}, which is not an instance of {self.entry_class.__name__}"
            )
        self._add(entry.name, lambda: entry, plugin)

    def add_deferred(self, name: str, load: Callable[[], Entry | None], plugin: str) -> None:
        """Register an entry that is loaded when it is first used.

        Args:
            name: the entry's name.
            load: returns the entry; None if it can't be used, and the user has been warned. Then the entry is removed.
            plugin: the plugin's name.

        Raises:
            DuplicateNameError: the name is already registered; the message names both plugins.
        """
        self._add(name, functools.cache(load), plugin)

    def _add(self, name: str, load: Callable[[], Entry | None], plugin: str) -> None:
        """Register an entry by the function that returns it."""
        if name in self._entries:
            other_plugin = self._entries[name][1]
            raise DuplicateNameError(
                f"{self.kind} {name!r} is registered twice: by plugin {other_plugin!r} and by plugin "
                f"{plugin!r}. Rename one of them or uninstall one of the two plugins."
            )
        self._entries[name] = (load, plugin)

    def discard(self, plugin: str) -> None:
        """Remove all entries of a plugin."""
        self._entries = {name: (load, origin) for name, (load, origin) in self._entries.items() if origin != plugin}

    def get(self, name: str) -> Entry:
        """Return the entry of that name.

        Raises:
            PluginError: there is none; the message lists the registered names.
        """
        entry = self._loaded(name)
        if entry is None:
            raise PluginError(
                f"no {self.kind} is called {name!r}.{did_you_mean(name, self._entries)} "
                f"Known: {', '.join(sorted(self._entries)) or 'none'}."
            )
        return entry

    def _loaded(self, name: str) -> Entry | None:
        """Return the entry of that name; None if there is none, or it can't be used."""
        with self._loading:  # threads must get the same object
            if name not in self._entries:
                return None
            entry = self._entries[name][0]()
            if entry is None:
                self._entries.pop(name, None)
            return entry

    def names(self) -> list[str]:
        """Return the names of the entries in the order of their registration. No deferred entry is loaded."""
        return list(self._entries)

    def origin(self, name: str) -> str:
        """Return the name of the plugin that registered an entry."""
        return self._entries[name][1]

    def __iter__(self) -> Iterator[Entry]:
        """Iterate over the entries in the order of their registration. Deferred entries are loaded."""
        return (entry for name in self.names() if (entry := self._loaded(name)) is not None)

    def __contains__(self, name: object) -> bool:
        """Return whether an entry of that name is registered."""
        return name in self._entries

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)
