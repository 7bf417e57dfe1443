"""The loaders of zsRE and CounterFact files: EasyEdit's, and the native ones."""

from __future__ import annotations

import pytest

from easyedit_lifelong.bridge import find_easyedit
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.registry import Registry


def use_loader(loader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read files with EasyEdit's loaders, or with the native ones, as a process without EasyEdit does."""
    if loader == "native":
        monkeypatch.setattr(get_plugins(), "loaders", Registry("record loader"))
    elif find_easyedit() is None:
        pytest.skip("EasyEdit isn't installed (pip install --no-deps easyeditor==0.0.1.dev0)")
