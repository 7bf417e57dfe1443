"""``doctor``: its findings, its advice, and its exit code."""

from __future__ import annotations

import importlib.util
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import bridge
from easyedit_lifelong.bridge.easyedit_location import EasyEditInfo
from easyedit_lifelong.commands import doctor
from easyedit_lifelong.commands.doctor import Finding, print_findings, run_checks
from easyedit_lifelong.commands.main import main
from easyedit_lifelong.errors import EasyEditMissingError
from easyedit_lifelong.models.packaged_models import DEFAULT_MODEL, PACKAGED_MODELS
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.reporting.runnable_commands import runnable
from tests.support.installed_easyedit import needs_easyedit


@pytest.fixture(autouse=True)
def terminal_and_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A wide terminal, and an empty cache."""
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("EASYEDIT_LIFELONG_CACHE", str(tmp_path / "cache"))


def _findings() -> dict[str, Finding]:
    return {finding.what: finding for finding in run_checks()}


@needs_easyedit
def test_a_complete_installation_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    info = bridge.find_easyedit()
    assert info is not None
    for part in (torch.__version__, metadata.version("transformers"), info.flavour, str(info.folder), "cpu", "GRACE"):
        assert part in out
    assert "missing" not in out


def test_a_missing_package_fails_with_its_install_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = metadata.version

    def version(name: str) -> str:
        if name == "accelerate":
            raise metadata.PackageNotFoundError(name)
        return original(name)

    monkeypatch.setattr(metadata, "version", version)
    assert main(["doctor"]) == 1
    assert "pip install accelerate" in capsys.readouterr().out


def test_every_required_package_is_checked() -> None:
    """``doctor`` checks each package that pyproject.toml requires."""
    try:
        required = metadata.requires("easyedit-lifelong") or []
    except metadata.PackageNotFoundError:
        pyproject = Path(__file__).parents[2] / "pyproject.toml"
        tomllib = pytest.importorskip("tomllib")
        required = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    names = {re.split(r"[^\w-]", text)[0] for text in required if "extra ==" not in text}
    assert names <= set(_findings())


def test_a_missing_easyedit_fails_with_both_ways_to_install_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "find_easyedit", lambda: None)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "pip install --no-deps easyeditor==0.0.1.dev0" in out
    assert "git clone https://github.com/zjunlp/EasyEdit" in out
    assert "Traceback" not in out


def test_an_easyedit_that_cannot_be_imported_is_a_registration_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail() -> None:
        raise EasyEditMissingError("EasyEdit can't be imported: no module named 'higher'")

    monkeypatch.setattr(bridge, "find_easyedit", lambda: EasyEditInfo("main", None, tmp_path))
    monkeypatch.setattr(bridge, "base_editor", fail)
    findings = _findings()
    assert findings["easyeditor"].ok
    assert str(tmp_path) in findings["easyeditor"].state
    assert not findings["registration"].ok
    assert "higher" in findings["registration"].state


@needs_easyedit
def test_any_error_of_easyedits_import_is_a_finding_and_stops_no_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout in the middle of a merge can raise any error; the other checks must still run."""

    def fail() -> None:
        raise SyntaxError("<<<<<<< HEAD")

    monkeypatch.setattr(bridge, "base_editor", fail)
    findings = _findings()
    assert not findings["registration"].ok
    assert "<<<<<<< HEAD" in findings["registration"].state
    assert "plugins" in findings, "the checks after it didn't run"


@needs_easyedit
def test_the_demo_model_is_not_required(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model, find_spec = PACKAGED_MODELS[DEFAULT_MODEL], importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == model.package else find_spec(name))
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert runnable(model.install_command) in out


def test_the_cache_is_shown_with_its_size(tmp_path: Path) -> None:
    assert "(0 MB)" in _findings()["cache"].state
    (tmp_path / "cache" / "models").mkdir(parents=True)
    (tmp_path / "cache" / "models" / "weights").write_bytes(b"x" * 3_000_000)
    assert _findings()["cache"].state == f"{tmp_path / 'cache'} (3 MB)"


def test_a_broken_plugin_is_listed_and_not_required(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(get_plugins().broken, "theirs", "ImportError: no module named 'flash_editing'")
    finding = _findings()["plugins"]
    assert (finding.ok, finding.required) == (False, False)
    assert finding.state == "theirs: ImportError: no module named 'flash_editing'"
    assert main(["plugins"]) == 0
    assert "flash_editing" in capsys.readouterr().out


@pytest.mark.parametrize("state", ["[Errno 2] No such file", "OSError: [/tmp/x] is gone", "list[int]", "a [bold]b"])
def test_brackets_in_findings_are_printed_unchanged(capsys: pytest.CaptureFixture[str], state: str) -> None:
    """Rich would read brackets in error messages and paths as markup."""
    print_findings([Finding("thing", False, state, f"correct {state}"), Finding("fine", True, "1.0")])
    out = capsys.readouterr().out
    (row,) = (line for line in out.splitlines() if line.startswith("missing"))
    assert row.endswith(f"thing  {state}")
    assert f"thing: correct {state}" in out


def test_brackets_in_a_broken_plugins_message_are_printed_unchanged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(get_plugins().broken, "theirs", "OSError: [/tmp/x] is gone")
    assert main(["plugins"]) == 0
    assert "[/tmp/x] is gone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([Finding("a", True, "1")], 0),
        ([Finding("a", True, "1"), Finding("b", False, "none", required=False)], 0),
        ([Finding("a", False, "none", "get a")], 1),
    ],
)
def test_only_a_failed_required_check_makes_the_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, findings: list[Any], code: int
) -> None:
    monkeypatch.setattr(doctor, "run_checks", lambda: findings)
    assert main(["doctor"]) == code
