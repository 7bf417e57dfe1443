"""Processes that change served edits are killed: no acknowledged version is lost, and none is half there."""

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
def test_a_killed_server_has_every_acknowledged_version(tmp_path: Path) -> None:
    kills = 50 if thoroughness.full else 4
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.support.server_killer", str(tmp_path), str(kills)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False, env=env)
    assert process.returncode == 0, process.stderr[-4000:]
    report = json.loads(process.stdout.splitlines()[-1])
    assert report["wrong"] == []
    assert report["killed"] == kills
    assert report["points"] > 60
