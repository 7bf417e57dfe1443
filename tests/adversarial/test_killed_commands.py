"""Every command that writes is killed at any moment: called again, it ends like a call that was not killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from easyedit_lifelong.commands.interruption import ONLY_READ, RESUMED_FROM
from easyedit_lifelong.commands.main import COMMANDS as ALL_COMMANDS
from tests.support.commands_that_write import COMMANDS, words_of
from tests.support.thoroughness import default_cases

ROOT = Path(__file__).resolve().parents[2]


_SOME = (1, ("edit in place", "merge", "rollback", "attribute", "new-method"))
_ALL = (15, tuple(COMMANDS))
"""The number of kills of each command, and the commands."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
@pytest.mark.parametrize(("kills", "names"), default_cases([_SOME, _ALL], _SOME), ids=["some", "all"])
def test_a_killed_command_can_be_called_again(kills: int, names: tuple[str, ...], tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "tests.support.command_killer", str(tmp_path), str(kills), *names]
    process = subprocess.run(words, capture_output=True, text=True, timeout=3600, check=False, env=env)
    assert process.returncode == 0, process.stderr[-4000:]
    report = json.loads(process.stdout.splitlines()[-1])
    assert list(report) == list(names)
    differing = {name: result["differing"] for name, result in report.items() if result["differing"]}
    assert not differing, json.dumps(differing)
    assert all(result["kills"] >= kills - 1 for result in report.values()), report
    assert all(result["points"] > 10 for result in report.values()), report


def test_every_command_that_writes_is_killed() -> None:
    """``serve`` changes its folder for as long as it runs; tests/serving/test_killed_servers.py kills it."""
    killed = {words_of(command.words)[0] for command in COMMANDS.values()}
    assert killed | {"serve"} == set(ALL_COMMANDS) - ONLY_READ


def test_an_interrupted_command_knows_the_file_from_which_it_is_resumed() -> None:
    resumed = {words_of(command.words)[0]: command.resumes for command in COMMANDS.values() if command.resumes}
    assert resumed.keys() == RESUMED_FROM.keys()
    assert all(file in RESUMED_FROM[verb] for verb, file in resumed.items())
