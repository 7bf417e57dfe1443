"""The hooks that a plugin can implement with :data:`hookimpl`. docs/plugins.md has a tutorial."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pluggy import HookimplMarker, HookspecMarker

if TYPE_CHECKING:
    from easyedit_lifelong.methods.base import EditMethod
    from easyedit_lifelong.registry import (
        CovarianceEngine,
        DatasetReader,
        DeferredMethod,
        JudgeType,
        ModelMethod,
        RecordLoader,
        TrackerType,
    )

PROJECT = "easyedit_lifelong"

hookspec = HookspecMarker(PROJECT)
hookimpl = HookimplMarker(PROJECT)


@hookspec
def register_methods(register: Callable[[EditMethod | DeferredMethod], None]) -> None:
    """Register editing methods. Each can then be used through EasyEdit's ``BaseEditor`` and in this package's runs."""


@hookspec(firstresult=True)
def complete_method(method: EditMethod) -> EditMethod | None:
    """Return a copy of a method, completed with functions that follow from its ports; None if nothing is to be added.

    Called once for each method: before it is registered or, for a ``DeferredMethod``, when it is loaded.
    """


@hookspec
def register_readers(register: Callable[[DatasetReader], None]) -> None:
    """Register dataset formats, selected with ``--format``."""


@hookspec
def register_loaders(register: Callable[[RecordLoader], None]) -> None:
    """Register loaders that replace the native loader of a dataset format."""


@hookspec
def register_covariance_engines(register: Callable[[CovarianceEngine], None]) -> None:
    """Register engines that collect second moments, selected with ``covariance --engine``."""


@hookspec
def register_trackers(register: Callable[[TrackerType], None]) -> None:
    """Register result trackers, selected with ``--track``."""


@hookspec
def register_judges(register: Callable[[JudgeType], None]) -> None:
    """Register judges of generated answers, selected with ``--judge``."""


@hookspec
def register_model_methods(register: Callable[[ModelMethod], None]) -> None:
    """Register functions that every edited model gets as methods, such as ``model.save_edits``."""
