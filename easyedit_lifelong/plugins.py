"""Load plugins: the built-in ones, then the entry points of the group ``easyedit_lifelong``."""

from __future__ import annotations

import functools
import importlib
import itertools
import logging
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pluggy

from easyedit_lifelong import hookspecs
from easyedit_lifelong.errors import DuplicateNameError, PluginError, did_you_mean, reason_of
from easyedit_lifelong.plugin_guards import guarded
from easyedit_lifelong.registry import (
    CovarianceEngine,
    DatasetReader,
    DeferredMethod,
    JudgeType,
    ModelMethod,
    RecordLoader,
    Registry,
    TrackerType,
)

if TYPE_CHECKING:
    from easyedit_lifelong.methods.base import EditMethod
    from easyedit_lifelong.methods.report_sections import ReportSection, RunRecord

LOG = logging.getLogger(__name__)

BUILT_IN = (
    "easyedit_lifelong.edits.plugin",  # first: it completes the methods that are registered after it
    "easyedit_lifelong.methods.grace.plugin",
    "easyedit_lifelong.methods.coachhook.plugin",
    "easyedit_lifelong.methods.memit.plugin",
    "easyedit_lifelong.methods.alphaedit.plugin",
    "easyedit_lifelong.methods.ultraedit.plugin",
    "easyedit_lifelong.methods.rome.plugin",
    "easyedit_lifelong.methods.finetune.plugin",
    "easyedit_lifelong.methods.trained_adaptors.plugin",
    "easyedit_lifelong.methods.neuraldb.plugin",
    "easyedit_lifelong.methods.retrieval.plugin",
    "easyedit_lifelong.methods.mend.plugin",
    "easyedit_lifelong.methods.ke.plugin",
    "easyedit_lifelong.methods.enn.plugin",
    "easyedit_lifelong.data.plugin",
    "easyedit_lifelong.covariance.plugin",
    "easyedit_lifelong.evaluation.plugin",
    "easyedit_lifelong.bridge.plugin",
    "easyedit_lifelong.reporting.plugin",
)


def _edit_method_class() -> type:
    """Return the class :class:`EditMethod`. Imported by name, since this module must not depend on ``methods``."""
    return pkgutil.resolve_name("easyedit_lifelong.methods.base:EditMethod")


@dataclass
class Plugins:
    """The registries that plugins fill, and the plugins that could not be loaded.

    Attributes:
        manager: the pluggy manager.
        deferred: the methods that were registered as a :class:`DeferredMethod`, by name, whether loaded or not.
        broken: the error of each plugin that could not be loaded, by plugin name.
    """

    manager: pluggy.PluginManager
    methods: Registry[EditMethod] = field(default_factory=lambda: Registry("editing method", _edit_method_class()))
    readers: Registry[DatasetReader] = field(default_factory=lambda: Registry("dataset format", DatasetReader))
    loaders: Registry[RecordLoader] = field(default_factory=lambda: Registry("record loader", RecordLoader))
    covariance_engines: Registry[CovarianceEngine] = field(
        default_factory=lambda: Registry("covariance engine", CovarianceEngine)
    )
    trackers: Registry[TrackerType] = field(default_factory=lambda: Registry("tracker", TrackerType))
    judges: Registry[JudgeType] = field(default_factory=lambda: Registry("judge", JudgeType))
    model_methods: Registry[ModelMethod] = field(default_factory=lambda: Registry("model method", ModelMethod))
    deferred: dict[str, DeferredMethod] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def add(self, plugin: Any, name: str, *, guard: bool = False) -> None:
        """Register a plugin and all entries that its hooks register; register nothing if one is refused.

        Args:
            plugin: a module or object with hook implementations.
            name: the plugin's name.
            guard: make errors of the plugin's functions name the plugin (:mod:`easyedit_lifelong.plugin_guards`).

        Raises:
            PluginError: the plugin's name, or the name of an entry, is already registered; or the plugin implements
                no hook, or one that does not exist.
        """
        if type(plugin).__hash__ is None:  # pluggy keeps plugins in sets
            raise PluginError(f"plugin {name!r} must be a module or an object that can be hashed, unlike a dataclass's")
        try:
            self.manager.register(plugin, name=name)
        except ValueError as error:
            raise PluginError(f"plugin {name!r} can't be registered: {error}") from error
        except pluggy.PluginValidationError as error:
            self.remove(name)
            raise PluginError(f"plugin {name!r} can't be registered: {' '.join(str(error).split())}") from error
        try:
            self._check_hooks(plugin, name)
            self._call_hooks(plugin, name, guard)
        except BaseException:
            self.remove(name)
            raise

    def _registries(self) -> dict[str, Registry[Any]]:
        """Return each registry by the hook that fills it."""
        return {
            "register_methods": self.methods,
            "register_readers": self.readers,
            "register_loaders": self.loaders,
            "register_covariance_engines": self.covariance_engines,
            "register_trackers": self.trackers,
            "register_judges": self.judges,
            "register_model_methods": self.model_methods,
        }

    def remove(self, name: str) -> None:
        """Unregister a plugin and all entries that it registered; do nothing if there is no such plugin."""
        for registry in self._registries().values():
            registry.discard(name)
        self.deferred = {method: entry for method, entry in self.deferred.items() if method in self.methods}
        if self.manager.has_plugin(name):
            self.manager.unregister(name=name)

    def _check_hooks(self, plugin: Any, name: str) -> None:
        """Check that a plugin implements a hook, and only hooks that exist. Pluggy ignores others silently."""
        callers = self.manager.get_hookcallers(plugin) or []
        if not callers:
            raise PluginError(
                f"plugin {name!r} implements no hook: mark its functions with @hookimpl (docs/plugins.md)"
            )
        hooks = [*self._registries(), "complete_method"]
        for caller in callers:
            if not caller.has_spec():
                raise PluginError(
                    f"plugin {name!r}: there is no hook {caller.name!r}.{did_you_mean(caller.name, hooks)} "
                    f"Hooks: {', '.join(hooks)}."
                )

    def _call_hooks(self, plugin: Any, name: str, guard: bool) -> None:
        """Call the registration hooks of one plugin."""
        others = [other for _, other in self.manager.list_name_plugin() if other is not plugin]
        for hook, registry in self._registries().items():
            add = functools.partial(self._register, registry, name, guard)
            self.manager.subset_hook_caller(hook, others)(register=add)

    def _register(self, registry: Registry[Any], plugin: str, guard: bool, entry: Any) -> None:
        """Add an entry to a registry; other plugins can complete a method first (``complete_method``)."""
        if registry is self.methods and isinstance(entry, DeferredMethod):
            self._defer(entry, plugin, guard)
            return
        if guard and isinstance(entry, registry.entry_class):
            entry = guarded(entry, registry.kind, plugin)
        if registry is self.methods and isinstance(entry, registry.entry_class):
            entry = self._completed(entry, self._completions())
        registry.add(entry, plugin)

    def _defer(self, deferred: DeferredMethod, plugin: str, guard: bool) -> None:
        """Register a method that is loaded, guarded and completed when it is first used."""
        completions = self._completions()

        def load() -> EditMethod | None:
            try:
                method = deferred.load()
                method = guarded(method, self.methods.kind, plugin) if guard else method
                return self._completed(method, completions)
            except Exception as error:  # third-party code can raise anything
                if not guard:
                    raise
                problem = f"method {deferred.name!r}: {reason_of(error)}"
                self.broken[plugin] = "; ".join(filter(None, (self.broken.get(plugin), problem)))
                LOG.warning("method %r of plugin %r could not be loaded: %s", deferred.name, plugin, error)
                del self.deferred[deferred.name]
                return None

        self.methods.add_deferred(deferred.name, load, plugin)
        self.deferred[deferred.name] = deferred

    def _completions(self) -> Sequence[pluggy.HookImpl]:
        """Return the implementations of ``complete_method`` of the plugins that are registered so far."""
        return self.manager.hook.complete_method.get_hookimpls()

    def _completed(self, method: Any, completions: Sequence[pluggy.HookImpl]) -> Any:
        """Return a method as the plugins with ``complete_method`` completed it, in the order of their registration."""
        plugins = [plugin for _, plugin in self.manager.list_name_plugin()]
        for implementation in completions:
            others = [plugin for plugin in plugins if plugin is not implementation.plugin]
            completed: Any = self.manager.subset_hook_caller("complete_method", others)(method=method)
            if completed is not None and not isinstance(completed, self.methods.entry_class):
                raise PluginError(
                    f"plugin {implementation.plugin_name!r}: complete_method must return an EditMethod or None"
                )
            method = completed or method
        return method

    def method_for(self, hparams: Any) -> EditMethod | None:
        """Return the registered method whose hyperparameter class ``hparams`` is an instance of, if any.

        The method that ``alg_name`` names is compared first, so that usually no other one is loaded.
        """
        name = getattr(hparams, "alg_name", None)
        named = [self.methods.get(name)] if isinstance(name, str) and name in self.methods else []
        candidates = itertools.chain(named, self.methods)
        return next((method for method in candidates if isinstance(hparams, method.hparams_class)), None)

    def report_sections(self, name: str) -> Callable[[RunRecord], Sequence[ReportSection]] | None:
        """Return the port ``report_sections`` of a method, which is not loaded if it is a :class:`DeferredMethod`.

        Args:
            name: the method's name.

        Returns:
            None if the method lacks the port, or if no method has this name.
        """
        if name in self.deferred:
            return self.deferred[name].report_sections
        return self.methods.get(name).report_sections if name in self.methods else None


@functools.cache
def get_plugins() -> Plugins:
    """Return the plugins of this process; load them at the first call.

    A third-party plugin that can't be loaded is skipped with a warning, and the command ``doctor`` lists it. Two
    plugins that register the same name are an error.

    Raises:
        PluginError: two plugins registered the same name.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    plugins = Plugins(manager)
    for module in BUILT_IN:
        plugins.add(importlib.import_module(module), module)
    for entry_point in metadata.entry_points(group=hookspecs.PROJECT):
        try:
            plugins.add(entry_point.load(), entry_point.name, guard=True)
        except DuplicateNameError:
            raise
        except Exception as error:  # third-party code can raise anything
            plugins.broken[entry_point.name] = reason_of(error)
            LOG.warning("plugin %r could not be loaded: %s", entry_point.name, error)
    return plugins
