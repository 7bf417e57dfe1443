"""The loaders of zsRE and CounterFact files: EasyEdit's, and the native ones."""

from __future__ import annotations

import pytest

from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.registry import Registry
from tests.support.installed_easyedit import skip_without_easyedit


def use_loader(loader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read files with EasyEdit's loaders, or with the native ones, as a process without EasyEdit does."""
    if loader == "native":
        monkeypatch.setattr(get_plugins(), "loaders", Registry("record loader"))
    else:
        skip_without_easyedit()
