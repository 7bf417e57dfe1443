"""Models whose prompt ends are recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.position_recorder import PositionRecorder
from tests.support.tiny_models import build_model


@pytest.fixture
def recorder(llama: Any) -> Iterator[PositionRecorder]:
    """A tiny Llama."""
    recorder = PositionRecorder(llama)
    yield recorder
    recorder.close()


@pytest.fixture
def family_recorder(family: str) -> Iterator[PositionRecorder]:
    """A tiny model of each family."""
    recorder = PositionRecorder(build_model(family))
    yield recorder
    recorder.close()
