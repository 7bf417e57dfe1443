"""What a plugin may provide. Implement any of these with :data:`hookimpl`; see docs/plugins.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pluggy import HookimplMarker, HookspecMarker

if TYPE_CHECKING:
    from easyedit_lifelong.methods.base import EditMethod
    from easyedit_lifelong.registry import CovarianceEngine, DatasetReader, ModelMethod, RecordLoader, TrackerType

PROJECT = "easyedit_lifelong"

hookspec = HookspecMarker(PROJECT)
hookimpl = HookimplMarker(PROJECT)


@hookspec
def register_methods(register: Callable[[EditMethod], None]) -> None:
    """Register editing methods; each becomes usable through EasyEdit's ``BaseEditor``."""


@hookspec(firstresult=True)
def complete_method(method: EditMethod) -> EditMethod | None:
    """Return a method that is being registered with what its ports imply; None to leave it as it is."""


@hookspec
def register_readers(register: Callable[[DatasetReader], None]) -> None:
    """Register dataset formats for ``--format``."""


@hookspec
def register_loaders(register: Callable[[RecordLoader], None]) -> None:
    """Register loaders that read the files of a format in place of its native loader."""


@hookspec
def register_covariance_engines(register: Callable[[CovarianceEngine], None]) -> None:
    """Register engines that collect second moments, for ``covariance --engine``."""


@hookspec
def register_trackers(register: Callable[[TrackerType], None]) -> None:
    """Register result trackers for ``--track``."""


@hookspec
def register_model_methods(register: Callable[[ModelMethod], None]) -> None:
    """Register functions that every edited model gets as methods, such as ``model.save_edits``."""
