"""The loaders of zsRE and CounterFact files: EasyEdit's, and the native ones."""

from __future__ import annotations

import pytest

from tests.support.record_loaders import use_loader


@pytest.fixture(params=["easyedit", "native"])
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Read with each of the two loaders."""
    use_loader(request.param, monkeypatch)
    return request.param


@pytest.fixture
def native_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read zsRE and CounterFact files natively."""
    use_loader("native", monkeypatch)
