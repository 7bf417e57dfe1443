"""What every conformance test needs: the example plugin is installed, and there is a text for second moments."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from easyedit_lifelong import get_plugins
from tests.conformance.method_cases import example_plugin
from tests.conftest import WORDS


def write_corpus(folder: Path) -> Path:
    """Write the text that second moments are taken of; return the folder."""
    draw = random.Random(0)
    text = "\n\n".join(" ".join(draw.choices(WORDS, k=40)) for _ in range(40))
    (folder / "corpus.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def moments_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the text and of the second moments, which the first edit of a session computes."""
    return write_corpus(tmp_path_factory.mktemp("moments"))


@pytest.fixture(autouse=True)
def _current_folder(moments_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(moments_folder)


@pytest.fixture(autouse=True, scope="package")
def _example_plugin() -> Iterator[None]:
    """Install the example plugin."""
    get_plugins.cache_clear()
    get_plugins().add(example_plugin(), "biasedit")
    yield
    get_plugins.cache_clear()
