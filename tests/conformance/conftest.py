"""Fixtures of all conformance tests: the example plugin, a text for second moments, and trained methods."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from easyedit_lifelong import get_plugins
from tests.conformance.method_cases import example_plugin, write_inputs


@pytest.fixture(scope="session")
def moments_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the text, of second moments that the first edit of a session computes from it, and of artefacts."""
    return write_inputs(tmp_path_factory.mktemp("moments"))


@pytest.fixture(autouse=True)
def _current_folder(moments_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this folder the current folder: the paths in the methods' hyperparameters are relative."""
    monkeypatch.chdir(moments_folder)


@pytest.fixture(autouse=True, scope="package")
def _example_plugin() -> Iterator[None]:
    """Install the example plugin."""
    get_plugins.cache_clear()
    get_plugins().add(example_plugin(), "biasedit")
    yield
    get_plugins.cache_clear()
