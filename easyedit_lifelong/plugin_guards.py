"""Guard the functions of installed plugins: an error in one names the plugin and the function, and says what to do.

Without a guard, the error of a plugin's function looks like an error of this package: its message names neither the
plugin nor how the function is called. Errors of :mod:`easyedit_lifelong.errors`, which a plugin raises on purpose, pass
unchanged, and so do those of the operating system, warnings and a lack of memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pkgutil
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from easyedit_lifelong.errors import LifelongError, PluginError


@dataclasses.dataclass(frozen=True)
class _Call:
    """How a function of an entry is called, and what it returns.

    Attributes:
        usage: the call, as docs/plugins.md writes it.
        check: checks the result, or wraps it in further guards; see :class:`_Guard`.
    """

    usage: str
    check: Callable[[_Guard, Any], Any] = lambda guard, result: result


@dataclasses.dataclass(frozen=True)
class _Guard:
    """Names one function of a plugin in its errors.

    Attributes:
        where: the plugin and the entry, for messages.
        usage: how the function is called, beginning with its name.
    """

    where: str
    usage: str

    @contextlib.contextmanager
    def naming_errors(self) -> Iterator[None]:
        """Raise a :class:`PluginError` that names the function in place of an error of the plugin's code."""
        try:
            yield
        except Exception as error:  # a plugin's code can raise anything
            if is_no_mistake(error):
                raise
            frames = traceback.extract_tb(error.__traceback__)
            place = place_in([frame for frame in frames if frame.filename != __file__])
            remedy = f" ({place})" if place else f". It is called as {self.usage} (docs/plugins.md)"
            name, text = self.usage.partition("(")[0], " ".join(str(error).split())
            raise PluginError(f"{self.where}: {name} fails: {type(error).__name__}: {text}{remedy}") from error

    def refuse(self, required: str, found: Any) -> PluginError:
        """Return the error about a result that is no such thing."""
        return PluginError(f"{self.where}: {self.usage} must return {required}; it returned {_shown(found)}")

    def of(self, function: Callable[..., Any], usage: str, check: Callable[[_Guard, Any], Any]) -> Callable[..., Any]:
        """Return a guarded function of an object that the plugin returned."""
        return _guarded_call(function, _Guard(self.where, usage), check)


def guarded(entry: Any, kind: str, plugin: str) -> Any:
    """Return a copy of a registered entry whose functions are guarded.

    Args:
        entry: the entry, such as a :class:`JudgeType`.
        kind: the kind of entry, for messages, such as ``"judge"``.
        plugin: the plugin's name.

    Raises:
        PluginError: a value of the entry cannot be used.
    """
    calls = _CALLS.get(type(entry).__name__, {})
    if not isinstance(entry.name, str) or not entry.name:
        raise PluginError(f"plugin {plugin!r} registers a {kind} whose name is {entry.name!r}; it must be text")
    label = f"plugin {plugin!r}, {kind} {entry.name!r}"
    if type(entry).__name__ == "EditMethod":
        _check_hparams_class(label, entry)
        _check_port_objects(label, entry)
    changes = {}
    for name, call in calls.items():
        function = getattr(entry, name)
        if function is None:
            continue
        if not callable(function):
            raise PluginError(f"{label}: {name} must be a function, not {_shown(function)}")
        changes[name] = _guarded_call(function, _Guard(label, call.usage), call.check)
    return dataclasses.replace(entry, **changes)


def _check_hparams_class(label: str, method: Any) -> None:
    """Check the hyperparameter class of a method.

    Raises:
        PluginError: it is no class, or hyperparameter files with the method's name would not be read with it.
    """
    cls = method.hparams_class
    if not isinstance(cls, type):
        raise PluginError(f"{label}: hparams_class must be a class, not {_shown(cls)}")
    name = getattr(cls, "ALG_NAME", "") or method.name
    if name != method.name:
        raise PluginError(f"{label}: {cls.__name__}.ALG_NAME is {name!r}; it must be the method's name")


def _check_port_objects(label: str, method: Any) -> None:
    """Check that the ports of a method that are objects have the functions of the port.

    Raises:
        PluginError: a port is a class in place of an instance, or lacks a function.
    """
    for port, functions in _PORT_OBJECTS.items():
        value = getattr(method, port)
        missing = [name for name in functions if not callable(getattr(value, name, None))]
        if isinstance(value, type):
            raise PluginError(f"{label}: {port} must be an object, not the class {value.__name__}")
        if value is not None and missing:
            raise PluginError(f"{label}: {port} has no function {missing[0]}; it must have {', '.join(functions)}")


def _guarded_call(
    function: Callable[..., Any], guard: _Guard, check: Callable[[_Guard, Any], Any]
) -> Callable[..., Any]:
    """Return a function that raises named errors and checks its result."""

    @functools.wraps(function, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        with guard.naming_errors():
            result = function(*args, **kwargs)
        return check(guard, result)

    return call


def _edited(guard: _Guard, result: Any) -> Any:
    """Check the result of an apply function."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise guard.refuse("(edited_model, rollback)", result)
    return result


def _mapping(guard: _Guard, result: Any) -> Any:
    """Check a result that must be a mapping."""
    if not isinstance(result, Mapping):
        raise guard.refuse("a dict", result)
    return result


def _list(guard: _Guard, result: Any) -> Any:
    """Return the result of a loader or a judge as a list, so that errors of a generator are named, too."""
    if not isinstance(result, Iterable):
        raise guard.refuse("a list", result)
    with guard.naming_errors():
        return list(result)


def _requests(guard: _Guard, result: Any) -> Iterator[Any]:
    """Yield what a reader yields, and check each item. The reader is closed together with this generator."""
    kinds = tuple(
        pkgutil.resolve_name(f"easyedit_lifelong.{name}") for name in ("data.request:EditRequest", "errors:DataError")
    )
    if not isinstance(result, Iterable):
        raise guard.refuse("an iterable of EditRequest objects", result)
    with guard.naming_errors(), contextlib.ExitStack() as stack:
        iterator = iter(result)
        stack.callback(getattr(iterator, "close", lambda: None))
        while True:
            try:
                item = next(iterator)
            except StopIteration:
                return
            if not isinstance(item, kinds):
                raise guard.refuse("EditRequest objects (EditRequest.from_dict makes them)", item)
            yield item


def _judge(guard: _Guard, judge: Any) -> Any:
    """Check and guard a judge that a plugin made."""
    if not callable(judge):
        raise guard.refuse("a judge: a function of a list of answers", judge)
    return guard.of(judge, "judge(answers)", _list)


class _GuardedTracker:
    """A tracker whose methods are guarded."""

    def __init__(self, guard: _Guard, tracker: Any) -> None:
        self.log = guard.of(tracker.log, "log(step, metrics)", lambda _, result: result)
        self.close = guard.of(tracker.close, "close()", lambda _, result: result)


def _tracker(guard: _Guard, tracker: Any) -> _GuardedTracker:
    """Check and guard a tracker that a plugin made."""
    if not all(callable(getattr(tracker, name, None)) for name in ("log", "close")):
        raise guard.refuse("an object with the methods log(step, metrics) and close()", tracker)
    return _GuardedTracker(guard, tracker)


def is_no_mistake(error: Exception) -> bool:
    """Return whether an error of a plugin's code passes unchanged: raised on purpose, or by the operating system."""
    # Of torch's OutOfMemoryError, the name is compared: torch is not imported here. Callers react to it.
    return isinstance(error, (LifelongError, OSError, MemoryError, Warning)) or (
        type(error).__name__ == "OutOfMemoryError"
    )


def place_in(frames: Sequence[traceback.FrameSummary]) -> str:
    """Return file and line where a plugin's code raised an error; empty without frames.

    Args:
        frames: frames of the traceback, from the first one of the plugin's code on.
    """
    if not frames:
        return ""
    folder = os.path.dirname(frames[0].filename)
    frame = [frame for frame in frames if frame.filename.startswith(folder)][-1]
    return f"{frame.filename}, line {frame.lineno}"


def _shown(value: Any) -> str:
    """Return a value's type in words."""
    return "None" if value is None else f"a value of type {type(value).__name__}"


_PORT_OBJECTS: Mapping[str, tuple[str, ...]] = {
    "edits": ("parts", "attach"),
    "state": ("save", "load"),
    "remove": ("records", "remove", "remove_from"),
    "remove_batches": ("back_to", "first_batches"),
    "calibrate": ("mismatch", "settings", "steps", "run"),
    "train": ("schedule", "start"),
}
"""The functions of each port of a method that is an object."""

_CALLS: Mapping[str, Mapping[str, _Call]] = {
    "EditMethod": {
        "apply": _Call("apply(model, tok, requests, hparams, copy=…, return_orig_weights=…, …, **kwargs)", _edited),
        "check": _Call("check(model, tok, hparams)"),
        "check_requests": _Call("check_requests(model, tok, hparams, requests)"),
        "prepare": _Call("prepare(model, tok, hparams, progress)"),
        "counts": _Call("counts(model)", _mapping),
        "describe": _Call("describe(part, where, nearly)"),
        "merge": _Call("merge(sources)"),
        "plain_weights": _Call("plain_weights(model)"),
        "study_scope": _Call("study_scope(model, tok, requests)"),
    },
    "DatasetReader": {"read": _Call("read(path)", _requests)},
    "RecordLoader": {"load": _Call("load(path)", _list), "available": _Call("available()")},
    "CovarianceEngine": {
        "collect": _Call("collect(model, tokenizer, job, shard, progress)", _mapping),
        "check": _Call("check(corpus, n_samples, n_tokens)"),
    },
    "TrackerType": {"create": _Call("create(run_folder, config)", _tracker), "check": _Call("check()")},
    "JudgeType": {"create": _Call("create(argument)", _judge), "check": _Call("check(argument)")},
}
"""The functions that are guarded, by the entry's class and the field. Errors of the port ``report_sections`` are shown
on the report's page."""
