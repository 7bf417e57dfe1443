"""Methods that are imported when they are first used."""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from easyedit_lifelong import DeferredMethod, EditMethod, PluginHyperParams, hookimpl
from easyedit_lifelong.errors import PluginError
from easyedit_lifelong.plugins import BUILT_IN, Plugins, get_plugins

MODULE = "deferred_for_tests"


@dataclass(kw_only=True)
class LateHyperParams(PluginHyperParams):
    """Hyperparameters of a method that does nothing."""

    ALG_NAME: ClassVar[str] = "Late"


def sections(run: Any) -> list[Any]:
    return []


LATE = EditMethod("Late", LateHyperParams, lambda model, *_, **__: (model, None))


class LatePlugin:
    """A plugin that registers a method whose module is imported when the method is first used."""

    def __init__(self, name: str = "Late") -> None:
        self.method = DeferredMethod(name, MODULE, report_sections=sections)

    @hookimpl
    def register_methods(self, register: Callable[[DeferredMethod], None]) -> None:
        register(self.method)


class Counting:
    """A plugin that completes methods."""

    @hookimpl
    def complete_method(self, method: EditMethod) -> EditMethod:
        return replace(method, counts=lambda model: {"n": 1})


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plugins]:
    """Return a function that loads plugins as a new process with these entry points does."""
    list(get_plugins().methods)  # imports torch and transformers, which read entry points of other groups

    def load_with(**entry_points: Any) -> Plugins:
        found = [SimpleNamespace(name=name, load=lambda plugin=plugin: plugin) for name, plugin in entry_points.items()]
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: found)
        return get_plugins.__wrapped__()

    return load_with


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The module of the method can be imported; return a list that gets an entry at each import."""
    imported: list[str] = []
    real = importlib.import_module

    def import_module(name: str, package: str | None = None) -> Any:
        if name != MODULE:
            return real(name, package)
        imported.append(name)
        return SimpleNamespace(METHODS=[LATE])

    monkeypatch.setattr(importlib, "import_module", import_module)
    return imported


def test_a_method_is_imported_when_it_is_first_used(load: Callable[..., Plugins], imports: list[str]) -> None:
    plugins = load(theirs=LatePlugin())
    assert "Late" in plugins.methods
    assert plugins.methods.names()[-1] == "Late"
    assert plugins.methods.origin("Late") == "theirs"
    assert plugins.report_sections("Late") is sections
    assert imports == []
    method = plugins.methods.get("Late")
    assert method.hparams_class is LateHyperParams
    assert method.report_sections is sections
    assert plugins.methods.get("Late") is method
    assert list(plugins.methods)[-1] is method
    assert imports == [MODULE]


def test_report_sections_of_other_methods_are_found(load: Callable[..., Plugins]) -> None:
    class Eager:
        @hookimpl
        def register_methods(self, register: Callable[[EditMethod], None]) -> None:
            register(replace(LATE, report_sections=sections))

    plugins = load(theirs=Eager())
    assert plugins.report_sections("Late") is sections
    assert plugins.report_sections("GRACE") is not None
    assert plugins.report_sections("MEMIT-native") is None
    assert plugins.report_sections("no such method") is None
    plugins.remove("theirs")
    assert plugins.report_sections("Late") is None


def test_hyperparameters_load_no_method_but_theirs(load: Callable[..., Plugins], imports: list[str]) -> None:
    plugins = load(theirs=LatePlugin())
    grace = plugins.methods.get("GRACE")
    hparams = grace.hparams_class(model_name="x", inner_params=["layer"])
    assert plugins.method_for(hparams) is grace
    assert imports == []
    assert plugins.method_for(LateHyperParams(model_name="x")) is plugins.methods.get("Late")


def test_plugins_that_were_there_at_the_registration_complete_the_method(
    load: Callable[..., Plugins], imports: list[str]
) -> None:
    assert load(counting=Counting(), theirs=LatePlugin()).methods.get("Late").counts is not None
    assert load(theirs=LatePlugin(), counting=Counting()).methods.get("Late").counts is None


def test_threads_get_the_same_method(load: Callable[..., Plugins], imports: list[str]) -> None:
    plugins = load(theirs=LatePlugin())
    with ThreadPoolExecutor(8) as pool:
        methods = list(pool.map(lambda _: plugins.methods.get("Late"), range(64)))
    assert len({id(method) for method in methods}) == 1
    assert imports == [MODULE]


def test_a_name_that_is_registered_already_is_refused(load: Callable[..., Plugins], imports: list[str]) -> None:
    with pytest.raises(PluginError, match=r"by plugin 'easyedit_lifelong.methods.grace.plugin' and by plugin 'theirs'"):
        load(theirs=LatePlugin("GRACE"))
    plugins = load()
    with pytest.raises(PluginError, match="is registered twice"):
        plugins.add(LatePlugin("GRACE"), "theirs")
    assert plugins.report_sections("GRACE") is not sections
    plugins.add(LatePlugin(), "theirs")
    plugins.remove("theirs")
    assert "Late" not in plugins.methods
    assert "Late" not in plugins.deferred


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (None, "No module named 'deferred_for_tests'"),
        (SimpleNamespace(), "METHODS of deferred_for_tests has no method 'Late'"),
        (SimpleNamespace(METHODS=[replace(LATE, name="Other")]), "has no method 'Late'"),
        (SimpleNamespace(METHODS=[replace(LATE, report_sections=sections)]), "give report_sections of 'Late' to its"),
        (SimpleNamespace(METHODS=[replace(LATE, edits=3)]), "edits has no function parts"),
    ],
)
def test_a_method_of_a_plugin_that_cant_be_loaded_is_left_out(
    load: Callable[..., Plugins],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    module: Any,
    expected: str,
) -> None:
    plugins = load(theirs=LatePlugin())
    built_in = len(plugins.methods) - 1
    if module is not None:
        monkeypatch.setitem(sys.modules, MODULE, module)
    with caplog.at_level(logging.WARNING):
        assert len(list(plugins.methods)) == len(list(plugins.methods)) == built_in
    assert expected in plugins.broken["theirs"]
    assert [record.levelname for record in caplog.records if "'theirs'" in record.getMessage()] == ["WARNING"]
    assert "Late" not in plugins.methods and "Late" not in plugins.deferred
    with pytest.raises(PluginError, match="no editing method is called 'Late'"):
        plugins.methods.get("Late")


def test_an_error_in_a_method_of_this_package_is_not_hidden(load: Callable[..., Plugins]) -> None:
    plugins = load()
    plugins.add(LatePlugin(), "own")
    with pytest.raises(ModuleNotFoundError, match=MODULE):
        plugins.methods.get("Late")


def test_built_in_plugins_import_no_torch_and_a_method_no_other_method() -> None:
    script = (
        "import sys\nfrom easyedit_lifelong.plugins import get_plugins\nplugins = get_plugins()\n"
        "assert not {'torch', 'transformers', 'numpy', 'matplotlib', 'easyeditor'} & {*sys.modules}\n"
        "plugins.methods.get('GRACE')\n"
        "assert 'easyedit_lifelong.methods.grace.editor' in sys.modules\n"
        "assert not [name for name in sys.modules if name.startswith('easyedit_lifelong.methods.memit.editor')]"
    )
    subprocess.run([sys.executable, "-c", script], timeout=120, check=True)


def test_each_module_defines_the_methods_that_its_plugin_registers() -> None:
    plugins = get_plugins()
    built_in = [name for name in plugins.methods.names() if plugins.methods.origin(name) in BUILT_IN]
    assert set(built_in) <= plugins.deferred.keys()
    modules = {plugins.deferred[name].module for name in built_in}
    assert [
        method.name
        for module in dict.fromkeys(plugins.deferred[name].module for name in built_in)
        for method in importlib.import_module(module).METHODS
    ] == built_in
    assert all(module.startswith("easyedit_lifelong.methods.") for module in modules)
