"""Tests of what happens where an optional package is not installed."""

from __future__ import annotations

import importlib
from typing import Any

import pytest


def hide_package(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``importlib.import_module`` fail for a package and its modules."""
    import_module = importlib.import_module

    def import_other(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return import_module(name, *rest)

    monkeypatch.setattr(importlib, "import_module", import_other)
