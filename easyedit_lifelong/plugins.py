"""Load plugins: the built-in ones, then the entry points of the group ``easyedit_lifelong``."""

from __future__ import annotations

import functools
import importlib
import logging
import pkgutil
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pluggy

from easyedit_lifelong import hookspecs
from easyedit_lifelong.errors import DuplicateNameError, PluginError
from easyedit_lifelong.registry import (
    CovarianceEngine,
    DatasetReader,
    JudgeType,
    ModelMethod,
    RecordLoader,
    Registry,
    TrackerType,
)

if TYPE_CHECKING:
    from easyedit_lifelong.methods.base import EditMethod

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
    broken: dict[str, str] = field(default_factory=dict)

    def add(self, plugin: Any, name: str) -> None:
        """Register a plugin and all entries that its hooks register; register nothing if one is refused.

        Args:
            plugin: a module or object with hook implementations.
            name: the plugin's name.

        Raises:
            PluginError: the plugin's name, or the name of an entry, is already registered.
        """
        try:
            self.manager.register(plugin, name=name)
        except ValueError as error:
            raise PluginError(f"plugin {name!r} can't be registered: {error}") from error
        except pluggy.PluginValidationError as error:
            self.remove(name)
            raise PluginError(f"plugin {name!r} can't be registered: {' '.join(str(error).split())}") from error
        try:
            self._call_hooks(plugin, name)
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
        if self.manager.has_plugin(name):
            self.manager.unregister(name=name)

    def _call_hooks(self, plugin: Any, name: str) -> None:
        """Call the registration hooks of one plugin."""
        others = [other for _, other in self.manager.list_name_plugin() if other is not plugin]
        for hook, registry in self._registries().items():
            add = functools.partial(self._register, registry, name)
            self.manager.subset_hook_caller(hook, others)(register=add)

    def _register(self, registry: Registry[Any], plugin: str, entry: Any) -> None:
        """Add an entry to a registry; other plugins can complete a method first (``complete_method``)."""
        if isinstance(entry, self.methods.entry_class):
            entry = self.manager.hook.complete_method(method=entry) or entry
        registry.add(entry, plugin)

    def method_for(self, hparams: Any) -> EditMethod | None:
        """Return the registered method whose hyperparameter class ``hparams`` is an instance of, if any."""
        return next((method for method in self.methods if isinstance(hparams, method.hparams_class)), None)


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
            plugins.add(entry_point.load(), entry_point.name)
        except DuplicateNameError:
            raise
        except Exception as error:  # third-party code can raise anything
            plugins.broken[entry_point.name] = f"{type(error).__name__}: {error}"
            LOG.warning("plugin %r could not be loaded: %s", entry_point.name, error)
    return plugins
