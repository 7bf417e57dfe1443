"""How EasyEdit is found and imported."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import easyedit_lifelong
from easyedit_lifelong.bridge import (
    EasyEditInfo,
    easyedit_location,
    install,
    install_hint,
    require_easyedit,
)
from easyedit_lifelong.bridge.finder import EasyEditFinder
from easyedit_lifelong.bridge.placeholders import MissingPackageError, Placeholder
from easyedit_lifelong.errors import EasyEditMissingError
from tests.support.installed_easyedit import needs_easyedit

ROOT = Path(easyedit_lifelong.__file__).parent.parent

# Puts a finder in place that hides any installed EasyEdit.
HIDE = """
import sys, importlib.machinery
class Hidden(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "easyeditor" else super().find_spec(name, path, target)
sys.meta_path[:] = [Hidden if f is importlib.machinery.PathFinder else f for f in sys.meta_path
                    if not type(f).__module__.startswith("__editable__")]
"""


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs a script in a new interpreter and returns its output."""

    def run(script: str, *folders: Path) -> str:
        path = os.pathsep.join([*map(str, folders), str(ROOT), os.environ.get("PYTHONPATH", "")])
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    return run


@pytest.fixture
def checkout(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a small package called ``easyeditor`` and returns its parent folder."""

    def write(**files: str) -> Path:
        root = tmp_path / "checkout"
        for name, source in {
            "__init__": "from .editors import *\nfrom .extra import *\n",
            "editors/__init__": "from .editor import *\n",
            "editors/batch_editor": "class BatchEditor:\n    is_batchable_method = staticmethod(lambda n: n == 'FT')\n",
            "editors/editor": "from ..util.alg_dict import *\nclass BaseEditor:\n    def edit(self): ...\n",
            "evaluate/__init__": "",
            "evaluate/evaluate_utils": "def test_prediction_acc(model, tok, hparams, prompts, targets, device): ...\n",
            "util/__init__": "",
            "util/alg_dict": "ALG_DICT = {}\n",
            "extra": "",
            **{name.replace("__", "/"): source for name, source in files.items()},
        }.items():
            file = root / "easyeditor" / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(source)
        return root

    return write


def test_importing_the_package_imports_no_large_library(python: Callable[..., str]) -> None:
    large = '{"torch", "transformers", "easyeditor", "numpy"}'
    assert python(f"import sys, easyedit_lifelong; print({large} & set(sys.modules))") == "set()"


def test_installing_twice_adds_one_finder() -> None:
    install()
    install()
    assert sum(isinstance(finder, EasyEditFinder) for finder in sys.meta_path) == 1
    assert EasyEditFinder().find_spec("easyeditor_other") is None
    assert EasyEditFinder().find_spec("json") is None


def test_a_missing_easyedit_is_an_import_error_with_install_hints(python: Callable[..., str]) -> None:
    out = python(
        HIDE
        + """
import importlib.util
import easyedit_lifelong
from easyedit_lifelong import errors
from easyedit_lifelong.bridge import base_editor, find_easyedit, require_easyedit
print(find_easyedit(), importlib.util.find_spec("easyeditor"))
def importing():
    import easyeditor
for call in (importing, require_easyedit, base_editor):
    try:
        call()
    except errors.EasyEditMissingError as error:
        print(isinstance(error, ImportError), error.name, "--no-deps easyeditor==0.0.1.dev0" in str(error),
              "https://github.com/zjunlp/EasyEdit" in str(error))
"""
    )
    assert out.splitlines() == ["None None"] + ["True easyeditor True True"] * 3


@needs_easyedit
def test_find_easyedit_does_not_import_it(python: Callable[..., str]) -> None:
    out = python("""
        import sys
        from easyedit_lifelong.bridge import find_easyedit
        info = find_easyedit()
        print(info.flavour, (info.folder / "__init__.py").is_file(), "easyeditor" in sys.modules)
    """)
    assert out == f"{require_easyedit().flavour} True False"


def test_the_install_hint_names_pip_and_git() -> None:
    assert "pip install --no-deps" in install_hint()
    assert "git clone" in install_hint()


def test_importing_easyedit_changes_no_global_state(easyeditor: Any, python: Callable[..., str]) -> None:
    out = python("""
        import contextlib, logging, os, random
        import numpy, torch, transformers
        with contextlib.suppress(ImportError):
            import datasets  # EasyEdit imports it where it is installed; its effects aren't EasyEdit's
        import easyedit_lifelong
        def state():
            root = logging.getLogger()
            return (random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist(),
                    torch.initial_seed(), list(root.handlers), root.level, dict(os.environ),
                    os.listdir("."))
        before = state()
        import easyeditor
        print(state() == before, len(torch.cuda._queued_calls) if hasattr(torch.cuda, "_queued_calls") else "")
    """)
    assert out.startswith("True")


def test_importing_easyedit_changes_no_file(easyeditor: Any, python: Callable[..., str]) -> None:
    folder = require_easyedit().folder

    def state() -> dict[str, str]:
        return {str(f): hashlib.sha1(f.read_bytes()).hexdigest() for f in folder.rglob("*") if f.is_file()}

    before = state()
    python("import easyedit_lifelong, easyeditor; easyeditor.BaseEditor")
    assert state() == before


def test_line_numbers_point_into_the_real_file(easyeditor: Any) -> None:
    code = inspect.unwrap(easyeditor.BaseEditor.edit).__code__
    line = Path(code.co_filename).read_text(encoding="utf-8").splitlines()[code.co_firstlineno - 1]
    assert line.strip().startswith("def edit(")


def test_a_failing_submodule_leaves_the_rest_usable(python: Callable[..., str], checkout: Callable[..., Path]) -> None:
    root = checkout(
        extra="from .broken import *\nfrom .broken import Late, Never\nclass Child(Late): pass\nkept = 1\n",
        broken="first = 1\nraise RuntimeError('too old')\ndef Late(): ...\n",
    )
    out = python(
        """
        import easyedit_lifelong, easyeditor
        print(easyeditor.first, easyeditor.kept)
        for use in (easyeditor.Late, easyeditor.Never, easyeditor.Child):
            try:
                use()
            except ImportError as error:
                print(error)
    """,
        root,
    )
    lines = out.splitlines()
    assert lines[0] == "1 1"
    assert len(lines) == 4
    assert all("easyeditor.broken can't be imported here: RuntimeError: too old" in line for line in lines[1:])


def test_a_failing_core_module_is_an_error_with_its_folder(
    python: Callable[..., str], checkout: Callable[..., Path]
) -> None:
    root = checkout(util__alg_dict="raise RuntimeError('no methods')")
    out = python(
        """
        import easyedit_lifelong
        try:
            import easyeditor
        except easyedit_lifelong.errors.EasyEditMissingError as error:
            print(error)
    """,
        root,
    )
    assert "can't be imported: RuntimeError: no methods" in out
    assert str(root) in out


def test_an_unrecognised_easyedit_has_an_unknown_flavour(
    python: Callable[..., str], checkout: Callable[..., Path]
) -> None:
    script = "from easyedit_lifelong.bridge import find_easyedit as f; print(f().flavour, f().version)"
    assert python(script, checkout()) == "unknown None"


def test_methods_are_registered_in_an_easyedit_that_was_imported_first(
    python: Callable[..., str], checkout: Callable[..., Path]
) -> None:
    out = python(
        """
        import easyeditor
        assert not easyeditor.ALG_DICT
        import easyedit_lifelong
        print(sorted(easyeditor.ALG_DICT))
    """,
        checkout(),
    )
    assert "GRACE" in out


def test_methods_that_need_a_missing_package_name_it(release: Any) -> None:
    hparams = importlib.import_module("easyeditor.models.ft_api.ft_api_main")
    if not isinstance(hparams.openai, Placeholder):
        pytest.skip("openai is installed")
    with pytest.raises(MissingPackageError, match=r"FT-Api.* pip install openai"):
        hparams.openai.File.create()


def test_another_package_of_that_name_is_left_alone(python: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "easyeditor.py").write_text("mine = 1")
    assert python("import easyedit_lifelong, easyeditor; print(easyeditor.mine)", tmp_path) == "1"
    assert python("import easyeditor, easyedit_lifelong; print(easyeditor.mine)", tmp_path) == "1"


def test_an_easyedit_that_cannot_be_imported_is_reported_with_a_hint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(easyedit_location, "require_easyedit", lambda: EasyEditInfo("unknown", None, tmp_path))
    monkeypatch.setitem(sys.modules, "easyeditor", None)
    with pytest.raises(EasyEditMissingError, match=r"can't be imported: .*doctor` shows more"):
        easyedit_location.import_easyedit()
