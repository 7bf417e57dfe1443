"""``--print-completion``: bash completes commands, options, choices and files with the script."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from easyedit_lifelong.commands.completion import SHELLS
from tests.support.command_line import call

_COMPLETE = """
source script.bash
COMP_WORDS=({words} ''); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
[ -z "{partial}" ] || COMP_WORDS[COMP_CWORD]={partial}
COMP_LINE="${{COMP_WORDS[*]}}"; COMP_POINT=${{#COMP_LINE}}
_shtab_easyedit_lifelong 2>/dev/null
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder with the script for bash, and a data file."""
    code, out, err = call(capsys, "--print-completion", "bash")
    assert (code, err) == (0, "")
    (tmp_path / "script.bash").write_text(out)
    (tmp_path / "facts.json").write_text("[]")
    return tmp_path


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "partial", "expected"),
    [
        ("", "roll", {"rollback"}),
        ("rollback", "--to", {"--to-batch"}),
        ("covariance --dtype", "", {"float32", "float64"}),
        ("lifelong --data", "fa", {"facts.json"}),
        ("new-method", "--o", {"--out"}),
    ],
)
def test_bash_completes(script: Path, words: str, partial: str, expected: set[str]) -> None:
    command = _COMPLETE.format(words=f"easyedit-lifelong {words}", partial=partial)
    run = subprocess.run(["bash", "-c", command], cwd=script, capture_output=True, text=True, check=True)
    assert expected <= set(run.stdout.split()), run.stdout
    if partial:
        assert all(word.startswith(partial) for word in run.stdout.split())


@pytest.mark.parametrize("shell", [shell for shell in SHELLS if shell != "bash"])
def test_each_shell_has_a_script_with_all_commands(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "--print-completion", shell)
    assert (code, err) == (0, "")
    assert all(word in out for word in ("lifelong", "new-method"))
    assert shell == "tcsh" or "resume" in out  # for tcsh, there are no options of commands


def test_an_unknown_shell_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "--print-completion", "dos")
    assert code == 2
    assert "invalid choice: 'dos'" in err
