"""Registered methods with other properties, for one test."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.registry import Registry


def replace_method(monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> EditMethod:
    """Register a method with some fields changed until the end of the test; return the changed method."""
    plugins = get_plugins()
    registry: Registry[EditMethod] = Registry(plugins.methods.kind, plugins.methods.entry_class)
    for method in plugins.methods:
        origin = plugins.methods.origin(method.name)
        registry.add(dataclasses.replace(method, **changes) if method.name == name else method, origin)
    monkeypatch.setattr(plugins, "methods", registry)
    return registry.get(name)
