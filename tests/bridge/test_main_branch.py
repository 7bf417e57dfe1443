"""The bridge's tests with a checkout of EasyEdit's main branch in place of the release.

EASYEDIT_MAIN=/path/to/EasyEdit pytest tests/bridge/test_main_branch.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import easyedit_lifelong

CHECKOUT = os.environ.get("EASYEDIT_MAIN")
HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(not CHECKOUT, reason="EASYEDIT_MAIN doesn't name a checkout of EasyEdit")


@pytest.mark.parametrize(
    "file",
    [
        "test_finder.py",
        "test_placeholders.py",
        "test_scoring.py",
        "test_registration.py",
        "test_datasets.py",
        "test_base_editor.py",
        "test_edit_calls.py",
        "test_main_grace.py",
        "test_main_methods.py",
        "test_method_names.py",
        "test_easyedit_memit.py",
        "test_easyedit_requirements.py",
        "test_easyedit_runs.py",
    ],
)
def test_the_bridges_tests_pass_with_the_main_branch(file: str) -> None:
    root = Path(easyedit_lifelong.__file__).parent.parent
    path = os.pathsep.join([str(CHECKOUT), str(root), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / file)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stdout + result.stderr
