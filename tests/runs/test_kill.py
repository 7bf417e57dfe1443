"""A run that is killed at any moment and taken up ends like one that was never killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import thoroughness

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
@pytest.mark.parametrize("method", ["GRACE", "GRACE by subject", "CoachHook"])
def test_a_killed_run_resumes_and_ends_as_one_that_was_not_killed(method: str, tmp_path: Path) -> None:
    """Real processes and SIGKILL: codebook or hook weights, journal and every metric are the same."""
    moments = 0 if thoroughness.full else 6
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "tests.support.run_killer", method, str(tmp_path), str(moments)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=3600, check=False, env=env)
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["wrong"] == []
    assert report["killed"] >= (moments or report["points"]), "only those that are killed at a time may end before"
    assert report["points"] > 30
    if method != "CoachHook":
        assert set(report["status"]) == {"edited", "failed", "skipped"}
        assert {"add", "supersede"} <= set(report["decisions"])
