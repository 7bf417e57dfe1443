"""Fixtures of all tests: tiny models, their tokenizer, a checkpoint, and a local Hub."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tests.support import thoroughness
from tests.support.local_hub import Hub, used
from tests.support.thoroughness import default_cases
from tests.support.tiny_models import (
    FAMILIES,
    build_model,
    build_tokenizer,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run all cases, not only those that cover every behaviour")


def pytest_configure(config: pytest.Config) -> None:
    thoroughness.full = config.getoption("--full")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the cases that run only with ``--full``."""
    if thoroughness.full:
        return
    deselected = [item for item in items if item.get_closest_marker("full")]
    config.hook.pytest_deselected(items=deselected)
    items[:] = [item for item in items if not item.get_closest_marker("full")]


# Mistral's and Qwen 2's blocks differ from Llama's only by a window, which Gemma 2 has, too, and by a bias.
@pytest.fixture(params=default_cases(sorted(FAMILIES), "gemma2", "gpt2", "gptj", "llama"))
def family(request: pytest.FixtureRequest) -> str:
    """Each model family."""
    return request.param


@pytest.fixture(autouse=True)
def _same_working_folder() -> Iterator[None]:
    """Fail a test that leaves this process in another folder, where the processes of later tests find no tests."""
    before = Path.cwd()
    yield
    after = Path.cwd()
    os.chdir(before)
    assert after == before


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture
def llama() -> Any:
    return build_model("llama")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder that holds a tiny Llama and its tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny-llama"
    build_model("llama").save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A local Hub, which the Hub client of this process uses."""
    with used(tmp_path) as server:
        yield server
