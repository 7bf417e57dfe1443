"""``new-method``: the plugin that it makes keeps the contracts of every method, and names that it refuses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from easyedit_lifelong.commands.new_method import MethodNames
from tests.support.command_line import call

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plugin that the command made."""
    folder = tmp_path_factory.mktemp("made") / "my plugin"
    command = [sys.executable, "-m", "easyedit_lifelong", "new-method", "My-Edit", "--out", str(folder)]
    found = os.environ | {"PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))}
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=found)
    assert made.returncode == 0, made.stderr
    assert f"  python -m pip install --editable '{folder}[dev]'\n  python -m pytest '{folder}'\n" in made.stdout
    return folder


def install(plugin: Path, site: Path) -> None:
    """Put a plugin's package and its entry points into a folder, as pip does."""
    shutil.copytree(plugin / "easyedit_lifelong_myedit", site / "easyedit_lifelong_myedit")
    project = (plugin / "pyproject.toml").read_text(encoding="utf-8")
    match = re.search(r'^\[project\.entry-points\.easyedit_lifelong\]\n(\w+) = "([\w.]+)"$', project, re.MULTILINE)
    assert match is not None
    information = site / "easyedit_lifelong_myedit-0.1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: easyedit-lifelong-myedit\nVersion: 0.1.0\n")
    (information / "entry_points.txt").write_text(f"[easyedit_lifelong]\n{match[1]} = {match[2]}\n")


def run_tests(*words: str, site: Path) -> str:
    """Run pytest in a new process that finds an installed plugin; return its output."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]),
        "CONFORMANCE_CASE": "easyedit_lifelong_myedit:MyEditHyperParams",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_the_plugin_passes_its_tests_and_the_conformance_table(plugin: Path, tmp_path: Path) -> None:
    install(plugin, tmp_path)
    modules = [f"tests/conformance/test_conformance_{name}.py" for name in ("batches", "edits", "ports")]
    output = run_tests(str(plugin / "tests"), *modules, "-k", "My-Edit or test_myedit", site=tmp_path)
    (passed,) = re.findall(r"(\d+) passed", output)
    assert int(passed) >= 18 + 20, output


@pytest.mark.full
def test_the_plugins_runs_and_folders_pass_the_conformance_table(plugin: Path, tmp_path: Path) -> None:
    install(plugin, tmp_path)
    run_tests("tests/conformance/test_conformance_folders.py", "-k", "My-Edit", site=tmp_path)


def test_no_name_of_the_template_is_left(plugin: Path) -> None:
    files = [path for path in plugin.rglob("*") if path.is_file()]
    assert {path.relative_to(plugin).as_posix() for path in files} >= {
        "pyproject.toml",
        "README.md",
        "hparams/smollm2-135m.yaml",
        "easyedit_lifelong_myedit/editor.py",
        "tests/test_myedit.py",
    }
    for path in files:
        assert not re.search("template-?edit", f"{path}{path.read_text(encoding='utf-8')}", re.IGNORECASE), path


def test_names_are_derived_from_the_methods_name() -> None:
    names = MethodNames("my-edit2")
    assert (names.class_prefix, names.word, names.package) == ("MyEdit2", "myedit2", "easyedit_lifelong_myedit2")
    assert names.fill_in("Template-Edit TemplateEdit templateedit") == "my-edit2 MyEdit2 myedit2"


def test_a_name_may_contain_a_name_of_the_template() -> None:
    names = MethodNames("MyTemplateEdit")
    assert names.fill_in("Template-Edit TemplateEdit templateedit") == "MyTemplateEdit MyTemplateEdit mytemplateedit"
    assert MethodNames("Template-Edit-templateedit").fill_in("Template-Edit") == "Template-Edit-templateedit"


@pytest.mark.parametrize("name", ["", "2Edit", "My Edit", "my_edit", "../x", "My--Edit", "-x-", "Édit"])
def test_a_name_with_other_characters_is_refused(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, error = call(capsys, "new-method", "--", name)
    assert code == 1
    assert "can't be the name of a method: a name begins with a letter" in error
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_a_registered_method_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = call(capsys, "new-method", "alphaedit")
    assert code == 1
    assert "easyedit_lifelong.methods.alphaedit.plugin has registered a method AlphaEdit. Choose another name." in error


def test_a_folder_with_files_is_not_changed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    code, _, error = call(capsys, "new-method", "MyEdit", "--out", tmp_path)
    assert code == 1
    assert f"{tmp_path}: holds mine.txt already; nothing will be overwritten" in error
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
