"""Fixtures of MEMIT's tests."""

from __future__ import annotations

import pytest

from easyedit_lifelong.methods.locate_edit import editor as editing
from tests.support.coachhook_edits import moments_for


@pytest.fixture
def given_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give editors second moments of random keys, so that they compute none."""
    monkeypatch.setattr(editing, "second_moments", lambda model, _, hparams: moments_for(model, hparams))
