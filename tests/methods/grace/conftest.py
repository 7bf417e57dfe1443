"""Fixtures of the tests of GRACE."""

from __future__ import annotations

import pytest

from tests.support.subjects import MODES


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """Where an edit found by subject puts its value: at the subject (simple) or at the prompt's end (late)."""
    return str(request.param)
