"""Tests that need EasyEdit are skipped where it isn't installed."""

from __future__ import annotations

import pytest

from easyedit_lifelong.bridge import find_easyedit

_REASON = "EasyEdit isn't installed (pip install --no-deps easyeditor==0.0.1.dev0)"

needs_easyedit = pytest.mark.skipif(find_easyedit() is None, reason=_REASON)
"""A mark for tests that need EasyEdit."""


def skip_without_easyedit() -> None:
    """Skip the calling test or fixture if EasyEdit isn't installed."""
    if find_easyedit() is None:
        pytest.skip(_REASON)
