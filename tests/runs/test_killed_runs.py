"""Runs of real methods in processes that are killed with SIGKILL at any moment, and resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import thoroughness
from tests.support.thoroughness import default_cases

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
@pytest.mark.parametrize("method", default_cases(["GRACE", "GRACE by subject", "CoachHook"], "GRACE", "CoachHook"))
def test_a_killed_run_resumes_and_ends_like_an_uninterrupted_one(method: str, tmp_path: Path) -> None:
    """Codebook or hook weights, journal and every metric are the same."""
    moments = 0 if thoroughness.full else 6
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.support.run_killer", method, str(tmp_path), str(moments)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False, env=env)
    assert process.returncode == 0, process.stderr[-4000:]
    report = json.loads(process.stdout.splitlines()[-1])
    assert report["wrong"] == []
    assert report["killed"] >= (moments or report["points"]), (
        "only a run that is killed at a time, not at a call, may end before its kill"
    )
    assert report["points"] > 30
    if method != "CoachHook":
        assert set(report["status"]) == {"edited", "failed", "skipped"}
        assert {"add", "supersede"} <= set(report["decisions"])
