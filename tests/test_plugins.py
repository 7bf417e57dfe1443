"""Plugins: what they can register, and what happens if they are broken or use a name twice."""

from __future__ import annotations

import importlib.metadata
import inspect
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

import easyedit_lifelong
from easyedit_lifelong import hookimpl, hookspecs
from easyedit_lifelong.errors import PluginError
from easyedit_lifelong.hyperparams import PluginHyperParams
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.plugins import Plugins, get_plugins
from easyedit_lifelong.registry import DatasetReader, Registry, TrackerType

BUILT_IN = [
    *("GRACE", "CoachHook", "MEMIT-native", "AlphaEdit", "UltraEdit", "ROME-native"),
    *("FT-native", "FT-L", "FT-EWC", "FT-Retrain", "LocFT-BF", "Defer-native", "Memory", "NeuralDB"),
    *("IKE-native", "SERAC-native", "MEND", "KE", "ENN"),
]
"""The methods that come with the package."""

FORMATS = {
    *("json", "zsre", "zsre-rephrased", "counterfact", "rome-counterfact", "hallucination", "labelled", "wikibigedit"),
    *("ultraeditbench", "qaedit", "knowedit", "wikibio", "mquake", "fever", "fever-labels", "relations"),
    *("ripple-edits", "uniedit"),
}
"""The dataset formats that come with the package."""


@dataclass(kw_only=True)
class NopHyperParams(PluginHyperParams):
    """Hyperparameters of a method that does nothing."""

    ALG_NAME: ClassVar[str] = "NOP"


def _nop(model: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
    return model, None


class CompletePlugin:
    """A third-party plugin that registers a method, a reader and a tracker."""

    def __init__(self, method: str = "NOP", reader: str = "csv-facts", tracker: str = "stdout") -> None:
        self.names = (method, reader, tracker)
        self.hparams_class = type(f"{method}HyperParams", (NopHyperParams,), {"ALG_NAME": method})

    @hookimpl
    def register_methods(self, register: Callable[[EditMethod], None]) -> None:
        hparams_class = NopHyperParams if self.names[0] == "NOP" else self.hparams_class
        register(EditMethod(self.names[0], hparams_class, _nop))

    @hookimpl
    def register_readers(self, register: Callable[[DatasetReader], None]) -> None:
        register(DatasetReader(self.names[1], lambda path: []))

    @hookimpl
    def register_trackers(self, register: Callable[[TrackerType], None]) -> None:
        register(TrackerType(self.names[2], lambda folder, config: None))  # type: ignore[arg-type,return-value]


@dataclass
class FakeEntryPoint:
    """An entry point as an installed distribution has it."""

    name: str
    plugin: Any

    def load(self) -> Any:
        if isinstance(self.plugin, BaseException):
            raise self.plugin
        return self.plugin


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plugins]:
    """Return a function that loads plugins as a new process with these entry points does."""
    list(get_plugins().methods)  # imports torch and transformers, which read entry points of other groups

    def load_with(**entry_points: Any) -> Plugins:
        def find(*, group: str) -> list[FakeEntryPoint]:
            assert group == "easyedit_lifelong"
            return [FakeEntryPoint(name, plugin) for name, plugin in entry_points.items()]

        monkeypatch.setattr(importlib.metadata, "entry_points", find)
        return get_plugins.__wrapped__()  # without the cache, which must keep this process's plugins

    return load_with


# ------------------------------------------------------------------ what is registered


def test_built_in_methods_formats_and_trackers_are_registered_by_hooks(load: Callable[..., Plugins]) -> None:
    plugins = load()
    assert plugins.methods.get("GRACE").hparams_class is GraceHyperParams
    assert plugins.methods.origin("GRACE") == "easyedit_lifelong.methods.grace.plugin"
    assert {reader.name for reader in plugins.readers} == FORMATS
    assert {tracker.name for tracker in plugins.trackers} == {"csv", "json", "tensorboard", "wandb", "mlflow"}
    assert plugins.broken == {}


def test_plugins_are_loaded_once_per_process() -> None:
    assert get_plugins() is get_plugins()


def test_a_third_party_plugin_is_registered_after_the_built_in_ones(load: Callable[..., Plugins]) -> None:
    plugins = load(theirs=CompletePlugin())
    assert inspect.unwrap(plugins.methods.get("NOP").apply) is _nop
    assert plugins.methods.origin("NOP") == plugins.readers.origin("csv-facts") == "theirs"
    assert "stdout" in plugins.trackers
    assert [method.name for method in plugins.methods] == [*BUILT_IN, "NOP"], "the built-in methods aren't first"


def test_the_hyperparameter_class_determines_the_method(load: Callable[..., Plugins]) -> None:
    plugins = load(theirs=CompletePlugin())
    assert plugins.method_for(NopHyperParams(model_name="x")).name == "NOP"  # type: ignore[union-attr]
    grace = GraceHyperParams(model_name="x", inner_params=["layer"])
    assert plugins.method_for(grace).name == "GRACE"  # type: ignore[union-attr]

    @dataclass(kw_only=True)
    class Subclass(NopHyperParams):
        """A subclass belongs to the same method."""

    assert plugins.method_for(Subclass(model_name="x")).name == "NOP"  # type: ignore[union-attr]

    class SameNameOnly:
        alg_name = "GRACE"

    assert plugins.method_for(SameNameOnly()) is None, "the name of a method is enough to select it"


def test_adding_a_plugin_does_not_register_the_others_again(load: Callable[..., Plugins]) -> None:
    plugins = load(theirs=CompletePlugin())
    plugins.add(CompletePlugin("NOP2", "csv-facts2", "stdout2"), "second")
    assert [method.name for method in plugins.methods] == [*BUILT_IN, "NOP", "NOP2"]
    assert plugins.methods.origin("NOP") == "theirs"
    assert plugins.methods.origin("NOP2") == "second"


def test_several_plugins_complete_a_method_one_after_another(load: Callable[..., Plugins]) -> None:
    class Counting(CompletePlugin):
        """A plugin that completes methods."""

        @hookimpl
        def complete_method(self, method: EditMethod) -> EditMethod:
            return replace(method, counts=lambda model: {"n": 1})

    class Stored(CompletePlugin):
        """A plugin with an appendable edit store, for which the package completes a method."""

        @hookimpl
        def register_methods(self, register: Callable[[EditMethod], None]) -> None:
            store = load().methods.get("GRACE").edits
            register(
                EditMethod("Stored", type("Hparams", (NopHyperParams,), {"ALG_NAME": "Stored"}), _nop, edits=store)
            )

    plugins = load(counting=Counting(), stored=Stored("B", "b", "c"))
    stored = plugins.methods.get("Stored")
    assert stored.counts is not None
    assert stored.state is not None, "the completion of one plugin has replaced that of another"


def test_every_public_name_can_be_imported() -> None:
    assert sorted(easyedit_lifelong._LAZY.keys() | {"LifelongError"}) == sorted(easyedit_lifelong.__all__)
    for name in easyedit_lifelong.__all__:
        assert getattr(easyedit_lifelong, name) is not None


def test_the_documents_explain_every_port() -> None:
    text = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"^\| `(\w+)", text, re.MULTILINE))
    assert {item.name for item in fields(EditMethod)} - {"name", "hparams_class", "apply"} <= explained
    assert {name for name in vars(hookspecs) if name.startswith(("register_", "complete_"))} <= explained


def test_the_types_that_hooks_and_ports_name_are_public() -> None:
    text = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text(encoding="utf-8")
    entries = re.findall(r"^\| `register_\w+\(register\)` \| `(\w+)", text, re.MULTILINE)
    assert len(entries) == 7
    ports = [*re.findall(r"\ban? `([A-Z]\w+)`", text), "JudgedAnswer", "Verdict", "WatchAnswers"]
    assert not [name for name in (*entries, *ports) if name not in easyedit_lifelong.__all__]


# ------------------------------------------------------------------ names that are used twice


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("GRACE", "a", "b"), "editing method 'GRACE'"),
        (("A", "zsre", "b"), "dataset format 'zsre'"),
        (("A", "a", "csv"), "tracker 'csv'"),
    ],
)
def test_a_name_that_a_built_in_has_is_refused_with_both_plugins(
    load: Callable[..., Plugins], names: tuple[str, str, str], expected: str
) -> None:
    with pytest.raises(PluginError, match="is registered twice") as caught:
        load(theirs=CompletePlugin(*names))
    message = str(caught.value)
    assert expected in message
    assert "'theirs'" in message
    assert "'easyedit_lifelong." in message, "the built-in plugin isn't named"


def test_two_plugins_with_the_same_method_are_refused(load: Callable[..., Plugins]) -> None:
    with pytest.raises(PluginError, match=r"by plugin 'first' and by plugin 'second'"):
        load(first=CompletePlugin(), second=CompletePlugin("NOP", "other", "other"))


def test_the_same_plugin_or_plugin_name_is_refused_a_second_time(load: Callable[..., Plugins]) -> None:
    plugins, plugin = load(), CompletePlugin()
    plugins.add(plugin, "theirs")
    with pytest.raises(PluginError, match="'other'"):
        plugins.add(plugin, "other")
    with pytest.raises(PluginError, match="'theirs'"):
        plugins.add(CompletePlugin("B", "b", "b"), "theirs")
    assert "B" not in plugins.methods


def test_a_refused_plugin_leaves_nothing_behind(load: Callable[..., Plugins]) -> None:
    """In a notebook, the corrected plugin must load at the next attempt."""
    plugins = load()
    with pytest.raises(PluginError, match="tracker 'csv'"):
        plugins.add(CompletePlugin(tracker="csv"), "theirs")
    assert "NOP" not in plugins.methods
    assert "csv-facts" not in plugins.readers
    plugins.add(CompletePlugin(), "theirs")
    assert plugins.methods.origin("NOP") == "theirs"


# ------------------------------------------------------------------ broken plugins


class RaisesInHook:
    """A plugin that can be imported, but whose hook needs a missing package."""

    @hookimpl
    def register_methods(self, register: Callable[[EditMethod], None]) -> None:
        raise ModuleNotFoundError("No module named 'flash_editing'")


class WrongArgument:
    """A plugin for another version of the hooks."""

    @hookimpl
    def register_methods(self, registry: Any) -> None:
        """Take an argument that the hook doesn't have."""


class RegistersAClass:
    """A plugin that registers a class in place of an ``EditMethod``."""

    @hookimpl
    def register_methods(self, register: Callable[[Any], None]) -> None:
        register(NopHyperParams)


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (ImportError("No module named 'flash_editing'"), "flash_editing"),
        (SyntaxError("invalid syntax"), "SyntaxError"),
        (AttributeError("module has no attribute 'plugin'"), "AttributeError"),
        (RaisesInHook(), "flash_editing"),
        (WrongArgument(), "registry"),
        (RegistersAClass(), "EditMethod"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_a_broken_plugin_does_not_keep_others_from_loading(
    load: Callable[..., Plugins], caplog: pytest.LogCaptureFixture, broken: Any, expected: str
) -> None:
    with caplog.at_level(logging.WARNING):
        plugins = load(broken=broken, fine=CompletePlugin())
    assert expected in plugins.broken["broken"]
    assert "NOP" in plugins.methods, "the plugin after the broken one isn't loaded"
    assert [method.name for method in plugins.methods] == [*BUILT_IN, "NOP"]
    assert [r.levelname for r in caplog.records if "'broken'" in r.getMessage()] == ["WARNING"]


# ------------------------------------------------------------------ unknown names


@pytest.mark.parametrize(
    ("registry", "name", "expected"),
    [
        (
            "methods",
            "GRAC",
            "no editing method is called 'GRAC'. Did you mean 'GRACE'? "
            "Known: AlphaEdit, CoachHook, Defer-native, ENN, FT-EWC, FT-L, FT-Retrain, FT-native, GRACE, IKE-native, "
            "KE, LocFT-BF, MEMIT-native, MEND, Memory, NeuralDB, ROME-native, SERAC-native, UltraEdit.",
        ),
        (
            "readers",
            "zsrE",
            f"no dataset format is called 'zsrE'. Did you mean 'zsre'? Known: {', '.join(sorted(FORMATS))}.",
        ),
        ("trackers", "abacus", "no tracker is called 'abacus'. Known: csv, json, mlflow, tensorboard, wandb."),
    ],
)
def test_an_unknown_name_is_refused_with_a_suggestion_and_the_known_names(
    load: Callable[..., Plugins], registry: str, name: str, expected: str
) -> None:
    with pytest.raises(PluginError) as caught:
        getattr(load(), registry).get(name)
    assert str(caught.value) == expected


@pytest.mark.parametrize("name", ["grace", "Grace"])
def test_a_name_in_the_wrong_case_gets_a_suggestion(load: Callable[..., Plugins], name: str) -> None:
    with pytest.raises(PluginError, match="Did you mean 'GRACE'"):
        load().methods.get(name)


def test_an_empty_registry_has_no_known_names() -> None:
    with pytest.raises(PluginError, match=r"no tracker is called 'x'. Known: none\."):
        Registry("tracker").get("x")


def test_a_plugins_reader_is_found_and_reads(load: Callable[..., Plugins], tmp_path: Path) -> None:
    reader = load(theirs=CompletePlugin()).readers.get("csv-facts")
    assert list(reader.read(tmp_path)) == []
