"""What a plugin may provide. Implement any of these with :data:`hookimpl`; see docs/plugins.md."""

from __future__ import annotations

from collections.abc import Callable

from pluggy import HookimplMarker, HookspecMarker

from easyedit_lifelong.registry import DatasetReader, EditMethod, TrackerType

PROJECT = "easyedit_lifelong"

hookspec = HookspecMarker(PROJECT)
hookimpl = HookimplMarker(PROJECT)


@hookspec
def register_methods(register: Callable[[EditMethod], None]) -> None:
    """Register editing methods; each becomes usable through EasyEdit's ``BaseEditor``."""


@hookspec
def register_readers(register: Callable[[DatasetReader], None]) -> None:
    """Register dataset formats for ``--format``."""


@hookspec
def register_trackers(register: Callable[[TrackerType], None]) -> None:
    """Register result trackers for ``--track``."""
