"""Fixtures of the tests of GRACE's calibration."""

from __future__ import annotations

from pathlib import Path

import pytest

from easyedit_lifelong import GraceHyperParams
from tests.support.calibration_records import values


@pytest.fixture
def hparams(tmp_path: Path) -> GraceHyperParams:
    """Hyperparameters to calibrate, with a small corpus for second moments."""
    return GraceHyperParams.from_values(values(tmp_path, "tiny"), "test")
