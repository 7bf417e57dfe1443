"""Texts, and a tiny Llama whose second moments are stored under a name."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.second_moments import make_texts


@pytest.fixture
def texts() -> list[str]:
    """Thirty random texts."""
    return make_texts(30)


@pytest.fixture
def model(llama: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tiny Llama with the name ``org/tiny``."""
    monkeypatch.setattr(llama.config, "_name_or_path", "org/tiny")  # configurations are shared by all tests
    return llama


@pytest.fixture
def no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every collection fail."""

    def fail(*_: Any) -> None:
        raise AssertionError("second moments were collected")

    monkeypatch.setattr("easyedit_lifelong.covariance.native_engine._read_blocks", fail)
