"""Mistakes in an installed plugin: each error names the plugin, the entry and the function."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from easyedit_lifelong import (
    DataError,
    DatasetReader,
    EditError,
    EditMethod,
    EditRequest,
    JudgedAnswer,
    JudgeType,
    PluginHyperParams,
    Rollback,
    TrackerType,
    Verdict,
    hookimpl,
    read_requests,
)
from easyedit_lifelong.errors import PluginError, RunError
from easyedit_lifelong.evaluation.answer_matching import Generation
from easyedit_lifelong.evaluation.judged_answers import JudgedAnswers
from easyedit_lifelong.plugins import Plugins, get_plugins
from easyedit_lifelong.registry import CovarianceEngine, RecordLoader

ANSWERS = [JudgedAnswer("prompt", "target", "output")]


@dataclass(kw_only=True)
class MistakeHyperParams(PluginHyperParams):
    """Hyperparameters of a method with mistakes."""

    ALG_NAME: ClassVar[str] = "Mistake"


class EntryPlugin:
    """A plugin that registers one entry with one hook."""

    def __init__(self, hook: str, entry: Any) -> None:
        def register_entry(register: Callable[[Any], None]) -> None:
            register(entry)

        register_entry.__name__ = hook
        setattr(self, hook, hookimpl(register_entry))


HOOKS = {
    EditMethod: ("register_methods", "methods"),
    DatasetReader: ("register_readers", "readers"),
    RecordLoader: ("register_loaders", "loaders"),
    CovarianceEngine: ("register_covariance_engines", "covariance_engines"),
    TrackerType: ("register_trackers", "trackers"),
    JudgeType: ("register_judges", "judges"),
}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Plugins]:
    """Return a function that loads the plugins of a process with one entry point, ``theirs``."""
    list(get_plugins().methods)  # imports torch and transformers, which read entry points of other groups

    def load_with(plugin: Any) -> Plugins:
        entry_point = SimpleNamespace(name="theirs", load=lambda: plugin)
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [entry_point])
        return get_plugins.__wrapped__()

    return load_with


@pytest.fixture
def installed(load: Callable[[Any], Plugins]) -> Callable[[Any], Any]:
    """Return a function that installs a plugin with one entry, and returns the registered entry."""

    def install(entry: Any) -> Any:
        hook, registry = HOOKS[type(entry)]
        plugins = load(EntryPlugin(hook, entry))
        assert plugins.broken == {}
        return getattr(plugins, registry).get(entry.name)

    return install


def _method(apply: Callable[..., Any], **ports: Any) -> EditMethod:
    return EditMethod("Mistake", MistakeHyperParams, apply, **ports)


def _raise(error: BaseException) -> Any:
    raise error


# ------------------------------------------------------------------ when the plugin is loaded


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (ModuleType("empty"), "plugin 'theirs' implements no hook: mark its functions with @hookimpl"),
        (SimpleNamespace(), "plugin 'theirs' must be a module or an object that can be hashed"),
        (
            EntryPlugin("register_judge", None),
            "there is no hook 'register_judge'. Did you mean 'register_judges'? Hooks: register_methods, ",
        ),
        (EntryPlugin("register_judges", JudgeType(None, print)), "registers a judge whose name is None"),  # type: ignore[arg-type]
        (
            EntryPlugin("register_judges", JudgeType("strict", "judge")),  # type: ignore[arg-type]
            "plugin 'theirs', judge 'strict': create must be a function, not a value of type str",
        ),
        (
            EntryPlugin("register_methods", EditMethod("Other", MistakeHyperParams, print)),
            "editing method 'Other': MistakeHyperParams.ALG_NAME is 'Mistake'; it must be the method's name",
        ),
        (
            EntryPlugin("register_methods", EditMethod("Mistake", "MistakeHyperParams", print)),  # type: ignore[arg-type]
            "editing method 'Mistake': hparams_class must be a class, not a value of type str",
        ),
        (
            EntryPlugin("register_methods", EditMethod("Mistake", MistakeHyperParams, print, edits=SimpleNamespace)),  # type: ignore[arg-type]
            "editing method 'Mistake': edits must be an object, not the class SimpleNamespace",
        ),
        (
            EntryPlugin(
                "register_methods",
                EditMethod("Mistake", MistakeHyperParams, print, state=SimpleNamespace(save=print)),  # type: ignore[arg-type]
            ),
            "editing method 'Mistake': state has no function load; it must have save, load",
        ),
    ],
)
def test_a_wrong_entry_is_refused_and_leaves_nothing(load: Callable[[Any], Plugins], plugin: Any, message: str) -> None:
    plugins = load(plugin)
    assert message in plugins.broken["theirs"]
    assert not plugins.manager.has_plugin("theirs")
    assert not {"strict", None} & {judge.name for judge in plugins.judges}


# ------------------------------------------------------------------ when a function is called


@pytest.mark.parametrize(
    ("entry", "call", "message"),
    [
        (
            _method(lambda model: model),
            lambda entry: entry.apply(1, 2, 3, 4),
            "editing method 'Mistake': apply fails: TypeError: <lambda>() takes 1 positional argument",
        ),
        (_method(lambda *_: 1), lambda entry: entry.apply(1, 2, 3, 4), "must return (edited_model, rollback)"),
        (
            _method(print, counts=lambda model: 3),
            lambda entry: entry.counts(1),
            "counts(model) must return a dict; it returned a value of type int",
        ),
        (
            JudgeType("strict", lambda: None),  # type: ignore[arg-type,misc]
            lambda entry: entry.create(""),
            "It is called as create(argument) (docs/plugins.md)",
        ),
        (
            JudgeType("strict", lambda argument: [Verdict(1.0)]),  # type: ignore[arg-type,return-value]
            lambda entry: entry.create(""),
            "judge 'strict': create(argument) must return a judge: a function of a list of answers; it returned",
        ),
        (
            JudgeType("strict", lambda argument: lambda answers: None),  # type: ignore[arg-type,return-value]
            lambda entry: entry.create("")(ANSWERS),
            "judge 'strict': judge(answers) must return a list; it returned None",
        ),
        (
            TrackerType("log", lambda folder, config: SimpleNamespace(log=print)),  # type: ignore[arg-type,return-value]
            lambda entry: entry.create(Path(), {}),
            "must return an object with the methods log(step, metrics) and close()",
        ),
        (
            TrackerType("log", lambda *_: SimpleNamespace(log=lambda step: None, close=print)),  # type: ignore[arg-type,return-value]
            lambda entry: entry.create(Path(), {}).log(1, {}),
            "tracker 'log': log fails: TypeError",
        ),
        (RecordLoader("csv", lambda path: None), lambda entry: entry.load(Path()), "load(path) must return a list"),  # type: ignore[arg-type,return-value]
        (
            CovarianceEngine("mine", lambda *_: None),  # type: ignore[arg-type,return-value]
            lambda entry: entry.collect(1, 2, 3, 4, None),
            "covariance engine 'mine': collect(model, tokenizer, job, shard, progress) must return a dict",
        ),
        (
            DatasetReader("csv", lambda path: None),  # type: ignore[arg-type,return-value]
            lambda entry: list(entry.read(Path())),
            "dataset format 'csv': read(path) must return an iterable of EditRequest objects; it returned None",
        ),
        (
            DatasetReader("csv", lambda path: [{"prompt": "a", "target_new": "b"}]),  # type: ignore[list-item]
            lambda entry: list(entry.read(Path())),
            "read(path) must return EditRequest objects (EditRequest.from_dict makes them); it returned a value",
        ),
    ],
)
def test_a_mistake_is_named(
    installed: Callable[[Any], Any], entry: Any, call: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(PluginError) as error:
        call(installed(entry))
    assert str(error.value).startswith("plugin 'theirs', ")
    assert message in str(error.value)


def test_an_error_in_the_plugins_code_has_its_file_and_line(installed: Callable[[Any], Any], tmp_path: Path) -> None:
    def read(path: Path) -> Any:
        yield EditRequest(0, "prompt", "target")
        yield {}["promt"]

    reader = installed(DatasetReader("csv", read))
    (tmp_path / "facts.csv").write_text("")
    line = read.__code__.co_firstlineno + 2
    with pytest.raises(PluginError, match=rf"read fails: KeyError: 'promt' \(.*test_plugin_guards\.py, line {line}\)"):
        read_requests(tmp_path / "facts.csv", reader.read)


@pytest.mark.parametrize(
    "error", [EditError("no"), DataError("no"), OSError("no"), UserWarning("no"), KeyboardInterrupt()]
)
def test_errors_that_are_no_mistakes_pass_unchanged(installed: Callable[[Any], Any], error: BaseException) -> None:
    method = installed(_method(lambda *_, **__: _raise(error)))
    with pytest.raises(type(error)) as raised:
        method.apply(1, 2, 3, 4)
    assert raised.value is error


def test_functions_without_mistakes_work(installed: Callable[[Any], Any]) -> None:
    rollback = Rollback(lambda: None, on_items=False)
    store = get_plugins().methods.get("GRACE").edits
    assert installed(_method(lambda model, *_: (model, rollback), edits=store)).apply(1, 2, 3, 4) == (1, rollback)
    judge = installed(JudgeType("strict", lambda argument: lambda answers: [Verdict(0.5, argument)] * len(answers)))
    assert judge.create("x")(ANSWERS) == [Verdict(0.5, "x")]
    logged: list[Any] = []
    tracker = TrackerType("list", lambda *_: SimpleNamespace(log=lambda *line: logged.append(line), close=logged.clear))
    created = installed(tracker).create(Path(), {})
    created.log(3, {"ERR": 1.0})
    assert logged == [(3, {"ERR": 1.0})]
    created.close()
    assert logged == []


def test_a_reader_is_closed_when_it_is_read_in_part(installed: Callable[[Any], Any]) -> None:
    closed: list[bool] = []

    def read(path: Path) -> Any:
        try:
            yield EditRequest(0, "prompt", "target")
            yield EditRequest(1, "prompt", "target")
        finally:
            closed.append(True)

    results = installed(DatasetReader("csv", read)).read(Path())
    next(results)
    results.close()
    assert closed == [True]


@pytest.mark.parametrize("score", ["yes", None, 2, float("nan")])
def test_a_verdict_with_a_wrong_score_is_refused(score: Any) -> None:
    judged = JudgedAnswers(lambda answers: [Verdict(score)] * len(answers), "strict")
    with pytest.raises(RunError, match="judge strict: does not give one verdict from 0 to 1"):
        judged.scores([Generation(0, "prompt", "target", "before", "after", True)])
